"""Inner solvers: training of the inner variable `y` at a fixed outer variable `x`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.calculus import inner_gradient
from bilevel.feasible import projected_gradient
from bilevel.optimizers import as_optimizer, move
from bilevel.safe_derivatives import safely_differentiable
from bilevel.types import Batch, Cost, Optimizer, Problem, PyTree, require


class InnerSolver(NamedTuple):
    """An inner solver: trains `y` on `g` at a fixed `x`.

    `bilevel.testing.check_inner_solver` tests an implementation.

    Attributes:
      solve: `(x, y0, batch) -> y`, a pure function. `y` has the structure, shapes and dtypes of the
        starting point `y0`. It may be called under `jit`, `vmap` and `grad`, so all three arguments
        may be traced. It reads `batch.inner[i]`, where `i` may be traced too, and no other data.
      draws: number of inner minibatches that `solve` reads, `batch.inner[0]` to
        `batch.inner[draws - 1]`.
      cost: oracle calls of one solve; the largest number where the solver may stop earlier.
      back_cost: oracle calls of one reverse pass through `solve`. An empty `Cost()` means that `solve`
        need not have a reverse derivative; `unrolled` then cannot use it.
      residual: `(x, y, batch) -> scalar`, the norm of the (projected) gradient g_y on the last minibatch, for
        diagnostics; None if it is not known.
    """

    solve: Callable[[PyTree, PyTree, Batch], PyTree]
    draws: int
    cost: Cost
    back_cost: Cost
    residual: Callable[[PyTree, PyTree, Batch], Any] | None = None


def descend(
    problem: Problem, optimizer: Optimizer, steps: int, *, last: int | None = None, recompute: int = 0
) -> InnerSolver:
    """Return an inner solver of `steps` steps of an optax optimiser.

        y_{t+1} = y_t - optimizer(g_y(x, y_t; batch.inner[t])),   t = 0 .. steps - 1

    With an inner projection, every step ends with it. The optimiser's state is new at every solve. The
    reverse pass stores every iterate. With `recompute=k` it stores about (k + 1) steps^(1 / (k + 1))
    iterates and computes the others again, each at most k times.

    Args:
      problem: the two losses.
      optimizer: an optax optimiser, or a step size for gradient descent.
      steps: number of steps, at least 0.
      last: number of last steps to differentiate through; default: all steps.
      recompute: levels of checkpointing, 0 for none, 1 for the square root of the steps.

    Returns:
      An `InnerSolver` that reads one minibatch per step.

    Raises:
      ValueError: when `steps` or `recompute` is negative, or `last` is not between 0 and `steps`.

    Cost: `steps` gradients. The reverse pass makes one Hessian product, one cross product and
    `recompute` gradients for each step that is differentiated.

    Reference: Griewank and Walther, Evaluating Derivatives, 2nd edition 2008, chapter 12, for
    checkpointing at several levels.

    >>> from bilevel import Problem, full
    >>> halve = descend(Problem(None, lambda x, y, batch: 0.5 * y**2), 0.5, steps=3)
    >>> halve.solve(0.0, jnp.ones(()), full(None, None))
    Array(0.125, dtype=float32)
    """
    require(steps >= 0, "inner steps must be at least 0", steps)
    last = steps if last is None else last
    require(0 <= last <= steps, f"last must be between 0 and {steps}, the number of inner steps", last)
    require(recompute >= 0, "recompute must be at least 0", recompute)
    init, advance = descent(problem, optimizer)

    def solve(x, y0, batch):
        def step(carry, i):
            return advance(x, batch.inner[i], carry), None

        carry = init(y0)
        if last < steps:
            carry, _ = lax.scan(step, lax.stop_gradient(carry), jnp.arange(steps - last))
            carry = lax.stop_gradient(carry)
        return checkpointed(step, carry, jnp.arange(steps - last, steps), recompute)[0]

    return InnerSolver(
        solve=solve,
        draws=steps,
        cost=Cost(gradients=steps),
        back_cost=Cost(gradients=recompute * last, hessian_products=last, cross_products=last),
        residual=residual_on(problem, max(1, steps) - 1),
    )


def descent(problem: Problem, optimizer: Optimizer) -> tuple[Callable, Callable]:
    """Return the two functions of `descend`: `init(y)` and one step of the optimiser.

    Args:
      problem: the two losses.
      optimizer: an optax optimiser, or a step size.

    Returns:
      `y -> (y, state)` and `(x, minibatch, (y, state)) -> (y, state)`.
    """
    optimizer = safely_differentiable(as_optimizer(optimizer))
    gradient = inner_gradient(problem.inner)

    def step(x, minibatch, carry):
        y, state = carry

        def loss(y):
            return problem.inner(x, y, minibatch)

        g_y = gradient(x, y, minibatch)
        return move(optimizer, g_y, state, y, problem.inner_projection, loss=loss)

    return lambda y: (y, optimizer.init(y)), step


def checkpointed(step: Callable, carry: PyTree, indices: jax.Array, levels: int) -> PyTree:
    """Run `lax.scan` with recursive checkpointing and return the last carry.

    The steps are cut into segments, and only the carry at the start of each segment is stored. The
    reverse pass runs a segment again when it reaches it, with one level of checkpointing fewer.

    Args:
      step: body of the scan, `(carry, index) -> (carry, None)`.
      carry: first carry.
      indices: array to scan over.
      levels: levels of checkpointing; 0 is a plain scan.
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
    """Return an inner solver that embeds `x` once, before its first step.

        y = solve(z, y0),   z = embed(x, batch.inner[0])

    For example, z are the features of the training images. An inner loss that embedded x itself
    would compute z, and differentiate through it, at every step.

    Args:
      solver: an inner solver of a loss `(z, y, minibatch)`. All its steps must see the same minibatch.
      embed: `(x, minibatch) -> z`.

    Returns:
      An `InnerSolver`.

    Cost: the cost of `solver`, whose cross products act on z, and one product with dz/dx.
    """

    def solve(x, y0, batch):
        return solver.solve(embed(x, batch.inner[0]), y0, batch)

    def residual(x, y, batch):
        assert solver.residual is not None
        return solver.residual(embed(x, batch.inner[0]), y, batch)

    return solver._replace(solve=solve, residual=None if solver.residual is None else residual)


def accelerate(problem: Problem, optimizer: Optimizer, steps: int, *, condition: float) -> InnerSolver:
    """Return an inner solver with Nesterov's momentum, for strongly convex `g`.

        y_{t+1} = s_t - optimizer(g_y(x, s_t; batch.inner[t])),   s_0 = y_0,   t = 0 .. steps - 1
        s_{t+1} = y_{t+1} + m (y_{t+1} - y_t),   m = (sqrt(condition) - 1) / (sqrt(condition) + 1)

    With an inner projection every y is projected, but s is not: the loss must be defined outside of the set.
    The solution is the last y. `descend` with `optax.sgd(..., nesterov=True)` computes the same s, but
    its solution is the last s.

    Args:
      problem: the two losses.
      optimizer: an optax optimiser, or the step size 1 / L.
      steps: number of steps, at least 0.
      condition: condition number L / mu of the inner loss in y, at least 1; with 1 this is `descend`.

    Returns:
      An `InnerSolver` that reads one minibatch per step.

    Raises:
      ValueError: when `steps` is negative or `condition` is below 1.

    Cost: `steps` gradients. The reverse pass makes one Hessian and one cross product per step.

    Reference: Nesterov, Introductory lectures on convex optimization, 2004, section 2.2.
    """
    require(steps >= 0, "inner steps must be at least 0", steps)
    optimizer = safely_differentiable(as_optimizer(optimizer))
    gradient, weight = inner_gradient(problem.inner), momentum_weight(condition)

    def solve(x, y0, batch):
        def step(carry, i):
            y, ahead, state = carry
            minibatch = batch.inner[i]

            def loss(y):
                return problem.inner(x, y, minibatch)

            g_y = gradient(x, ahead, minibatch)
            new_y, state = move(optimizer, g_y, state, ahead, problem.inner_projection, loss=loss)
            return (new_y, optax.tree.add_scale(new_y, weight, optax.tree.sub(new_y, y)), state), None

        carry = y0, y0, optimizer.init(y0)
        return lax.scan(step, carry, jnp.arange(steps))[0][0]

    return InnerSolver(
        solve=solve,
        draws=steps,
        cost=Cost(gradients=steps),
        back_cost=Cost(0, steps, steps),
        residual=residual_on(problem, max(1, steps) - 1),
    )


def momentum_weight(condition: float) -> float:
    """Return Nesterov's weight `(sqrt(condition) - 1) / (sqrt(condition) + 1)`.

    Raises:
      ValueError: when `condition` is below 1.
    """
    require(condition >= 1, "a condition number must be at least 1", condition)
    return (condition**0.5 - 1) / (condition**0.5 + 1)


def descend_until(problem: Problem, optimizer: Optimizer, steps: int, *, tolerance: Any) -> InnerSolver:
    """Return an inner solver that stops when `||g_y||` is at most `tolerance`.

        y_{t+1} = y_t - optimizer(g_y(x, y_t; batch.inner[0]))   until ||g_y(x, y_t)|| <= tolerance

    With an inner projection, every step ends with it, and g_y is the projected gradient.

    Args:
      problem: the two losses.
      optimizer: an optax optimiser, or a step size for gradient descent.
      steps: largest number of steps, at least 0.
      tolerance: bound on the norm of the gradient; it may be traced.

    Returns:
      An `InnerSolver` that reads one minibatch. It has no reverse derivative: use it with `implicit`.

    Raises:
      ValueError: when `steps` is negative.

    Cost: at most `steps` gradients.
    """
    require(steps >= 0, "inner steps must be at least 0", steps)
    optimizer = as_optimizer(optimizer)

    def solve(x, y0, batch):
        def step(carry):
            y, state, count, _ = carry

            def loss(y):
                return problem.inner(x, y, batch.inner[0])

            gradient = jax.grad(loss)(y)
            norm = optax.tree.norm(projected_gradient(problem.inner_projection, y, gradient))
            solved = norm <= jnp.asarray(tolerance, norm.dtype)
            moved, state = move(optimizer, gradient, state, y, problem.inner_projection, loss=loss)
            return optax.tree.where(solved, y, moved), state, count + 1, solved

        def unsolved(carry):
            return (carry[2] < steps) & ~carry[3]

        carry = y0, optimizer.init(y0), jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return lax.while_loop(unsolved, step, carry)[0]

    return InnerSolver(
        solve=solve,
        draws=1,
        cost=Cost(gradients=steps),
        back_cost=Cost(),
        residual=residual_on(problem, 0),
    )


def inner_residual(problem: Problem, x: PyTree, y: PyTree, minibatch: Any) -> jax.Array:
    """Return the norm of the projected `g_y(x, y)` on one minibatch, 0 where the inner problem is solved."""
    g_y = jax.grad(problem.inner, argnums=1)(x, y, minibatch)
    return optax.tree.norm(projected_gradient(problem.inner_projection, y, g_y))


def residual_on(problem: Problem, number: int) -> Callable[[PyTree, PyTree, Batch], Any]:
    """Return the function `(x, y, batch) -> inner_residual` on one inner minibatch."""
    return lambda x, y, batch: inner_residual(problem, x, y, batch.inner[number])
