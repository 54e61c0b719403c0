"""Responses: rules that map a cotangent on the inner solution to one on `x`."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.calculus import dense, hoisted, untagged
from bilevel.types import Batch, Cost, PyTree
from bilevel.whole_models import closed, opened


class Pulled(NamedTuple):
    """The result of a pullback.

    Attributes:
      x: cotangent on the outer variable, a pytree like `x`; `-J v` for implicit responses.
      v: adjoint to carry to the next step; `()` for responses that carry none.
      residual: relative residual of the linear solve, a scalar; 0 if there is no linear solve.
    """

    x: PyTree
    v: PyTree
    residual: Any


Pullback = Callable[[PyTree, PyTree], Pulled]
"""`pullback(w, v)`: `w` is a cotangent on y, and `v` the adjoint of the previous step."""


class Response(NamedTuple):
    """An inner solver together with the derivative of its solution.

    `bilevel.testing.check_response` tests an implementation.

    Attributes:
      respond: `(x, y0, batch, key) -> (y, pullback)`, a pure function. `y`, shaped like `y0`, is the
        trained inner variable, and `pullback(w, v) -> Pulled` maps a cotangent `w` on y to a cotangent
        on x; `v` is the adjoint of the previous step. Reverse derivatives of `y` follow the same rule
        (`with_pullback` and `following` give them). It reads `batch.inner[i]` only. All arguments may be
        traced. `key` is a JAX random key, or None; only random responses need one.
      adjoint: `y -> v`, the adjoint before the first step; `()` for responses that carry none. The
        `v` of every `Pulled` has the same structure, shapes and dtypes.
      draws: number of inner minibatches that `respond` and one pullback read, from `batch.inner[0]` on.
      cost: oracle calls of `respond` and one pullback, without a product that only `Pulled.residual` reads.
      residual: `(x, y, batch) -> scalar`, the norm of the (projected) gradient g_y; None if it is not known.
      watched: `watch -> respond`, the same function, which calls `watch(residual)` with the relative
        residual of the linear solve when y is differentiated; None if there is no linear solve.
    """

    respond: Callable[[PyTree, PyTree, Batch, Any], tuple[PyTree, Pullback]]
    adjoint: Callable[[PyTree], PyTree]
    draws: int
    cost: Cost
    residual: Callable[[PyTree, PyTree, Batch], Any] | None = None
    watched: Callable[[Callable[[Any], None]], Callable] | None = None


def no_adjoint(y: PyTree) -> tuple:
    """Return `()`, the `adjoint` of a response that carries none."""
    return ()


def with_pullback(
    solve: Callable[[PyTree, PyTree, Batch], PyTree],
    pullback_at: Callable[[PyTree, PyTree, PyTree, Batch, Any], Pullback],
    watch: Callable[[Any], None] = lambda residual: None,
) -> Callable[[PyTree, PyTree, Batch, Any], tuple[PyTree, Pullback]]:
    """Return the `respond` of a `Response` from a solver and a rule at its solution.

    Args:
      solve: `(x, y0, batch) -> y`.
      pullback_at: `(x, y0, y, batch, key) -> pullback`.
      watch: called with the residual of each pullback that differentiates y.

    Returns:
      `respond(x, y0, batch, key) -> (y, pullback)` with a y that is differentiable in x.
    """

    def pull(x, y, batch):
        (y0, y, w), (batch, key) = y, batch
        pulled = pullback_at(x, y0, y, batch, key)(w, optax.tree.zeros_like(w))
        return pulled.x, jnp.asarray(pulled.residual, float)

    def respond(x, y0, batch, key):
        explicit, held = hoisted(solve, x, y0, batch)
        explicit_pull, pull_held = hoisted(pull, x, (y0, y0, y0), (batch, key), needed=bool(held))

        @jax.custom_vjp
        def solved(x, y0, data, held, key):
            return explicit(x, y0, (data, held[0]))

        def forward(x, y0, data, held, key):
            arguments = x, y0, data, held, key
            x, y0, data, held, key = untagged(arguments, data=(data, key), held=held, start=y0)
            # `solved`, not `explicit`: if y were a constant, second derivatives would be wrong.
            y = solved(x, y0, data, held, key)
            return y, (x, y0, y, data, held, key)

        def backward(saved, w):
            x, y0, y, data, held, key = saved
            x_bar, residual = explicit_pull(x, (y0, y, dense(w)), ((data, key), held[1]))
            watch(residual)
            return x_bar, optax.tree.zeros_like(y0), None, None, None

        solved.defvjp(forward, backward, symbolic_zeros=True)
        y = solved(x, y0, batch, (held, pull_held), key)
        return y, pullback_at(x, y0, y, batch, key)

    return respond


class SolutionInfo(NamedTuple):
    """Diagnostics of one inner solution.

    Attributes:
      inner_residual: norm of the (projected) gradient g_y at y, 0 if the inner problem is solved; NaN if the
        inner solver does not know it.
    """

    inner_residual: Any


def solution(response: Response, *, has_info: bool = False, tolerance: float | None = None) -> Callable:
    """Return a function `(x, y0, batch, key=None) -> y*` that `jax.grad` sees through.

    First and second reverse derivatives (`jax.grad`, `jax.jacrev(jax.grad(...))`) follow the rule of
    the response, anywhere inside a larger JAX program. The function is differentiable in x, not in its
    data: put every quantity that you differentiate into x. Only `unrolled` has a derivative with respect to
    the starting point y0. To learn an initialisation (MAML), use `unrolled`, with its `start` if x is that
    initialisation; otherwise pass `jax.lax.stop_gradient(y0)` where y0 depends on x.

    Args:
      response: how y is trained and differentiated, for example `implicit(...)`.
      has_info: whether to return `(y*, SolutionInfo)`.
      tolerance: warn once, from the host, when `||g_y||` at y*, or the relative residual of a linear solve,
        is above this number or not finite. None never warns.

    Returns:
      `(x, y0, batch, key=None) -> y*`.

    Raises:
      ValueError: in the function, if it is differentiated with respect to its data, or to a y0 without
        derivative.

    Cost: the cost of the response; 1 gradient more with `has_info` or `tolerance`.

    >>> import jax, jax.numpy as jnp
    >>> from bilevel import Problem, cg, descend, full, implicit
    >>> ridge = Problem(None, lambda x, y, batch: jnp.sum((y - 1) ** 2 + jnp.exp(x) * y**2))
    >>> fit = solution(implicit(ridge, descend(ridge, 0.2, steps=60), cg(2)))
    >>> jax.grad(lambda x: fit(x, jnp.zeros(2), full(None, None)).sum())(0.0)
    Array(-0.5, dtype=float32, weak_type=True)
    """
    watch = None if tolerance is None else _Watch(tolerance)
    respond = response.respond
    if watch is not None and response.watched is not None:
        respond = response.watched(watch.linear)

    def solve(x, y0, batch, key=None):
        x, y0 = jax.tree.map(jnp.asarray, closed((x, y0)))
        y = respond(x, y0, batch, key)[0]
        if not has_info and watch is None:
            return opened(y)
        residual = jnp.asarray(jnp.nan, jnp.result_type(*jax.tree.leaves(y)))
        if response.residual is not None:
            residual = response.residual(*jax.lax.stop_gradient((x, y, batch)))
            if watch is not None:
                watch.inner(residual)
        return (opened(y), SolutionInfo(residual)) if has_info else opened(y)

    return solve


class _Watch:
    """Warnings about residuals, each given once."""

    def __init__(self, tolerance):
        self.tolerance, self.warned = tolerance, set()

    def inner(self, residual):
        """Warn if the inner problem is not solved."""
        remedy = "take more or larger inner steps, or unroll"
        self._report("the inner problem is not solved: |g_y| is", remedy, residual)

    def linear(self, residual):
        """Warn if the adjoint system is not solved."""
        remedy = "take more linear steps, or use damping where the Hessian of g is singular or indefinite"
        self._report("the adjoint system is not solved: its relative residual is", remedy, residual)

    def _report(self, fault, remedy, residual):
        def report(residual):
            if fault not in self.warned and not residual <= self.tolerance:
                self.warned.add(fault)
                warning = f"{fault} {residual:.2g}, above the tolerance {self.tolerance:g}; {remedy}"
                warnings.warn(warning, RuntimeWarning, stacklevel=1)

        jax.debug.callback(report, residual)


def following(
    respond: Callable[[PyTree, PyTree, Batch, Any], tuple[PyTree, Pullback]],
    adjoint: Callable[[PyTree], PyTree],
    watch: Callable[[Any], None] = lambda residual: None,
) -> Callable[[PyTree, PyTree, Batch, Any], tuple[PyTree, Pullback]]:
    """Return the same `respond` with a `y` whose derivatives follow its pullback.

    Use it for a response whose pullback is not the derivative of its solver. Differentiating y runs
    the inner solve a second time.

    Args:
      respond: `(x, y0, batch, key) -> (y, pullback)`.
      adjoint: `y -> v`, the adjoint that the pullback starts from.
      watch: called with the residual of each pullback that differentiates y.
    """

    def end(x, y, batch):
        return respond(x, y, *batch)[0]

    def pull(x, y, batch):
        y0, w = y
        pulled = respond(x, y0, *batch)[1](w, adjoint(w))
        return pulled.x, jnp.asarray(pulled.residual, float)

    def followed(x, y0, batch, key):
        _, held = hoisted(end, x, y0, (batch, key))
        explicit_pull, pull_held = hoisted(pull, x, (y0, y0), (batch, key), needed=bool(held))

        @jax.custom_vjp
        def tied(x, y, y0, data, held):
            return y

        def forward(x, y, y0, data, held):
            x, y, y0, data, held = untagged((x, y, y0, data, held), data=data, held=held, start=y0)
            # As in `with_pullback`: second derivatives would see y itself as a constant.
            return tied(x, y, y0, data, held), (x, y0, data, held)

        def backward(saved, w):
            x, y0, data, held = saved
            w = dense(w)
            x_bar, residual = explicit_pull(x, (y0, w), (data, held[1]))
            watch(residual)
            return x_bar, optax.tree.zeros_like(w), optax.tree.zeros_like(y0), None, None

        tied.defvjp(forward, backward, symbolic_zeros=True)
        y, pullback = respond(x, y0, batch, key)
        return tied(x, jax.lax.stop_gradient(y), y0, (batch, key), (held, pull_held)), pullback

    return followed
