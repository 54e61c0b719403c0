"""Inner solvers: how the inner variable is trained for one outer step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.calculus import inner_gradient
from bilevel.types import Cost, Problem, PyTree, require


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


def as_rate(rate: float | None, optimizer) -> float:
    """The rate of a Neumann series: as given, or the step size of the inner optimiser.

    Raises:
      ValueError: when neither is a number.
    """
    if rate is None and (callable(optimizer) or isinstance(optimizer, tuple)):
        raise ValueError("rate must be given (at most 1/L) when inner_optimizer is not a step size")
    return optimizer if rate is None else rate


def descend(
    problem: Problem, optimizer, steps: int, *, last: int | None = None, recompute: int = 0
) -> InnerSolver:
    """An inner solver: `steps` steps of an optax optimiser on the inner loss.

        y_{t+1} = y_t + optimizer(g_y(x, y_t; batch.inner[t])),   t = 0 .. steps - 1

    The optimiser starts afresh at every solve. In reverse every iterate is stored; with `recompute`
    k, about (k + 1) steps^(1 / (k + 1)) of them, and the others are made again, up to k times each.

    Args:
      problem: the two losses.
      optimizer: an optax optimiser, or a step size for gradient descent.
      steps: number of steps, at least 0.
      last: differentiate through the last so many steps only (all when None).
      recompute: levels of checkpointing, 0 for none, 1 for the square root of the steps.

    Returns:
      An `InnerSolver`.

    Raises:
      ValueError: when `steps` or `recompute` is negative or `last` is not in `0..steps`.

    Cost: `steps` gradients; in reverse one Hessian and one cross product a step differentiated, and
    `recompute` gradients.

    Reference: Griewank and Walther, Evaluating Derivatives, 2nd edition 2008, chapter 12, for
    checkpointing at several levels.

    >>> from bilevel import Problem, full
    >>> halve = descend(Problem(None, lambda x, y, batch: 0.5 * y**2), 0.5, steps=3)
    >>> halve.solve(0.0, jnp.ones(()), full(None, None))
    Array(0.125, dtype=float32)
    """
    require(steps >= 0, "inner steps must be at least 0", steps)
    last = steps if last is None else last
    require(0 <= last <= steps, f"last must be in 0..{steps} (the inner steps)", last)
    require(recompute >= 0, "recompute must be at least 0", recompute)
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
        return checkpointed(step, carry, jnp.arange(steps - last, steps), recompute)[0]

    again = Cost(gradients=recompute * last)
    return InnerSolver(solve, steps, Cost(gradients=steps), Cost(0, last, last).plus(again))


def checkpointed(step: Callable, carry: PyTree, indices: jax.Array, levels: int) -> PyTree:
    """The last carry of `lax.scan(step, carry, indices)`, with less memory in reverse.

    The steps are cut into segments whose starts alone are stored; a segment is run again when the
    reverse pass comes to it, and is cut in its turn with the levels that are left.
    """
    count = round(len(indices) ** (1 / (levels + 1))) if levels else 0
    if count < 2:
        return lax.scan(step, carry, indices)[0]

    @jax.checkpoint
    def segment(carry, indices):
        return checkpointed(step, carry, indices, levels - 1), None

    even = len(indices) // count * count
    carry, _ = lax.scan(segment, carry, indices[:even].reshape(count, -1))
    return lax.scan(step, carry, indices[even:])[0]


def embedded(solver: InnerSolver, embed: Callable[[PyTree, Any], PyTree]) -> InnerSolver:
    """An inner solver whose steps share what is made of x once, such as features.

        y = solve(z, y0),   z = embed(x, batch.inner[0])

    Every step would compute z again, and send its derivative back through it, if the inner loss did
    so itself.

    Args:
      solver: of an inner loss `(z, y, minibatch)`; it must see one minibatch at all steps.
      embed: `(x, minibatch) -> z`.

    Cost: the solver's; its cross products act on z, and one product with dz/dx follows.
    """

    def solve(x, y0, batch):
        return solver.solve(embed(x, batch.inner[0]), y0, batch)

    return solver._replace(solve=solve)


def accelerate(problem: Problem, optimizer, steps: int, *, condition: float) -> InnerSolver:
    """An inner solver: descent with Nesterov's momentum, for strongly convex g.

        y_{t+1} = s_t + optimizer(g_y(x, s_t; batch.inner[t])),   s_0 = y_0,   t = 0 .. steps - 1
        s_{t+1} = y_{t+1} + m (y_{t+1} - y_t),   m = (sqrt(condition) - 1) / (sqrt(condition) + 1)

    The answer is the last y. (`optax.sgd(..., nesterov=True)` in `descend` makes the same s, and
    answers with the last of them.)

    Args:
      problem: the two losses.
      optimizer: an optax optimiser, or the step size 1 / L.
      steps: number of steps, at least 0.
      condition: L / mu of the inner loss in y, at least 1; 1 is `descend`.

    Returns:
      An `InnerSolver`.

    Raises:
      ValueError: when `steps` is negative or `condition` is below 1.

    Cost: `steps` gradients; in reverse one Hessian and one cross product a step.

    Reference: Nesterov, Introductory lectures on convex optimization, 2004, section 2.2.
    """
    require(steps >= 0, "inner steps must be at least 0", steps)
    optimizer = as_optimizer(optimizer)
    gradient, weight = inner_gradient(problem.inner), momentum_weight(condition)

    def solve(x, y0, batch):
        def step(carry, i):
            y, ahead, state = carry
            updates, state = optimizer.update(gradient(x, ahead, batch.inner[i]), state, ahead)
            new_y = optax.apply_updates(ahead, updates)
            return (new_y, optax.tree.add_scale(new_y, weight, optax.tree.sub(new_y, y)), state), None

        carry = y0, y0, optimizer.init(y0)
        return lax.scan(step, carry, jnp.arange(steps))[0][0]

    return InnerSolver(solve, steps, Cost(gradients=steps), Cost(0, steps, steps))


def momentum_weight(condition: float) -> float:
    """Nesterov's `(sqrt(condition) - 1) / (sqrt(condition) + 1)` for strongly convex problems.

    Raises:
      ValueError: when `condition` is below 1.
    """
    require(condition >= 1, "a condition number must be at least 1", condition)
    return (condition**0.5 - 1) / (condition**0.5 + 1)


def descend_until(problem: Problem, optimizer, steps: int, *, tolerance) -> InnerSolver:
    """An inner solver: as many steps on one minibatch as make `||g_y||` at most `tolerance`.

        y_{t+1} = y_t + optimizer(g_y(x, y_t; batch.inner[0]))   until ||g_y(x, y_t)|| <= tolerance

    Args:
      problem: the two losses.
      optimizer: an optax optimiser, or a step size for gradient descent.
      steps: the most that are made.
      tolerance: where to stop; it may be traced.

    Returns:
      An `InnerSolver` of one minibatch that has no reverse derivative: for `implicit` only.

    Raises:
      ValueError: when `steps` is negative.

    Cost: at most `steps` gradients.
    """
    require(steps >= 0, "inner steps must be at least 0", steps)
    optimizer = as_optimizer(optimizer)

    def solve(x, y0, batch):
        def step(carry):
            y, state, count, _ = carry
            gradient = jax.grad(problem.inner, argnums=1)(x, y, batch.inner[0])
            updates, state = optimizer.update(gradient, state, y)
            norm = optax.tree.norm(gradient)
            solved = norm <= jnp.asarray(tolerance, norm.dtype)
            y = optax.tree.where(solved, y, optax.apply_updates(y, updates))
            return y, state, count + 1, solved

        def unsolved(carry):
            return (carry[2] < steps) & ~carry[3]

        carry = y0, optimizer.init(y0), jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return lax.while_loop(unsolved, step, carry)[0]

    return InnerSolver(solve, 1, Cost(gradients=steps), Cost())


def inner_residual(problem: Problem, x: PyTree, y: PyTree, minibatch) -> jax.Array:
    """`||g_y(x, y)||` on one minibatch: how far the inner problem is from solved."""
    return optax.tree.norm(jax.grad(problem.inner, argnums=1)(x, y, minibatch))
