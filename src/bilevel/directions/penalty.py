"""The oracle of first-order penalty methods."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bilevel.directions.types import Oracle, Terms
from bilevel.types import Cost, Draws, Point, Problem, PyTree, Schedule, require

tree = optax.tree


def penalty_direction(problem: Problem, penalty: float) -> Oracle:
    """Return the oracle of first-order directions of a penalty problem.

        min over x, y of f(x, y) + penalty (g(x, y) - min_z g(x, z))

        D_y = f_y(x, y) / penalty + g_y(x, y),   D_z = g_y(x, z)
        D_x = f_x(x, y) + penalty (g_x(x, y) - g_x(x, z))

    The second inner variable z is carried as the adjoint v. D_y is divided by the penalty, so one
    inner step size suits every penalty. The error of the hypergradient at the fixed point is
    O(1 / penalty).

    Args:
      problem: the two losses.
      penalty: lambda, positive.

    Returns:
      An `Oracle` that reads one minibatch at each level; both gradients of g use the same one.

    Raises:
      ValueError: when `penalty` <= 0.

    Cost: 3 gradients.

    Reference: Kwon, Kwon, Wright and Nowak, A fully first-order method for stochastic bilevel
    optimization, ICML 2023, arXiv:2301.10945.
    """
    check_penalty(penalty)

    def evaluate(point, batch, key):
        x, y, z = point
        f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, y, batch.outer[0])
        gradient = jax.grad(problem.inner, argnums=(0, 1))
        g_x, g_y = gradient(x, y, batch.inner[0])
        g_x_z, g_y_z = gradient(x, z, batch.inner[0])
        outer = Point(f_x, tree.scale(1 / penalty, f_y), tree.zeros_like(z))
        inner = Point(tree.scale(penalty, tree.sub(g_x, g_x_z)), g_y, g_y_z)
        return Terms(outer, inner, 0.0)

    return Oracle(
        evaluate=evaluate,
        adjoint=lambda y: y,
        draws=Draws(1, 1),
        cost=Cost(gradients=3),
        third_is_inner=True,
    )


def check_penalty(penalty: float | Schedule) -> None:
    """Raise `ValueError` unless `penalty` is positive, traced or a schedule."""
    if not callable(penalty):
        require(penalty > 0, "penalty must be positive", penalty)


def penalty_at(penalty: float | Schedule, count: jax.Array, like: PyTree) -> Any:
    """Return the penalty of step `count`; a schedule's is cast to the dtype of `like`."""
    return jnp.asarray(penalty(count), jax.tree.leaves(like)[0].dtype) if callable(penalty) else penalty
