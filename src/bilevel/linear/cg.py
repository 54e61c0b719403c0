"""The method of conjugate gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.linear.types import LinearSolver, check_system, implicitly_differentiable
from bilevel.types import PyTree

tree = optax.tree

ROUNDING = 10
"""A curvature below this number of machine epsilons, relative to the largest one, is rounding error."""
GROWTH = 10
"""Ratio of the residuals of the last and the best iterate above which `cg` returns the best one."""


class CGState(NamedTuple):
    """State of the method of conjugate gradients.

    Attributes:
      v: last iterate.
      residual: b - H v.
      square: squared norm of `residual`.
      direction: direction of the next step.
      length: squared norm of `direction`.
      largest: largest curvature seen.
      best: iterate of the Krylov space with the smallest residual (MINRES).
      best_square: squared norm of its residual.
      stopped: whether the direction has no positive curvature.
    """

    v: PyTree
    residual: PyTree
    square: jax.Array
    direction: PyTree
    length: jax.Array
    largest: jax.Array
    best: PyTree
    best_square: jax.Array
    stopped: jax.Array


def cg(steps: int, *, damping: float = 0.0, tolerance: Any = None) -> LinearSolver:
    """Return `steps` iterations of conjugate gradients.

    The system is `(H + damping I) v = b`, and the first iterate is `v0`. The solution is the last iterate if
    H is positive definite.

    The iteration stops at a direction p of non-positive curvature: `p'Hp` is at most 10 machine epsilons,
    relative to `p'p` and the largest curvature seen. H is then indefinite, or it is singular and b is
    outside its range. The solution is then the iterate with the smallest residual in the same Krylov space
    (MINRES). It also replaces a last iterate whose residual is 10 times larger, as in a singular system that
    did not reach its null space; with a condition number below 100 this cannot happen. Either way
    v stays moderate, and the reported residual is not small. If it stays large, y is at a saddle of g or
    the system has no solution: use `damping`, or add an L2 term to g.

    Args:
      steps: number of iterations, at least 1.
      damping: added to the diagonal of H.
      tolerance: stop when `||b - (H + damping I) v||` is at most this; it may be traced. Default: make
        all steps.

    Returns:
      A `LinearSolver` that reads one minibatch.

    Raises:
      ValueError: when `steps` < 1 or `damping` < 0.

    Cost: `steps + 1` Hessian products, since the residual at `v0` takes one; fewer with a tolerance.

    >>> import jax.numpy as jnp
    >>> cg(1).solve(lambda i: lambda w: 0.5 * w, jnp.ones(2), jnp.zeros(2))[0]
    Array([2., 2.], dtype=float32)

    References: Hestenes and Stiefel, Methods of conjugate gradients, J. Res. NBS 1952. Zhou and Walker,
    Residual smoothing techniques for iterative methods, SIAM J. Sci. Comput. 1994, for the smallest residual.
    """
    check_system(steps, damping)

    def iterate(matvec, b, v0):
        residual = b if v0 is None else tree.sub(b, matvec(v0))
        v = tree.zeros_like(b) if v0 is None else v0
        square = jnp.asarray(tree.vdot(residual, residual))
        state = CGState(
            v=v,
            residual=residual,
            square=square,
            direction=residual,
            length=square,
            largest=jnp.zeros_like(square),
            best=v,
            best_square=square,
            stopped=jnp.zeros((), bool),
        )

        def step(state, _):
            return _step(matvec, state), None

        if tolerance is None:
            return _solution(lax.scan(step, state, length=steps)[0])

        def unsolved(carry):
            state, count = carry
            large = jnp.sqrt(state.square) > jnp.asarray(tolerance, state.square.dtype)
            return (count < steps) & large & ~state.stopped

        def advance(carry):
            return _step(matvec, carry[0]), carry[1] + 1

        return _solution(lax.while_loop(unsolved, advance, (state, jnp.zeros((), jnp.int32)))[0])

    return LinearSolver(
        solve=implicitly_differentiable(iterate, damping), draws=1, products=steps + 1, start_products=1
    )


def _step(matvec, state):
    image = matvec(state.direction)
    curvature = jnp.asarray(tree.vdot(state.direction, image))
    largest = largest_curvature(state.largest, curvature, image)
    # A solved system stays solved: its residual may underflow before its curvature does.
    solved = state.square == 0
    convex = is_convex(curvature, state.length, largest) & ~solved
    length = jnp.where(convex, state.square / jnp.where(convex, curvature, 1), 0)
    v = tree.add_scale(state.v, length, state.direction)
    residual = tree.add_scale(state.residual, -length, image)
    square = jnp.asarray(tree.vdot(residual, residual))
    grow = jnp.where(convex, square / jnp.where(convex, state.square, 1), 0)
    # Residuals of conjugate gradients are orthogonal. The smallest residual of their affine hull is the mean
    # with weights 1 / square.
    total = state.best_square + square
    share = jnp.where(convex & (total > 0), state.best_square / jnp.where(total > 0, total, 1), 0)
    return CGState(
        v=v,
        residual=residual,
        square=square,
        direction=tree.where(convex, tree.add_scale(residual, grow, state.direction), state.direction),
        length=jnp.where(convex, square + grow**2 * state.length, state.length),
        largest=largest,
        best=tree.add_scale(state.best, share, tree.sub(v, state.best)),
        best_square=jnp.where(convex, share * square, state.best_square),
        stopped=~convex & ~solved,
    )


def _solution(state):
    grown = state.square > GROWTH**2 * state.best_square
    return tree.where(state.stopped | grown, state.best, state.v)


def largest_curvature(largest: jax.Array, curvature: jax.Array, image: PyTree) -> jax.Array:
    """Return the larger one of `largest` and `||Hp||^2 / p'Hp`.

    This is a Rayleigh quotient, `q'Hq / q'q` with `q = H^(1/2) p`. Unlike `p'Hp / p'p`, it does not vanish
    when p comes close to the null space of H.

    Args:
      largest: largest curvature so far.
      curvature: `p'Hp`.
      image: `H p`.
    """
    positive = curvature > 0
    quotient = tree.vdot(image, image) / jnp.where(positive, curvature, 1)
    return jnp.maximum(largest, jnp.where(positive, quotient, 0))


def is_convex(curvature: jax.Array, length: jax.Array, largest: jax.Array) -> jax.Array:
    """Return whether the curvature of a direction is positive, beyond rounding errors.

    Args:
      curvature: `p'Hp`.
      length: `p'p`.
      largest: see `largest_curvature`.
    """
    epsilon = jnp.finfo(curvature.dtype).eps
    return (curvature > 0) & (curvature > ROUNDING * epsilon * largest * length)
