"""The response by finite differences of the inner path."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.calculus import hoisted
from bilevel.inner import InnerSolver
from bilevel.response.types import Pulled, Response, no_adjoint, with_pullback
from bilevel.types import PyTree, require
from bilevel.widening import widened

tree = optax.tree


def gaussian(key: Any, x: PyTree, count: int) -> PyTree:
    """Draw `count` standard normal directions, stacked along a leading axis.

    Args:
      key: random key.
      x: a pytree whose structure, shapes and dtypes the directions have.
      count: number of directions.

    Raises:
      ValueError: when there is no key.
    """
    require(key is not None, "random directions need a key", key)
    keys = jax.random.split(key, count)
    return jax.vmap(lambda key: tree.random_like(key, x, jax.random.normal))(keys)


def sphere(key: Any, x: PyTree, count: int) -> PyTree:
    """Draw directions uniformly on the sphere of radius sqrt(p).

    p is the number of entries of x. With Q directions the mean squared error of `zeroth_order` is
    (p - 1)/Q times the squared norm, a little less than with `gaussian`.

    Args:
      key: random key.
      x: a pytree whose structure, shapes and dtypes the directions have.
      count: number of directions.

    Raises:
      ValueError: when there is no key.
    """
    along = gaussian(key, x, count)
    size = sum(leaf.size for leaf in jax.tree.leaves(x))
    return jax.vmap(lambda u: tree.scale(math.sqrt(size) / tree.norm(u), u))(along)


def orthogonal(key: Any, x: PyTree, count: int) -> PyTree:
    """Draw orthogonal directions of length sqrt(p), uniform in angle.

    p is the number of entries of x. With p directions `zeroth_order` has no noise.

    Args:
      key: random key.
      x: a pytree whose structure, shapes and dtypes the directions have.
      count: number of directions, at most p.

    Raises:
      ValueError: when there is no key, or `count` is larger than p.
    """
    require(key is not None, "random directions need a key", key)
    size = sum(leaf.size for leaf in jax.tree.leaves(x))
    require(count <= size, f"orthogonal directions can be at most {size}, the entries of x", count)
    dtype = widened(jnp.zeros((), jnp.result_type(*jax.tree.leaves(x)))).dtype
    basis, _ = jnp.linalg.qr(jax.random.normal(key, (size, count), dtype))
    # QR fixes the signs of the columns, which does not matter: u and -u give the same estimate.
    leaves, structure = jax.tree.flatten(x)
    rows = jnp.split(math.sqrt(size) * basis.T, np.cumsum([leaf.size for leaf in leaves])[:-1], axis=1)
    parts = [
        part.reshape(count, *leaf.shape).astype(leaf.dtype) for part, leaf in zip(rows, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, parts)


def zeroth_order(
    solver: InnerSolver,
    directions: int,
    *,
    smoothing: float = 0.01,
    law: Callable[[Any, PyTree, int], PyTree] = gaussian,
) -> Response:
    """Return the response by finite differences along random directions.

        d_j = (y(x + smoothing u_j) - y(x)) / smoothing,   x_bar = (1/Q) sum_j <d_j, w> u_j

    All paths start at the same point and see the same minibatches. The mean squared error of x_bar is
    (p + 1)/Q times its squared norm, where p is the number of entries of x: use it for small p.

    Args:
      solver: trains y.
      directions: number of directions Q, at least 1.
      smoothing: length mu of the step, positive. In float32, rounding dominates below 1e-3.
      law: `(key, x, count) -> directions`, stacked along a leading axis, with the identity as second
        moment: `gaussian`, `sphere` or `orthogonal` of `bilevel.response`.

    Returns:
      A `Response` that carries no adjoint. It needs a key.

    Raises:
      ValueError: when `directions` < 1 or `smoothing` <= 0, and in `respond` when there is no key.

    Cost: `directions + 1` times the gradients of the solver, no products.

    Reference: Sow, Ji and Liang, On the Convergence Theory for Hessian-Free Bilevel Algorithms,
    NeurIPS 2022, arXiv:2110.07004.
    """
    require(directions >= 1, "directions must be at least 1", directions)
    require(smoothing > 0, "smoothing must be positive", smoothing)

    def end_of_path(x, y0, y, batch):
        """Return y, the end of the path from y0, with the derivative of the path."""
        solve, held = hoisted(solver.solve, x, y0, batch)

        @jax.custom_vjp
        def end(x, y0, y, data):
            return y

        def forward(x, y0, y, data):
            return end(x, y0, y, data), (x, y0, data)

        def backward(saved, w):
            x, y0, data = saved
            x_bar = jax.vjp(lambda x: solve(x, y0, data), x)[1](w)[0]
            return x_bar, tree.zeros_like(y0), tree.zeros_like(w), None

        end.defvjp(forward, backward)
        return end(x, y0, y, (batch, held))

    def pullback_at(x, y0, y, batch, key):
        along = law(key, x, directions)
        # Second derivatives take the difference of two derivatives. Both must be those of a path; the
        # estimate that `with_pullback` attaches to y would leave an error that does not shrink with mu.
        y = end_of_path(x, y0, y, batch)

        def projected(u, w):
            moved = solver.solve(tree.add_scale(x, smoothing, u), y0, batch)
            return tree.vdot(tree.sub(moved, y), w) / smoothing

        def pullback(w, v):
            slopes = jax.vmap(projected, in_axes=(0, None))(along, w)
            x_bar = jax.tree.map(lambda u: jnp.tensordot(slopes, u, axes=1) / directions, along)
            return Pulled(x_bar, (), 0.0)

        return pullback

    return Response(
        respond=with_pullback(solver.solve, pullback_at),
        adjoint=no_adjoint,
        draws=solver.draws,
        cost=solver.cost.times(directions + 1),
        residual=solver.residual,
    )
