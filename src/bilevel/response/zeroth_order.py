"""The response from differences between optimisation paths."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.inner import InnerSolver
from bilevel.response.types import Pulled, Response, no_adjoint, with_pullback
from bilevel.types import require

tree = optax.tree


def gaussian(key, x, count: int):
    """`count` independent standard normal directions shaped as x, stacked along a leading axis."""
    require(key is not None, "random directions need a key", key)
    keys = jax.random.split(key, count)
    return jax.vmap(lambda key: tree.random_like(key, x, jax.random.normal))(keys)


def sphere(key, x, count: int):
    """Directions of length sqrt(p), uniform in angle: a little less noise than `gaussian`, (p - 1)/Q."""
    along = gaussian(key, x, count)
    size = sum(leaf.size for leaf in jax.tree.leaves(x))
    return jax.vmap(lambda u: tree.scale(math.sqrt(size) / tree.norm(u), u))(along)


def orthogonal(key, x, count: int):
    """Directions of length sqrt(p), at right angles: no noise left with as many as x has entries.

    Raises:
      ValueError: when there are more directions than entries of x.
    """
    require(key is not None, "random directions need a key", key)
    size = sum(leaf.size for leaf in jax.tree.leaves(x))
    require(count <= size, f"orthogonal directions can be at most {size}, the entries of x", count)
    basis, _ = jnp.linalg.qr(jax.random.normal(key, (size, count), jnp.result_type(*jax.tree.leaves(x))))
    # A uniform angle needs no sign correction of the columns: u and -u estimate the same.
    leaves, structure = jax.tree.flatten(x)
    rows = jnp.split(math.sqrt(size) * basis.T, np.cumsum([leaf.size for leaf in leaves])[:-1], axis=1)
    parts = [part.reshape(count, *leaf.shape) for part, leaf in zip(rows, leaves, strict=True)]
    return jax.tree.unflatten(structure, parts)


def zeroth_order(
    solver: InnerSolver, directions: int, *, smoothing: float = 0.01, law: Callable = gaussian
) -> Response:
    """The response from finite differences of the inner path along random directions.

        d_j = (y(x + smoothing u_j) - y(x)) / smoothing,   x_bar = (1/Q) sum_j <d_j, w> u_j

    All paths start at the same point and see the same minibatches. The mean squared error of
    x_bar is (p + 1)/Q times its squared norm, p the number of entries of x: use it for small p.

    Args:
      solver: trains y.
      directions: number of directions Q, at least 1.
      smoothing: length mu of the step, positive; below 1e-3 float32 rounding shows.
      law: `(key, x, count) -> stacked directions`, with identity second moment: `gaussian`, `sphere` or
        `orthogonal` of `bilevel.response`.

    Returns:
      A `Response` that carries no adjoint. It needs a key.

    Raises:
      ValueError: when `directions` < 1, `smoothing` <= 0, or there is no key for the law.

    Cost: `directions + 1` times the gradients of the solver, no products.

    Reference: Sow, Ji and Liang, On the Convergence Theory for Hessian-Free Bilevel Algorithms,
    NeurIPS 2022, arXiv:2110.07004.
    """
    require(directions >= 1, "directions must be at least 1", directions)
    require(smoothing > 0, "smoothing must be positive", smoothing)

    def pullback_at(x, y0, y, batch, key):
        along = law(key, x, directions)

        def projected(u, w):
            moved = solver.solve(tree.add_scale(x, smoothing, u), y0, batch)
            return tree.vdot(tree.sub(moved, y), w) / smoothing

        def pullback(w, v):
            slopes = jax.vmap(projected, in_axes=(0, None))(along, w)
            x_bar = jax.tree.map(lambda u: jnp.tensordot(slopes, u, axes=1) / directions, along)
            return Pulled(x_bar, (), 0.0)

        return pullback

    return Response(
        with_pullback(solver.solve, pullback_at), no_adjoint, solver.draws, solver.cost.times(directions + 1)
    )
