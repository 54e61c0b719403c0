"""Linear solvers for the adjoint: `H v = b`, where H is seen through products only.

A solver receives `operator(i)`, the map `w -> H w` on the i-th minibatch, and returns `(v, residual)`
with `residual = ||b - H v|| / ||b||` on the minibatch it used last, so that an unconverged solve is
told. Every solver but `neumann` uses one minibatch, and derivatives of its solution are those
of the exact solution (`lax.custom_linear_solve`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.types import PyTree, check

tree = optax.tree


class LinearSolver(NamedTuple):
    """How the adjoint is found.

    Attributes:
      solve: `(operator, b, v0) -> (v, residual)`.
      draws: inner minibatches it reads.
      products: Hessian products of one solve, without the one that measures the residual.
    """

    solve: Callable[[Callable, PyTree, PyTree], tuple[PyTree, Any]]
    draws: int
    products: int


def cg(steps: int, *, damping: float = 0.0) -> LinearSolver:
    """Conjugate gradients on `(H + damping I) v = b`, exactly `steps`, from v0.

    A direction of non-positive curvature ends the movement: v stays at the last iterate from
    which the quadratic was still seen to be convex, so an indefinite H gives a finite answer.

    Args:
      steps: number of iterations, at least 1.
      damping: added to the diagonal of H.

    Returns:
      A `LinearSolver` of one minibatch.

    Raises:
      ValueError: when `steps` < 1 or `damping` < 0.

    Cost: `steps + 1` Hessian products (the first residual from v0 takes one).

    >>> import jax.numpy as jnp
    >>> cg(1).solve(lambda i: lambda w: 0.5 * w, jnp.ones(2), jnp.zeros(2))[0]
    Array([2., 2.], dtype=float32)

    Reference: Hestenes and Stiefel, Methods of conjugate gradients, J. Res. NBS 1952.
    """
    _check(steps, damping)

    def iterate(matvec, b, v0):
        residual = tree.sub(b, matvec(v0))

        def step(carry, _):
            v, residual, direction, square = carry
            image = matvec(direction)
            curvature = tree.vdot(direction, image)
            # A solved system stays solved: its residual may underflow before its curvature does.
            convex = jnp.greater(curvature, 0) & jnp.greater(square, 0)
            length = jnp.where(convex, square / jnp.where(convex, curvature, 1), 0)
            v = tree.add_scale(v, length, direction)
            residual = tree.add_scale(residual, -length, image)
            new_square = tree.vdot(residual, residual)
            grow = jnp.where(convex, new_square / jnp.where(convex, square, 1), 0)
            direction = tree.where(convex, tree.add_scale(residual, grow, direction), direction)
            return (v, residual, direction, new_square), None

        carry = v0, residual, residual, tree.vdot(residual, residual)
        return lax.scan(step, carry, length=steps)[0][0]

    return LinearSolver(_implicitly_differentiable(iterate, damping), 1, steps + 1)


def richardson(steps: int, step_size: float, *, damping: float = 0.0) -> LinearSolver:
    """Gradient steps on the quadratic of the linear system, started at v0.

        v <- v - step_size ((H + damping I) v - b),   all on one minibatch

    From `v0 = 0` this is the sum of the first `steps` terms of the Neumann series.

    Args:
      steps: number of iterations, at least 1.
      step_size: below 2 / L, L the largest eigenvalue of H.
      damping: added to the diagonal of H.

    Returns:
      A `LinearSolver` of one minibatch.

    Raises:
      ValueError: when `steps` < 1 or `damping` < 0.

    Cost: `steps` Hessian products.
    """
    _check(steps, damping)

    def iterate(matvec, b, v0):
        def step(v, _):
            return tree.add_scale(v, -step_size, tree.sub(matvec(v), b)), None

        return lax.scan(step, v0, length=steps)[0]

    return LinearSolver(_implicitly_differentiable(iterate, damping), 1, steps)


def neumann(terms: int, rate: float) -> LinearSolver:
    """Truncated Neumann series with an independent minibatch for every factor.

        r_0 = b,   r_i = r_{i-1} - rate H(batch i) r_{i-1},   v = rate (r_0 + .. + r_terms)

    The sum has `terms + 1` terms, and `v0` plays no part. The factors must be independent:
    products of one minibatch are biased, as E[H^2] is not E[H]^2.

    Args:
      terms: number of Hessian products Q, at least 0.
      rate: step eta, at most 1 / L.

    Returns:
      A `LinearSolver` of `terms` minibatches.

    Raises:
      ValueError: when `terms` < 0.

    Cost: `terms` Hessian products.

    Reference: Ji, Yang and Liang, Bilevel Optimization: Convergence Analysis and Enhanced Design,
    ICML 2021, arXiv:2010.07962.
    """
    check(terms >= 0, "terms must be at least 0", terms)

    def solve(operator, b, v0):
        def step(carry, i):
            term, total = carry
            term = tree.add_scale(term, -rate, operator(i)(term))
            return (term, tree.add(total, term)), None

        (term, total), _ = lax.scan(step, (b, b), jnp.arange(terms))
        v = tree.scale(rate, total)
        # On a full batch b - H v is exactly r_{Q+1}; r_Q stands in, one product cheaper.
        return v, relative_norm(term, b)

    return LinearSolver(solve, terms, terms)


def lineax(solver: Any) -> LinearSolver:
    """Any linear solver of the `lineax` package, on one minibatch.

    Args:
      solver: for example `lineax.CG(rtol=1e-6, atol=1e-6)`; those that can start at v0.

    Returns:
      A `LinearSolver`. H is declared positive semidefinite. The number of products is the
      solver's own choice and is not counted in `products`.
    """
    import lineax as lx

    def iterate(matvec, b, v0):
        structure = jax.eval_shape(lambda: b)
        operator = lx.FunctionLinearOperator(matvec, structure, lx.positive_semidefinite_tag)
        return lx.linear_solve(operator, b, solver, options={"y0": v0}, throw=False).value

    return LinearSolver(_implicitly_differentiable(iterate, 0.0), 1, 0)


def _implicitly_differentiable(iterate, damping):
    """`(operator, b, v0) -> (v, residual)` whose derivative solves the same system again."""

    def solve(operator, b, v0):
        hessian = operator(0)

        def matvec(w):
            return tree.add_scale(hessian(w), damping, w)

        v = lax.custom_linear_solve(
            matvec,
            b,
            solve=lambda matvec, b: iterate(matvec, b, lax.stop_gradient(v0)),
            # The transposed system has another right-hand side, far from v0.
            transpose_solve=lambda matvec, b: iterate(matvec, b, tree.zeros_like(b)),
            symmetric=True,
        )
        return v, relative_norm(tree.sub(b, matvec(v)), b)

    return solve


def relative_norm(residual: PyTree, b: PyTree) -> jax.Array:
    """`||residual|| / ||b||`, or `||residual||` when b is zero."""
    scale = tree.norm(b)
    return tree.norm(residual) / jnp.where(scale == 0, 1, scale)


def _check(steps, damping):
    check(steps >= 1, "steps must be at least 1", steps)
    check(damping >= 0, "damping must be at least 0", damping)
