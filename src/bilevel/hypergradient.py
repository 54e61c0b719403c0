"""The hypergradient on its own, and the measures that every algorithm reports."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.inner import inner_residual
from bilevel.response.types import Response
from bilevel.types import Batch, Problem, PyTree


class Info(NamedTuple):
    """What a hypergradient tells about itself.

    Attributes:
      outer_loss: f(x, y) on the outer minibatch.
      linear_residual: `||f_y - H v|| / ||f_y||` of the adjoint's linear solve, 0 where there is none.
      v: the adjoint, to be handed to the next call; `()` for responses that carry none.
    """

    outer_loss: Any
    linear_residual: Any
    v: PyTree


def hypergradient(
    problem: Problem,
    response: Response,
    x: PyTree,
    y: PyTree,
    batch: Batch,
    key: Any = None,
    v: PyTree = None,
) -> tuple[PyTree, PyTree, Info]:
    """Gradient of `f(x, y(x))` in x, with y trained by the response from the given y.

        gradient = f_x + pullback(f_y)

    Args:
      problem: the two losses.
      response: `unrolled`, `implicit`, `first_order` or `zeroth_order`.
      x: outer variable.
      y: where the inner solver starts.
      batch: two sources of minibatches, for example `full(outer_data, inner_data)`.
      key: random key, for `zeroth_order`.
      v: adjoint to start the linear solve at; zeros when None.

    Returns:
      `(gradient, y, info)`: a pytree shaped as x, the trained y, an `Info`.

    Cost: 1 gradient of f and the response's cost.

    >>> from bilevel import cg, descend, full, implicit
    >>> shift = Problem(lambda x, y, batch: 0.5 * (y - 3) ** 2, lambda x, y, batch: 0.5 * (y - x) ** 2)
    >>> response = implicit(shift, descend(shift, 1.0, steps=1), cg(1))
    >>> float(hypergradient(shift, response, 1.0, 0.0, full(None, None))[0])
    -2.0
    """
    x, y = as_variables(x, y)
    v = response.adjoint(y) if v is None else v
    y, pullback = response.respond(x, y, batch, key)
    outer_loss, (f_x, f_y) = jax.value_and_grad(problem.outer, argnums=(0, 1))(x, y, batch.outer[0])
    pulled = pullback(f_y, v)
    return optax.tree.add(f_x, pulled.x), y, Info(outer_loss, pulled.residual, pulled.v)


def measures(
    problem: Problem,
    x: PyTree,
    y: PyTree,
    batch: Batch,
    inner_draw: int,
    gradient: PyTree,
    linear_residual: Any,
) -> dict[str, Any]:
    """The metrics that every algorithm reports, at one point.

    Returns:
      `outer_loss`, `inner_loss`, `inner_residual` (`||g_y||`), `linear_residual` (relative) and
      `gradient_norm` (of the direction that x takes). They cost nothing in steps that do not
      log: what is not read is not computed.
    """
    minibatch = batch.inner[inner_draw]
    return {
        "outer_loss": problem.outer(x, y, batch.outer[0]),
        "inner_loss": problem.inner(x, y, minibatch),
        "inner_residual": inner_residual(problem, x, y, minibatch),
        "linear_residual": linear_residual,
        "gradient_norm": optax.tree.norm(gradient),
    }


def as_variables(x: PyTree, y: PyTree) -> tuple[PyTree, PyTree]:
    """Both variables as strongly typed arrays.

    Raises:
      ValueError: when a leaf is not a floating array.
    """

    def convert(name, variable):
        def leaf(path, value):
            dtype = jnp.result_type(value)
            if not jnp.issubdtype(dtype, jnp.floating):
                place = name + jax.tree_util.keystr(path)
                raise ValueError(f"variables must be floating-point arrays, but {place} is {dtype}")
            return jnp.asarray(value, dtype)

        return jax.tree_util.tree_map_with_path(leaf, variable)

    return convert("x", x), convert("y", y)
