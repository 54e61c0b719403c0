"""The protocol of linear solvers, and the code that they share."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.types import PyTree, require

tree = optax.tree


Operator = Callable[[Any], Callable[[PyTree], PyTree]]
"""`operator(i)` is the map `w -> H w`, with the Hessian of the i-th minibatch; `i` may be traced."""


class Solve(Protocol):
    """The signature of `LinearSolver.solve`."""

    def __call__(
        self, operator: Operator, b: PyTree, v0: PyTree | None, /, key: Any = None
    ) -> tuple[PyTree, Any]:
        """Return `(v, residual)`."""
        ...


class LinearSolver(NamedTuple):
    """A linear solver: finds the adjoint `v` of the system `H v = b`.

    `bilevel.testing.check_linear_solver` tests an implementation.

    Attributes:
      solve: `(operator, b, v0, key=None) -> (v, residual)`, a pure function. `operator(i)` is the map
        `w -> H w` on the i-th minibatch. H is symmetric; it may be indefinite. `v` and the starting
        point `v0` have the structure, shapes and dtypes of `b`; `v0=None` means zero. `residual` is the
        scalar `||b - H v|| / ||b||`, or `||b - H v||` if b is zero (with damping, H is the damped
        Hessian). All arguments may be traced, and `v` has reverse derivatives with respect to `b` and
        whatever `operator` closes over. `key` is a JAX random key, or None; only random solvers need one.
      draws: number of minibatches that `solve` reads, `operator(0)` to `operator(draws - 1)`.
      products: Hessian products of one solve from a `v0`, without the product that measures `residual`.
        0 means that the solver chooses the number.
      start_products: number of these products that `v0=None` saves.
    """

    solve: Solve
    draws: int
    products: int
    start_products: int = 0


def implicitly_differentiable(iterate: Callable[..., PyTree], damping: float) -> Solve:
    """Return a `solve` whose derivative solves the same system again.

    Args:
      iterate: `(matvec, b, v0) -> v`, an approximate solution of `matvec(v) = b`; `v0` may be None.
      damping: added to the diagonal of H.

    Returns:
      `solve` of a `LinearSolver` that reads one minibatch.
    """

    def solve(operator, b, v0, key=None):
        hessian = operator(0)

        def matvec(w):
            return _dense_tangents(tree.add_scale(hessian(w), damping, w))

        v = lax.custom_linear_solve(
            matvec,
            _dense_tangents(b),
            solve=lambda matvec, b: iterate(matvec, b, lax.stop_gradient(v0)),
            # The transposed system has another right-hand side, and its solution is not close to v0.
            transpose_solve=lambda matvec, b: iterate(matvec, b, None),
            symmetric=True,
        )
        return v, relative_norm(tree.sub(b, matvec(v)), b)

    return solve


@jax.custom_jvp
def _dense_tangents(vector):
    """Return the vector; if one leaf of its tangent is not a symbolic zero, no leaf is one.

    `lax.custom_linear_solve` cannot be differentiated when some leaves have symbolic zeros and others not.
    """
    return vector


@_dense_tangents.defjvp
def _dense_tangents_rule(primals, tangents):
    # The barrier makes every leaf depend on all of them: JAX would find again that a leaf is zero.
    return primals[0], lax.optimization_barrier(tangents[0])


def relative_norm(residual: PyTree, b: PyTree) -> jax.Array:
    """Return `||residual|| / ||b||`, or `||residual||` if `b` is zero."""
    scale = tree.norm(b)
    return tree.norm(residual) / jnp.where(scale == 0, 1, scale)


def check_system(steps: int, damping: float) -> None:
    """Raise `ValueError` unless `steps` is positive and `damping` is not negative."""
    require(steps >= 1, "steps must be at least 1", steps)
    require(damping >= 0, "damping must be at least 0", damping)
