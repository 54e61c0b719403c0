"""What a linear solver is, and what all of them share."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.types import PyTree, require

tree = optax.tree


class LinearSolver(NamedTuple):
    """How the adjoint is found.

    Attributes:
      solve: `(operator, b, v0, key=None) -> (v, residual)`; `v0=None` starts at zero.
      draws: inner minibatches it reads.
      products: Hessian products of one solve, without the one that measures the residual.
      start_products: how many of them a start v0 takes; `v0=None` saves them.
    """

    solve: Callable[..., tuple[PyTree, Any]]
    draws: int
    products: int
    start_products: int = 0


def implicitly_differentiable(iterate, damping):
    """`(operator, b, v0) -> (v, residual)` whose derivative solves the same system again."""

    def solve(operator, b, v0, key=None):
        hessian = operator(0)

        def matvec(w):
            return tree.add_scale(hessian(w), damping, w)

        v = lax.custom_linear_solve(
            matvec,
            b,
            solve=lambda matvec, b: iterate(matvec, b, lax.stop_gradient(v0)),
            # The transposed system has another right-hand side, far from v0.
            transpose_solve=lambda matvec, b: iterate(matvec, b, None),
            symmetric=True,
        )
        return v, relative_norm(tree.sub(b, matvec(v)), b)

    return solve


def relative_norm(residual: PyTree, b: PyTree) -> jax.Array:
    """`||residual|| / ||b||`, or `||residual||` when b is zero."""
    scale = tree.norm(b)
    return tree.norm(residual) / jnp.where(scale == 0, 1, scale)


def check_system(steps: int, damping: float) -> None:
    """Raise `ValueError` unless there is a step and no negative damping."""
    require(steps >= 1, "steps must be at least 1", steps)
    require(damping >= 0, "damping must be at least 0", damping)
