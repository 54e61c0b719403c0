"""Limited-memory BFGS, with an inverse Hessian that the response can use again.

`optax.scale_by_lbfgs` does not fit here. It applies its inverse only to the gradient that also enters
its memory, and it accepts pairs of negative curvature.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.linear.cg import GROWTH, is_convex, largest_curvature
from bilevel.optimizers import as_optimizer, move
from bilevel.types import Batch, Cost, Optimizer, Problem, PyTree, require

tree = optax.tree


class Memory(NamedTuple):
    """The last pairs (s, r): a step s and the change r = H s of the gradient along it.

    Attributes:
      steps, changes: the s and the r, stacked along a leading axis that serves as a ring buffer.
      weights: 1 / <s, r> of each pair, and 0 in places not yet used.
      scale: <s, r> / <r, r> of the newest pair. The inverse is `scale` times the identity on
        directions orthogonal to all pairs.
      count: number of pairs accepted so far.
    """

    steps: PyTree
    changes: PyTree
    weights: jax.Array
    scale: jax.Array
    count: jax.Array


class QuasiNewtonSolver(NamedTuple):
    """An inner solver that also returns an approximate inverse Hessian.

    Attributes:
      solve: `(x, y0, batch) -> (y, memory)`, a pure function; `apply_inverse(memory, w)` is the
        approximation of `H^-1 w`.
      draws: number of inner minibatches that `solve` reads.
      cost: oracle calls of one solve.
    """

    solve: Callable[[PyTree, PyTree, Batch], tuple[PyTree, Memory]]
    draws: int
    cost: Cost


def empty_memory(y: PyTree, size: int) -> Memory:
    """Return a memory of `size` pairs shaped like `y`; its inverse is the identity."""
    stacked = jax.tree.map(lambda leaf: jnp.zeros((size, *leaf.shape), leaf.dtype), y)
    dtype = jnp.asarray(tree.norm(y)).dtype
    return Memory(
        steps=stacked,
        changes=stacked,
        weights=jnp.zeros(size, dtype),
        scale=jnp.ones((), dtype),
        count=jnp.zeros((), jnp.int32),
    )


def remember_pair(memory: Memory, step: PyTree, change: PyTree, floor: Any = 0.0) -> Memory:
    """Return the memory with one more pair, or unchanged if the pair is refused.

    A pair is refused when its curvature <s, r> is not positive, since the inverse would no longer be
    positive definite. It is also refused when its step is not longer than `floor`, since `change` is
    then rounding noise.
    """
    curvature = tree.vdot(step, change)
    step_square, change_square = tree.norm(step, squared=True), tree.norm(change, squared=True)
    rounding = jnp.finfo(memory.scale.dtype).eps * jnp.sqrt(step_square * change_square)
    good = jnp.greater(curvature, rounding) & jnp.greater(step_square, floor * floor)
    safe_curvature = jnp.where(good, curvature, 1)
    place = memory.count % memory.weights.shape[0]

    def put(ring, value):
        return ring.at[place].set(jnp.where(good, value, ring[place]))

    return Memory(
        steps=jax.tree.map(put, memory.steps, step),
        changes=jax.tree.map(put, memory.changes, change),
        weights=put(memory.weights, 1 / safe_curvature),
        scale=jnp.where(good, safe_curvature / jnp.where(good, change_square, 1), memory.scale),
        count=memory.count + good.astype(jnp.int32),
    )


def apply_inverse(memory: Memory, w: PyTree) -> PyTree:
    """Compute `B^-1 w` by the two-loop recursion.

        B^-1 <- (I - weight s r') B^-1 (I - weight r s') + weight s s',   oldest pair first, from scale I

    Reference: Nocedal and Wright, Numerical Optimization, 2006, Algorithm 7.4.
    """
    size = memory.weights.shape[0]
    oldest_first = (memory.count + jnp.arange(size, dtype=jnp.int32)) % size

    def pair(i):
        return *(jax.tree.map(lambda ring: ring[i], ring) for ring in memory[:2]), memory.weights[i]

    def right(w, i):
        step, change, weight = pair(i)
        share = weight * tree.vdot(step, w)
        return tree.add_scale(w, -share, change), share

    def left(w, entry):
        i, share = entry
        step, change, weight = pair(i)
        return tree.add_scale(w, share - weight * tree.vdot(change, w), step), None

    w, shares = lax.scan(right, w, oldest_first, reverse=True)
    return lax.scan(left, tree.scale(memory.scale, w), (oldest_first, shares))[0]


def quasi_newton(
    problem: Problem,
    optimizer: Optimizer,
    steps: int,
    *,
    plain_steps: int = 1,
    memory: int = 10,
    step_size: float | None = None,
) -> QuasiNewtonSolver:
    """Return an inner solver: plain steps, then quasi-Newton steps.

        y <- y - optimizer(g_y(x, y)),   plain_steps times
        y <- y - t B^-1 g_y(x, y),       steps times

    By default t is a secant step: the zero of the line through the slopes of g at both ends of the
    unit step. Where g is quadratic, this is the exact minimiser along the direction, and B is exact
    after as many steps as y has entries. The two gradients of a pair use the same minibatch.

    Args:
      problem: the two losses.
      optimizer: optax optimiser or step size of the plain steps. The last plain step gives the first
        pair.
      steps: number of quasi-Newton steps, at least 0.
      plain_steps: number of plain steps, at least 1.
      memory: number of pairs kept, at least 1.
      step_size: a constant t; default: the secant step.

    Returns:
      A `QuasiNewtonSolver`.

    Raises:
      ValueError: when `steps` < 0, `plain_steps` < 1 or `memory` < 1.

    Cost: `plain_steps + 1 + 2 steps` gradients.
    """
    require(steps >= 0, "quasi-Newton steps must be at least 0", steps)
    require(plain_steps >= 1, "plain_steps must be at least 1", plain_steps)
    require(memory >= 1, "memory must be at least 1", memory)
    optimizer = as_optimizer(optimizer)
    gradient = jax.grad(problem.inner, argnums=1)

    def solve(x, y0, batch):
        def plain_step(carry, i):
            y, state = carry[:2]
            g_y = gradient(x, y, batch.inner[i])
            moved, state = move(optimizer, g_y, state, y, loss=lambda y: problem.inner(x, y, batch.inner[i]))
            return (moved, state, tree.sub(moved, y), g_y), None

        def remember(pairs, y, step, change):
            # Over a shorter step the change of a gradient is lost in its rounding.
            floor = jnp.sqrt(jnp.finfo(pairs.scale.dtype).eps) * tree.norm(y)
            return remember_pair(pairs, step, change, floor)

        def step(carry, i):
            y, pairs = carry
            g_y = gradient(x, y, batch.inner[i])
            direction = tree.scale(-1.0 if step_size is None else -step_size, apply_inverse(pairs, g_y))
            change = tree.sub(gradient(x, tree.add(y, direction), batch.inner[i]), g_y)
            length = 1.0
            if step_size is None:
                length = _secant(tree.vdot(direction, g_y), tree.vdot(direction, change))
            return (tree.add_scale(y, length, direction), remember(pairs, y, direction, change)), None

        zero = tree.zeros_like(y0)
        (y, _, last, g_y), _ = lax.scan(
            plain_step, (y0, optimizer.init(y0), zero, zero), jnp.arange(plain_steps)
        )
        change = tree.sub(gradient(x, y, batch.inner[plain_steps - 1]), g_y)
        pairs = remember(empty_memory(y0, memory), y, last, change)
        return lax.scan(step, (y, pairs), jnp.arange(plain_steps, plain_steps + steps))[0]

    return QuasiNewtonSolver(solve, plain_steps + steps, Cost(gradients=plain_steps + 1 + 2 * steps))


def _secant(slope, rise):
    """Return the zero of `slope + t rise`, or 1 if g is concave, flat or lost in rounding."""
    usable = jnp.greater(rise, -1e-3 * slope) & jnp.less(slope, 0)
    return jnp.where(usable, -slope / jnp.where(usable, rise, 1), 1)


def solve_quadratic(
    memory: Memory, matvec: Callable[[PyTree], PyTree], b: PyTree, v0: PyTree, steps: int
) -> tuple[PyTree, Memory]:
    """Solve `H v = b` by quasi-Newton steps with exact line search.

        d = B^-1 (b - H v),   v <- v + t d,   then the pair (d, H d) enters B

    With an empty memory these are the iterates of conjugate gradients. Pairs of earlier solves
    precondition the system. As in `cg`, v stops at a direction of non-positive curvature. The solution is
    then the point with the smallest residual on the lines between the iterates (residual smoothing).

    Args:
      memory: pairs that define B.
      matvec: `w -> H w`.
      b: right-hand side.
      v0: starting point.
      steps: number of steps.

    Returns:
      `(v, memory)`: the solution and the memory with the new pairs.

    Cost: `steps + 1` Hessian products; the residual at `v0` takes one.
    """

    def step(carry, _):
        v, residual, pairs, largest, best, best_residual, _ = carry
        direction = apply_inverse(pairs, residual)
        image = matvec(direction)
        curvature = jnp.asarray(tree.vdot(direction, image))
        largest = largest_curvature(largest, curvature, image)
        convex = is_convex(curvature, tree.norm(direction, squared=True), largest)
        length = jnp.where(convex, tree.vdot(direction, residual) / jnp.where(convex, curvature, 1), 0)
        v, residual = tree.add_scale(v, length, direction), tree.add_scale(residual, -length, image)
        pairs = tree.where(convex, remember_pair(pairs, direction, image), pairs)

        gap = tree.sub(residual, best_residual)
        square = tree.norm(gap, squared=True)
        slope = jnp.asarray(tree.vdot(best_residual, gap))
        share = jnp.where(square > 0, -slope / jnp.where(square > 0, square, 1), 0)
        best = tree.add_scale(best, share, tree.sub(v, best))
        best_residual = tree.add_scale(best_residual, share, gap)
        stopped = ~convex & (tree.norm(residual) > 0)
        return (v, residual, pairs, largest, best, best_residual, stopped), None

    first = tree.sub(b, matvec(v0))
    carry = v0, first, memory, jnp.zeros_like(memory.scale), v0, first, jnp.zeros((), bool)
    (v, residual, memory, _, best, best_residual, stopped), _ = lax.scan(step, carry, length=steps)
    grown = tree.norm(residual) > GROWTH * tree.norm(best_residual)
    return tree.where(stopped | grown, best, v), memory
