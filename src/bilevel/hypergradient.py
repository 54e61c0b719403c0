"""The hypergradient as a function, and the metrics that every algorithm reports."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.calculus import gradient_and_hessian, products
from bilevel.feasible import face, projected_gradient
from bilevel.inner import inner_residual
from bilevel.linear import cg
from bilevel.response.types import Response
from bilevel.types import Batch, Problem, PyTree
from bilevel.whole_models import closed, opened

tree = optax.tree


class Info(NamedTuple):
    """Diagnostics of one hypergradient evaluation.

    Attributes:
      outer_loss: f(x, y) on the outer minibatch.
      inner_residual: norm of the (projected) g_y at the trained y, 0 if the inner problem is solved; None
        without `diagnose`.
      linear_residual: `||f_y - H v|| / ||f_y||` of the linear solve for the adjoint, 0 if there is none.
      error: estimate of the distance to the hypergradient at the exact inner solution: the distance to the
        implicit gradient after one Newton step of y, with ten steps of `cg` for each system. If it is as
        large as the gradient, the sign of the gradient is not certain. On ill-conditioned problems it is too
        small; `check` measures the error itself. None without `diagnose`.
      v: the adjoint, to pass to the next call; `()` if the response carries none.
    """

    outer_loss: Any
    inner_residual: Any
    linear_residual: Any
    error: Any
    v: PyTree


def hypergradient(
    problem: Problem,
    response: Response,
    x: PyTree,
    y: PyTree,
    batch: Batch,
    key: Any = None,
    v: PyTree = None,
    *,
    diagnose: bool = True,
) -> tuple[PyTree, PyTree, Info]:
    """Compute the gradient of `f(x, y(x))` in x, where the response trains y.

        gradient = f_x + pullback(f_y)

    Args:
      problem: the two losses.
      response: `unrolled`, `implicit`, `first_order` or `zeroth_order`.
      x: outer variable.
      y: start of the inner solver.
      batch: two sources of minibatches, for example `full(outer_data, inner_data)`.
      key: random key, for `zeroth_order`.
      v: start of the linear solve; None means zeros.
      diagnose: whether to compute the inner residual and the estimate of the error.

    Returns:
      `(gradient, y, info)`: a pytree like x, the trained y, an `Info`.

    Cost: 1 gradient of f, and the cost of the response. The diagnostics cost 3 gradients, 21 Hessian products
    and 1 cross product, and nothing under `jit` if they are not used.

    >>> from bilevel import cg, descend, full, implicit
    >>> shift = Problem(lambda x, y, batch: 0.5 * (y - 3) ** 2, lambda x, y, batch: 0.5 * (y - x) ** 2)
    >>> response = implicit(shift, descend(shift, 1.0, steps=1), cg(1))
    >>> float(hypergradient(shift, response, 1.0, 0.0, full(None, None))[0])
    -2.0
    """
    x, y = as_variables(x, y)
    gradient, y, info = undiagnosed(problem, response, x, y, batch, key, v)
    if diagnose:
        minibatch = batch.inner[max(1, response.draws) - 1]
        info = info._replace(
            inner_residual=inner_residual(problem, x, y, minibatch),
            error=_error_estimate(problem, x, y, batch.outer[0], minibatch, gradient, info.v),
        )
    return opened(gradient), opened(y), info


def undiagnosed(
    problem: Problem,
    response: Response,
    x: PyTree,
    y: PyTree,
    batch: Batch,
    key: Any = None,
    v: PyTree = None,
) -> tuple[PyTree, PyTree, Info]:
    """Return `hypergradient` of variables that are converted already, without diagnostics.

    Algorithms use it: they report the metrics of `measures`.
    """
    v = response.adjoint(y) if v is None else v
    y, pullback = response.respond(x, y, batch, key)
    outer_loss, (f_x, f_y) = jax.value_and_grad(problem.outer, argnums=(0, 1))(x, y, batch.outer[0])
    pulled = pullback(f_y, v)
    info = Info(
        outer_loss=outer_loss, inner_residual=None, linear_residual=pulled.residual, error=None, v=pulled.v
    )
    return tree.add(f_x, pulled.x), y, info


def _error_estimate(problem, x, y, outer_minibatch, minibatch, gradient, v):
    """Return the distance of `gradient` to the implicit gradient after one Newton step of y.

    Both systems take ten steps of conjugate gradients.
    """

    def solve(y, b, start):
        """Return the solution of `H v = b` on the free directions."""
        free = face(problem, x, y, minibatch)
        _, hessian = gradient_and_hessian(problem.inner, x, y, minibatch)
        return free.project(cg(10).solve(lambda i: free.restrict(hessian), free.project(b), start)[0])

    g_y = jax.grad(problem.inner, argnums=1)(x, y, minibatch)
    y = tree.sub(y, solve(y, g_y, None))
    y = y if problem.inner_projection is None else problem.inner_projection(y)
    f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, y, outer_minibatch)
    same = jax.tree.structure(v) == jax.tree.structure(y)
    v = solve(y, f_y, v if same else None)
    exact = tree.sub(f_x, products(problem.inner, x, y, minibatch, v).cross)
    return tree.norm(tree.sub(gradient, exact))


def measures(
    problem: Problem,
    x: PyTree,
    y: PyTree,
    batch: Batch,
    inner_draw: int,
    gradient: PyTree,
    linear_residual: Any,
) -> dict[str, Any]:
    """Return the metrics that every algorithm reports, at one point.

    Args:
      problem: the two losses.
      x, y: the point.
      batch: minibatches of the step.
      inner_draw: number of the inner minibatch to measure on; the outer one is number 0.
      gradient: direction in which x moves.
      linear_residual: relative residual of the adjoint, 0 if there is none.

    Returns:
      A dict of `outer_loss`, `inner_loss`, `inner_residual` (`||g_y||`), `linear_residual` and
      `gradient_norm`. With projections, the norms are those of projected gradients `y - project(y - g_y)`. A
      compiled step that does not log drops the metrics, so they cost nothing there.
    """
    minibatch = batch.inner[inner_draw]
    outer_loss = problem.outer(x, y, batch.outer[0])
    return {
        "outer_loss": outer_loss,
        "inner_loss": problem.inner(x, y, minibatch),
        "inner_residual": inner_residual(problem, x, y, minibatch),
        # Many responses have none and give the Python number 0.
        "linear_residual": jnp.asarray(linear_residual, jnp.result_type(outer_loss)),
        "gradient_norm": stationarity(problem, x, gradient),
    }


def stationarity(problem: Problem, x: PyTree, gradient: PyTree) -> jax.Array:
    """Return the norm of the projected gradient `x - project(x - gradient)`, 0 where x is stationary."""
    return tree.norm(projected_gradient(problem.outer_projection, x, gradient))


def as_variables(x: PyTree, y: PyTree) -> tuple[PyTree, PyTree]:
    """Convert x and y to strongly typed JAX arrays.

    Functions, booleans and texts in them become fixed nodes.

    Raises:
      ValueError: if a leaf is not a floating-point number or array, or every leaf is a fixed node.
    """

    def convert(name, variable):
        def leaf(path, value):
            dtype = jnp.result_type(value)
            if not jnp.issubdtype(dtype, jnp.floating):
                place = name + jax.tree_util.keystr(path)
                raise ValueError(
                    f"variables must be floating-point arrays, but {place} is {dtype}; convert it"
                )
            return jnp.asarray(value, dtype)

        moving = closed(variable)
        if jax.tree.leaves(variable) and not jax.tree.leaves(moving):
            raise ValueError(
                f"{name} must hold a floating-point array, but all of it stays fixed; make arrays of its "
                "numbers by `jnp.asarray`"
            )
        return jax.tree_util.tree_map_with_path(leaf, moving)

    return convert("x", x), convert("y", y)
