"""The method of conjugate gradients."""

from typing import Any

import jax.numpy as jnp
import optax
from jax import lax

from bilevel.linear.types import LinearSolver, check_system, implicitly_differentiable

tree = optax.tree


def cg(steps: int, *, damping: float = 0.0, tolerance: Any = None) -> LinearSolver:
    """Return `steps` iterations of conjugate gradients.

    The system is `(H + damping I) v = b`, and the first iterate is `v0`. After a direction of
    non-positive curvature v no longer moves, so an indefinite H gives a finite solution.

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

    Reference: Hestenes and Stiefel, Methods of conjugate gradients, J. Res. NBS 1952.
    """
    check_system(steps, damping)

    def iterate(matvec, b, v0):
        residual = b if v0 is None else tree.sub(b, matvec(v0))
        v0 = tree.zeros_like(b) if v0 is None else v0

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
        if tolerance is None:
            return lax.scan(step, carry, length=steps)[0][0]

        def unsolved(carry):
            square, count = carry[0][3], carry[1]
            return (count < steps) & (jnp.sqrt(square) > jnp.asarray(tolerance, square.dtype))

        def advance(carry):
            return step(carry[0], None)[0], carry[1] + 1

        return lax.while_loop(unsolved, advance, (carry, jnp.zeros((), jnp.int32)))[0][0]

    return LinearSolver(
        solve=implicitly_differentiable(iterate, damping), draws=1, products=steps + 1, start_products=1
    )
