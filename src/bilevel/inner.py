"""Inner solvers: how the inner variable is trained for one outer step."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.calculus import inner_gradient
from bilevel.types import Cost, Problem, PyTree, check


class InnerSolver(NamedTuple):
    """How y is trained on g for a given x.

    Attributes:
      solve: `(x, y0, batch) -> y`, differentiable in reverse.
      draws: inner minibatches it reads, `batch.inner[0]` to `batch.inner[draws - 1]`.
      cost: oracle calls of one solve.
      back_cost: oracle calls of one reverse pass through it.
    """

    solve: Callable
    draws: int
    cost: Cost
    back_cost: Cost


def as_optimizer(
    optimizer: float | optax.Schedule | optax.GradientTransformation,
) -> optax.GradientTransformation:
    """An optax optimiser; a number (or a schedule) means gradient descent with that step size."""
    if isinstance(optimizer, optax.GradientTransformation):
        return optimizer
    return optax.sgd(optimizer)


def descend(problem: Problem, optimizer, steps: int, *, last: int | None = None) -> InnerSolver:
    """An inner solver: `steps` steps of an optax optimiser on the inner loss.

        y_{t+1} = y_t + optimizer(g_y(x, y_t; batch.inner[t])),   t = 0 .. steps - 1

    The optimiser starts afresh at every solve.

    Args:
      problem: the two losses.
      optimizer: an optax optimiser, or a step size for gradient descent.
      steps: number of steps, at least 0.
      last: differentiate through the last so many steps only (all when None).

    Returns:
      An `InnerSolver`.

    Raises:
      ValueError: when `steps` is negative or `last` is not in `0..steps`.

    Cost: `steps` gradients; in reverse one Hessian and one cross product a step differentiated.

    >>> from bilevel import Problem, full
    >>> halve = descend(Problem(None, lambda x, y, batch: 0.5 * y**2), 0.5, steps=3)
    >>> halve.solve(0.0, jnp.ones(()), full(None, None))
    Array(0.125, dtype=float32)
    """
    check(steps >= 0, "inner steps must be at least 0", steps)
    last = steps if last is None else last
    check(0 <= last <= steps, f"last must be in 0..{steps} (the inner steps)", last)
    optimizer = as_optimizer(optimizer)
    gradient = inner_gradient(problem.inner)

    def solve(x, y0, batch):
        def step(carry, i):
            y, state = carry
            updates, state = optimizer.update(gradient(x, y, batch.inner[i]), state, y)
            return (optax.apply_updates(y, updates), state), None

        carry = y0, optimizer.init(y0)
        if last < steps:
            carry, _ = lax.scan(step, lax.stop_gradient(carry), jnp.arange(steps - last))
            carry = lax.stop_gradient(carry)
        (y, _), _ = lax.scan(step, carry, jnp.arange(steps - last, steps))
        return y

    return InnerSolver(solve, steps, Cost(gradients=steps), Cost(0, last, last))


def inner_residual(problem: Problem, x: PyTree, y: PyTree, minibatch) -> jax.Array:
    """`||g_y(x, y)||` on one minibatch: how far the inner problem is from solved."""
    return optax.tree.norm(jax.grad(problem.inner, argnums=1)(x, y, minibatch))
