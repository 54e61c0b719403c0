"""Newton steps: y and its adjoint move by two linear systems with one Hessian, then x moves.

At a point (x, y, v) the right-hand sides are `p = g_y` and `q = H v - f_y`. The solution of `H s = p` gives
the Newton step `y - s`, and the solution of `H e = q` the adjoint `v - e`. An inexact solution takes a few
optimiser steps on

    g_y . (y' - y) + (y' - y)'H(y' - y)/2   in y'   and   v''H v'/2 - f_y . v'   in v'
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.calculus import gradient_and_hessian, products
from bilevel.combinators import move_outer
from bilevel.directions import Terms
from bilevel.estimators import Estimator
from bilevel.feasible import face
from bilevel.hypergradient import as_variables, measures
from bilevel.linear import relative_norm
from bilevel.optimizers import as_optimizer, move
from bilevel.sampling import Shifted
from bilevel.types import Algorithm, Batch, Cost, Draws, Optimizer, Point, Problem, PyTree, require

tree = optax.tree


class NewtonState(NamedTuple):
    """State of an algorithm of Newton steps.

    Attributes:
      x, y, v: outer and inner variable, adjoint.
      optimizer: states of the three optimisers.
      estimator: states of the estimators of the two right-hand sides and of the hypergradient.
      count: number of steps made.
    """

    x: PyTree
    y: PyTree
    v: PyTree
    optimizer: Point
    estimator: tuple[Any, Any]
    count: jax.Array


class Pair(NamedTuple):
    """Iterates y and v of the two systems, with the states of their optimisers."""

    y: PyTree
    v: PyTree
    states: tuple[Any, Any]


def newton_loop(
    problem: Problem,
    solve: Callable[..., Pair],
    estimators: tuple[Estimator, Estimator],
    *,
    inner_optimizer: Optimizer,
    outer_optimizer: Optimizer,
    adjoint_optimizer: Optimizer | None = None,
    draws: Draws,
    cost: Cost,
    damping: float = 0.0,
    warm_up: int = 0,
    name: str,
) -> Algorithm:
    """Return a loop of Newton steps: solve both systems inexactly, then move x.

        p, q = estimators[0] of (g_y, H v - f_y) at (x, y, v), on the first minibatches
        y, v <- solve, which starts with one step of each optimiser against p and q
        d = estimators[1] of f_x - J v at the new y and v, on the last minibatches
        x <- x - outer_optimizer(d)

    With an inner projection, every step of y ends with it, and the system of v is restricted to the free
    directions, see `bilevel.feasible`.

    Args:
      problem: the two losses.
      solve: `(point, sides, batch, started, descend) -> Pair`. `started` is the pair after the step
        against the right-hand sides; `descend(pair, slopes)` makes one more.
      estimators: the estimators of the right-hand sides and of the hypergradient.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes. The inner one keeps its
        state from step to step.
      adjoint_optimizer: optimiser of v; default: `inner_optimizer`.
      draws: minibatches of one step; d reads the last ones.
      cost: oracle calls of one step.
      damping: number added to the diagonal of H in both systems.
      warm_up: number of first steps in which x stays fixed, and y and v make one step of their optimisers.
      name: name in errors and reports.

    Raises:
      ValueError: if `damping` < 0 or `warm_up` < 0.
    """
    require(damping >= 0, "damping must be at least 0", damping)
    require(warm_up >= 0, "warm_up must be at least 0", warm_up)
    inner_mover, outer_mover = as_optimizer(inner_optimizer), as_optimizer(outer_optimizer)
    adjoint_mover = inner_mover if adjoint_optimizer is None else as_optimizer(adjoint_optimizer)
    side_estimator, gradient_estimator = estimators
    f, g = problem.outer, problem.inner

    def sides_at(point, batch):
        x, y, v = point
        g_y, hessian = gradient_and_hessian(g, x, y, batch.inner[0])
        free = face(problem, x, y, batch.inner[0])
        f_y = free.project(jax.grad(f, argnums=1)(x, y, batch.outer[0]))
        image = tree.add_scale(free.restrict(hessian)(v), damping, v)
        still = _still(side_estimator, x)
        outer = Point(still, tree.zeros_like(y), tree.scale(-1, f_y))
        return Terms(outer, Point(still, g_y, image), 0.0)

    def gradient_at(point, batch):
        x, y, v = point
        v = face(problem, x, y, batch.inner[0]).project(v)
        cross = products(g, x, y, batch.inner[0], v).cross
        f_x = jax.grad(f)(x, y, batch.outer[0])
        still = _still(gradient_estimator, y)
        return Terms(Point(f_x, still, still), Point(tree.scale(-1, cross), still, still), 0.0)

    def descend_pair(pair, slopes):
        y, y_state = move(inner_mover, slopes.y, pair.states[0], pair.y, problem.inner_projection)
        v, v_state = move(adjoint_mover, slopes.v, pair.states[1], pair.v)
        return Pair(y, v, (y_state, v_state))

    def init(x, y, blocks=(1, 1)):
        x, y = as_variables(x, y)
        v = tree.zeros_like(y)
        sides = Point(_still(side_estimator, x), y, v)
        gradient = Point(x, _still(gradient_estimator, y), _still(gradient_estimator, v))
        return NewtonState(
            x=x,
            y=y,
            v=v,
            optimizer=Point(outer_mover.init(x), inner_mover.init(y), adjoint_mover.init(v)),
            estimator=(side_estimator.init(sides, blocks), gradient_estimator.init(gradient, blocks)),
            count=jnp.zeros((), jnp.int32),
        )

    def step(state, batch, key):
        x, point = state.x, Point(state.x, state.y, state.v)
        side_memory, gradient_memory = state.estimator
        sides, side_memory, terms = side_estimator.update(sides_at, side_memory, point, batch, key)
        started = descend_pair(Pair(state.y, state.v, state.optimizer[1:]), sides)
        solved = solve(point, sides, batch, started, descend_pair)
        resting = jnp.less(state.count, warm_up)
        pair = tree.where(resting, started, solved) if warm_up else solved

        last = Batch(Shifted(batch.outer, draws.outer - 1), Shifted(batch.inner, draws.inner - 1))
        end = Point(x, pair.y, pair.v)
        d, gradient_memory, _ = gradient_estimator.update(gradient_at, gradient_memory, end, last, key)

        _, matvec = systems(problem, point, batch.inner[0], damping)
        residual = relative_norm(tree.add(matvec(pair.v), terms.outer.v), terms.outer.v)
        metrics = measures(problem, x, pair.y, batch, draws.inner - 1, d.x, residual)
        moved = move_outer(problem, outer_mover, d.x, state.optimizer.x, x, metrics)
        new_x, x_state = tree.where(resting, (x, state.optimizer.x), moved) if warm_up else moved
        new = NewtonState(
            x=new_x,
            y=pair.y,
            v=pair.v,
            optimizer=Point(x_state, *pair.states),
            estimator=(side_memory, gradient_memory),
            count=state.count + 1,
        )
        return new, metrics

    return Algorithm(
        init=init,
        step=step,
        draws=draws._replace(fixed=any(estimator.fixed for estimator in estimators)),
        cost=cost,
        name=name,
        seeds_in_sequence=any(estimator.seeds_in_sequence for estimator in estimators),
    )


def _still(estimator, variable):
    """Return the direction of a variable that does not move: zeros, or `()` for a table.

    An estimator that evaluates its oracle at an earlier point keeps that point, so its directions must have
    the structure of one. A table keeps directions only, and zeros would take room in each of its entries.
    """
    return () if estimator.fixed else tree.zeros_like(variable)


def gradient_steps(extra_steps: int, slopes: Callable[..., Callable]) -> Callable[..., Pair]:
    """Return a `solve` of `newton_loop` that makes more steps of the inner optimiser.

    Args:
      extra_steps: number of further steps, at least 0.
      slopes: `(point, sides, batch) -> (i, y, v) -> Point((), slope of y, slope of v)`, i from 1.
    """
    require(extra_steps >= 0, "extra_steps must be at least 0", extra_steps)

    def solve(point, sides, batch, started, descend):
        at = slopes(point, sides, batch)

        def step(pair, i):
            return descend(pair, at(i, pair.y, pair.v)), None

        return lax.scan(step, started, jnp.arange(1, extra_steps + 1))[0]

    return solve


def fixed_sides(problem: Problem, damping: float = 0.0, *, fresh: bool = False) -> Callable[..., Callable]:
    """Return the slopes `p + H (y - y_k)` and `q + H (v - v_k)`, for `gradient_steps`.

    Args:
      problem: the two losses.
      damping: number added to the diagonal of H.
      fresh: whether step i reads H on minibatch i; otherwise every step reads it on the first one.
    """

    def slopes(point, sides, batch):
        def systems_of(i):
            return systems(problem, point, batch.inner[i], damping)

        first = systems_of(0)

        def at(i, y, v):
            of_y, of_v = systems_of(i) if fresh else first
            s, e = of_y(tree.sub(y, point.y)), of_v(tree.sub(v, point.v))
            return Point((), tree.add(sides.y, s), tree.add(sides.v, e))

        return at

    return slopes


def systems(
    problem: Problem, point: Point, minibatch: Any, damping: float
) -> tuple[Callable[[PyTree], PyTree], Callable[[PyTree], PyTree]]:
    """Return the damped matrices of the systems of y and of v, as maps linearised once.

    Both are `H + damping I`. With an inner projection, the matrix for v is restricted to the free directions.
    """
    _, hessian = gradient_and_hessian(problem.inner, point.x, point.y, minibatch)
    restricted = face(problem, point.x, point.y, minibatch).restrict(hessian)
    return (
        lambda w: tree.add_scale(hessian(w), damping, w),
        lambda w: tree.add_scale(restricted(w), damping, w),
    )
