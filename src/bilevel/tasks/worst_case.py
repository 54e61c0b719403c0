"""The hard instance of a lower bound, with its known solution."""

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.sampling import full
from bilevel.tasks.quadratic import exact_metrics
from bilevel.types import Problem, Task, require


def worst_case(*, dim: int = 100, outer_convexity: float = 0.01, inner_convexity: float = 0.2) -> Task:
    """The hard instance of a lower bound for bilevel problems.

    Each oracle call reaches only a few more coordinates.

        f = x'Ax / 2 + x'Cy + |y|^2 / 2 + y_d,   g = y'My / 2 - x'Zy / 2 + y_d
        A = a Z^2 + mu_x I,   M = b Z^2 + mu_y I,   C = Z / 2 - a b Z^3
        a = (1 - mu_x) / 4,   b = (1 - mu_y) / 4
        y*(x) = M^-1 (Z x / 2 - e_d),   Hess Phi = mu_x I + (a mu_y + 1/2) Z^2 M^-1 + Z^2 M^-2 / 4

    Z has ones on its anti-diagonal and minus ones just below it, so Z^2 is the tridiagonal matrix
    of second differences. Phi is quadratic and strongly convex. The smoothness constants of the paper
    are all 1. Every seed starts at zero, where the lower bound holds.

    Args:
      dim: number d of entries of x and of y.
      outer_convexity: mu_x of Phi, in [0, 1]; at 0 the `outer_condition` of the task is None.
      inner_convexity: mu_y of g, in (0, 1].

    Returns:
      A `Task` with the exact metrics of `quadratic`, and with step sizes and condition numbers for
      `accbio`: 1 / L and L / mu of g in y, and of Phi. It has no rows, and so no
      minibatches.

    Raises:
      ValueError: when a convexity is out of its range.

    Reference: following Ji and Liang, Lower Bounds and Accelerated Algorithms for Bilevel Optimization,
    JMLR 2023, arXiv:2102.03926.
    Differs from the paper: the linear terms use e_d, the last unit vector.
    """
    require(0 <= outer_convexity <= 1, "outer_convexity must be in [0, 1]", outer_convexity)
    require(0 < inner_convexity <= 1, "inner_convexity must be in (0, 1]", inner_convexity)
    a, b = (1 - outer_convexity) / 4, (1 - inner_convexity) / 4

    def inner(x, y, batch):
        Zy = anti_difference(y)
        return 0.5 * (b * Zy @ Zy + inner_convexity * y @ y - x @ Zy) + y[-1]

    def outer(x, y, batch):
        Zx, Zy = anti_difference(x), anti_difference(y)
        coupling = 0.5 * x @ Zy - a * b * Zx @ anti_difference(Zy)
        return 0.5 * (a * Zx @ Zx + outer_convexity * x @ x + y @ y) + coupling + y[-1]

    Z, identity, last = anti_difference_matrix(dim), np.eye(dim), np.eye(dim)[-1]
    T = Z @ Z
    M = b * T + inner_convexity * identity
    over = np.linalg.inv(M)
    curvature = outer_convexity * identity + (a * inner_convexity + 0.5) * T @ over + 0.25 * T @ over @ over
    slope = a * b * Z @ T @ over @ last - 0.5 * Z @ over @ over @ last
    best = -np.linalg.solve(curvature, slope)
    # Phi at zero, where y* = -M^-1 e_d, plus the change of the quadratic from zero to its minimum.
    lowest = 0.5 * last @ over @ over @ last - last @ over @ last + 0.5 * slope @ best
    inner_top, outer_top = (float(np.linalg.eigvalsh(matrix)[-1]) for matrix in (M, curvature))

    return Task(
        name="worst_case",
        dataset=f"worst_case-{dim}",
        problem=Problem(outer, inner),
        data=full(None, None),
        x=jnp.zeros(dim),
        y=jnp.zeros(dim),
        batch_size=None,
        start=lambda key: (jnp.zeros(dim), jnp.zeros(dim)),
        metrics=exact_metrics,
        held=(jnp.asarray(best), jnp.asarray(curvature), jnp.asarray(lowest)),
        inner_step=1 / inner_top,
        outer_step=1 / outer_top,
        inner_condition=inner_top / inner_convexity,
        outer_condition=outer_top / outer_convexity if outer_convexity else None,
    )


def anti_difference(v: jax.Array) -> jax.Array:
    """Return `Z v`: v reversed, with the entry before it subtracted from each entry."""
    reverse = v[::-1]
    return reverse.at[1:].add(-reverse[:-1])


def anti_difference_matrix(dim: int) -> np.ndarray:
    """Return Z: ones on the anti-diagonal, minus ones just below it."""
    reverse = np.eye(dim)[::-1]
    return reverse - np.concatenate([np.zeros((1, dim)), reverse[:-1]])
