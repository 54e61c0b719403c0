"""Certificates: the gradient of `Phi(x) = f(x, y*(x))` at one x, to a stated accuracy."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from bilevel.calculus import gradient_and_hessian, products
from bilevel.feasible import face, projected_gradient
from bilevel.hypergradient import as_variables, stationarity
from bilevel.linear import cg, relative_norm
from bilevel.sampling import Host
from bilevel.types import Batch, Problem, PyTree, require

tree = optax.tree

# Errors below this share of the gradient are small.
SMALL = 0.1
PREFIX = "certified_"


class Certificate(NamedTuple):
    """The gradient of Phi at one x, and how well it is known.

    Attributes:
      gradient_norm: norm of the gradient of Phi, of the projected gradient with an outer projection.
      error: estimate of the error of this gradient: its change by one more Newton step on g and by one
        refinement of the adjoint.
      inner_residual: norm of the (projected) g_y where the gradient was computed.
      linear_residual: `||f_y - H v|| / ||f_y||` there.
      scale: `||f_x|| + ||J v||`, the size of the two terms whose sum is the gradient.
      bias: norm of the difference to the gradient that implicit differentiation gives at the y of the
        caller, which does not solve the inner problem exactly.
      accurate: whether `error` is at most the accuracy times `scale`, and the adjoint system is solved.
    """

    gradient_norm: Any
    error: Any
    inner_residual: Any
    linear_residual: Any
    scale: Any
    bias: Any
    accurate: Any

    def metrics(self) -> dict[str, Any]:
        """Return the entries of a history."""
        names = "gradient_norm", "error", "inner_residual", "linear_residual"
        return {PREFIX + name: getattr(self, name) for name in names}


def certificate(
    problem: Problem,
    x: PyTree,
    y: PyTree,
    batch: Batch,
    *,
    accuracy: float | None = None,
    inner_steps: int = 50,
    linear_steps: int = 200,
) -> Certificate:
    """Compute the gradient of Phi at x on the whole data, and estimate its error.

        y <- y - t d,  H d = g_y by CG,  t by backtracking on g     until ||g_y|| no longer falls
        H v = f_y by CG, refined once;   gradient = f_x - J v

    It needs no step size of the user.

    Args:
      problem: the two losses.
      x: outer variable.
      y: start of the inner solve; where g has several minima, the one below y counts.
      batch: two sources with a whole set, from `full` or `minibatches`.
      accuracy: error that is allowed, relative to `scale`; default: the square root of the machine precision.
      inner_steps: largest number of Newton steps.
      linear_steps: largest number of steps of each linear solve.

    Returns:
      A `Certificate` of arrays.

    Raises:
      ValueError: if a source has no whole set, or a number is out of range.

    Cost: on the whole data, at most `inner_steps` linear solves of at most `linear_steps` Hessian products
    each, and five linear solves more.

    >>> from bilevel import full
    >>> shift = Problem(lambda x, y, batch: 0.5 * (y - 3) ** 2, lambda x, y, batch: 0.5 * (y - x) ** 2)
    >>> round(float(certificate(shift, 1.0, 0.0, full(None, None)).gradient_norm), 5)
    2.0
    """
    _require_settings(accuracy, inner_steps, linear_steps)
    _require_whole(batch)
    x, y = as_variables(x, y)
    return _measure(problem, x, y, batch, accuracy, inner_steps, linear_steps, False)


class Certify(NamedTuple):
    """Request to `run` for certificates along a run.

    Attributes:
      problem: the problem that the algorithm solves.
      every: steps between two certificates, a multiple of `log_every`; the last step has one too.
      accuracy, inner_steps, linear_steps: see `certificate`.
    """

    problem: Problem
    every: int
    accuracy: float | None = None
    inner_steps: int = 50
    linear_steps: int = 200

    def require(self, data: Batch, log_every: int) -> None:
        """Raise `ValueError` unless the data have a whole set and the settings fit."""
        rule = f"every must be a multiple of log_every ({log_every}), since log points carry the certificates"
        require(self.every >= 1 and self.every % log_every == 0, rule, self.every)
        _require_settings(self.accuracy, self.inner_steps, self.linear_steps)
        _require_whole(data)

    def measure(self, state: Any, data: Batch, seeds: bool) -> Certificate:
        """Return the certificate at a state of a run, one for each of several seeds."""
        found = _measure(
            self.problem, state.x, state.y, data, self.accuracy, self.inner_steps, self.linear_steps, seeds
        )
        return jax.device_get(found)


def unmeasured(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a history at a log point without a certificate: NaN."""
    missing = np.full(np.shape(metrics["outer_loss"]), np.nan)
    return Certificate(*[missing] * len(Certificate._fields)).metrics()


def reached(found: Certificate, tolerance: float) -> bool:
    """Return whether every gradient is known to the accuracy and at most `tolerance` long."""
    return bool(np.all(found.accurate & (found.gradient_norm <= tolerance)))


def missed(found: Certificate, tolerance: float) -> list[str]:
    """Return the sentence on a run that ended at a known gradient above the tolerance."""
    norm = np.max(np.where(found.accurate, found.gradient_norm, 0))
    if norm <= tolerance:
        return []
    return [
        f"the run ended at a gradient norm of {norm:.3g}, above the tolerance {tolerance:g}; make more steps"
    ]


def judge(found: Certificate, metrics: dict[str, Any], tolerance: float | None = None) -> list[str]:
    """Return what makes the gradient of an algorithm wrong at a certificate, each with its remedy.

    Args:
      found: the certificate.
      metrics: metrics of the algorithm at the same state.
      tolerance: gradient norm below which an error needs not be small compared with the gradient.
    """
    rules = []
    if not np.all(found.accurate):
        rules.append(
            "the gradient of Phi is not known: its certificate has a linear residual of "
            f"{np.max(found.linear_residual):.1g}, and one more Newton step changes it by "
            f"{_worst(found.error, found.gradient_norm):.0%}; add an L2 term to g, or raise `linear_steps` "
            "and `inner_steps` of `Certify`"
        )
        return rules
    # A gradient that is zero to the accuracy has no direction to be wrong about.
    zero = found.gradient_norm <= 10 * found.error
    small = zero if tolerance is None else zero | (found.gradient_norm <= tolerance)
    # At a gradient within the tolerance, the error of y may be as large as the tolerance.
    wrong = ~zero & (found.bias > np.where(small, tolerance or 0.0, SMALL * found.gradient_norm))
    if np.any(wrong):
        share = _worst(np.where(wrong, found.bias, 0), found.gradient_norm)
        rules.append(
            f"y does not solve the inner problem: it changes the gradient of Phi by {share:.0%}; "
            "raise the inner steps or their step size"
        )
    linear = metrics.get("linear_residual", 0.0)
    if np.any(~small & (np.asarray(linear) > SMALL)):
        rules.append(
            f"v does not solve the adjoint system: its linear residual is {np.max(linear):.2g}; "
            "raise the linear steps, or add damping or an L2 term to g"
        )
    return rules


def _worst(error, norm):
    return float(np.max(error / np.maximum(norm, np.finfo(np.float32).tiny)))


def _require_settings(accuracy, inner_steps, linear_steps):
    require(accuracy is None or accuracy > 0, "accuracy must be positive", accuracy)
    require(inner_steps >= 1, "inner_steps must be at least 1", inner_steps)
    require(linear_steps >= 1, "linear_steps must be at least 1", linear_steps)


def _require_whole(batch):
    for level, source in batch._asdict().items():
        if isinstance(source, Host):
            raise ValueError(
                f"a certificate needs the whole data, and data.{level} is a Host, which makes minibatches; "
                "use `full` or `minibatches`"
            )


@partial(jax.jit, static_argnums=(0, 4, 5, 6, 7))
def _measure(problem, x, y, batch, accuracy, inner_steps, linear_steps, seeds):
    whole = batch.whole()
    outer, inner = whole.outer[0], whole.inner[0]

    def one(x, y):
        return _certificate(problem, x, y, outer, inner, accuracy, inner_steps, linear_steps)

    return jax.vmap(one)(x, y) if seeds else one(x, y)


def _certificate(problem, x, y, outer, inner, accuracy, inner_steps, linear_steps):
    eps = jnp.finfo(jnp.result_type(*jax.tree.leaves(y))).eps
    accuracy = eps**0.5 if accuracy is None else accuracy

    def solve(matvec, b):
        tolerance = 4 * eps * tree.norm(b)
        return cg(linear_steps, tolerance=tolerance).solve(lambda i: matvec, b, None)[0]

    def gradient(y, refined):
        """Return the gradient of Phi with y in place of y*, its residual, and its scale."""
        f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, y, outer)
        free = face(problem, x, y, inner)
        _, hessian = gradient_and_hessian(problem.inner, x, y, inner)
        matvec, f_y = free.restrict(hessian), free.project(f_y)
        v = solve(matvec, f_y)
        if refined:
            v = tree.add(v, solve(matvec, tree.sub(f_y, matvec(v))))
        residual = relative_norm(tree.sub(f_y, matvec(v)), f_y)
        cross = products(problem.inner, x, y, inner, free.project(v)).cross
        return tree.sub(f_x, cross), residual, tree.norm(f_x) + tree.norm(cross)

    solved, g_y, direction = _newton(problem, x, y, inner, solve, inner_steps)
    best, residual, scale = gradient(solved, True)
    # One more step shows how far the gradient still moves; where no step lowers g, it is not taken.
    moved, _, _ = gradient(_stepped(problem, solved, direction, 1.0), False)
    error = tree.norm(tree.sub(best, moved))
    return Certificate(
        gradient_norm=stationarity(problem, x, best),
        error=error,
        inner_residual=tree.norm(projected_gradient(problem.inner_projection, solved, g_y)),
        linear_residual=residual,
        scale=scale,
        bias=tree.norm(tree.sub(gradient(y, False)[0], best)),
        accurate=(error <= accuracy * scale) & (residual <= accuracy**0.5),
    )


def _stepped(problem, y, step, length):
    """Return the feasible point `project(y - length step)`."""
    moved = tree.add_scale(y, -length, step)
    return moved if problem.inner_projection is None else problem.inner_projection(moved)


def _newton(problem, x, y, batch, solve, steps):
    """Return the last y of Newton's method with backtracking, its g_y, and the Newton step there.

    With an inner projection it is the Newton step in the free directions.
    """
    inner = problem.inner

    def look(y):
        g_y, hessian = gradient_and_hessian(inner, x, y, batch)
        free = face(problem, x, y, batch)
        along = free.project(g_y)
        step = free.project(solve(free.restrict(hessian), along))
        # Where the first curvature is not positive, CG gives no step, and the gradient is one.
        return g_y, tree.where(jnp.greater(tree.vdot(step, along), 0), step, g_y)

    def residual(y, g_y):
        return tree.norm(projected_gradient(problem.inner_projection, y, g_y))

    def advance(carry):
        y, g_y, step, count, _ = carry
        value = inner(x, y, batch)
        # Below the rounding error of g its value says nothing; the residual then decides.
        slack = 10 * jnp.finfo(value.dtype).eps * jnp.abs(value)

        def too_long(length):
            there = _stepped(problem, y, step, length)
            bound = value - 1e-4 * tree.vdot(g_y, tree.sub(y, there)) + slack
            return ~(inner(x, there, batch) <= bound) & (length > 1e-9)

        length = lax.while_loop(too_long, lambda length: 0.5 * length, jnp.ones((), value.dtype))
        new = _stepped(problem, y, step, length)
        new_g_y, new_step = look(new)
        fell = (inner(x, new, batch) < value - slack) | (residual(new, new_g_y) < 0.9 * residual(y, g_y))
        new, new_g_y, new_step = tree.where(fell, (new, new_g_y, new_step), (y, g_y, step))
        return new, new_g_y, new_step, count + 1, fell

    def unsolved(carry):
        return (carry[3] < steps) & carry[4]

    y = _stepped(problem, y, tree.zeros_like(y), 0.0)
    g_y, step = look(y)
    start = y, g_y, step, jnp.zeros((), jnp.int32), residual(y, g_y) > 0
    return lax.while_loop(unsolved, advance, start)[:3]
