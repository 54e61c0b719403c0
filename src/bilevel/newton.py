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
from bilevel.combinators import move
from bilevel.directions import Terms
from bilevel.estimators import Estimator
from bilevel.hypergradient import as_variables, measures
from bilevel.inner import as_optimizer
from bilevel.linear import relative_norm
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
    draws: Draws,
    cost: Cost,
    damping: float = 0.0,
    warm_up: int = 0,
    name: str,
) -> Algorithm:
    """Return a loop of Newton steps: solve both systems inexactly, then move x.

        p, q = estimators[0] of (g_y, H v - f_y) at (x, y, v), on the first minibatches
        y, v <- solve, which starts with one step of inner_optimizer against p and q
        d = estimators[1] of f_x - J v at the new y and v, on the last minibatches
        x <- x - outer_optimizer(d)

    Args:
      problem: the two losses.
      solve: `(point, sides, batch, started, descend) -> Pair`. `started` is the pair after the step
        against the right-hand sides; `descend(pair, slopes)` makes one more.
      estimators: the estimators of the right-hand sides and of the hypergradient.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes. The inner one keeps its
        state from step to step.
      draws: minibatches of one step; d reads the last ones.
      cost: oracle calls of one step.
      damping: number added to the diagonal of H in both systems.
      warm_up: number of first steps in which x stays fixed, and y and v make one step of inner_optimizer.
      name: name in errors and reports.

    Raises:
      ValueError: if `damping` < 0 or `warm_up` < 0.
    """
    require(damping >= 0, "damping must be at least 0", damping)
    require(warm_up >= 0, "warm_up must be at least 0", warm_up)
    inner_mover, outer_mover = as_optimizer(inner_optimizer), as_optimizer(outer_optimizer)
    side_estimator, gradient_estimator = estimators
    f, g = problem

    def sides_at(point, batch):
        x, y, v = point
        g_y, hessian = gradient_and_hessian(g, x, y, batch.inner[0])
        f_y = jax.grad(f, argnums=1)(x, y, batch.outer[0])
        image = tree.add_scale(hessian(v), damping, v)
        still = _still(side_estimator, x)
        outer = Point(still, tree.zeros_like(y), tree.scale(-1, f_y))
        return Terms(outer, Point(still, g_y, image), 0.0)

    def gradient_at(point, batch):
        x, y, v = point
        cross = products(g, x, y, batch.inner[0], v).cross
        f_x = jax.grad(f)(x, y, batch.outer[0])
        still = _still(gradient_estimator, y)
        return Terms(Point(f_x, still, still), Point(tree.scale(-1, cross), still, still), 0.0)

    def descend_pair(pair, slopes):
        y, y_state = move(inner_mover, slopes.y, pair.states[0], pair.y)
        v, v_state = move(inner_mover, slopes.v, pair.states[1], pair.v)
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
            optimizer=Point(outer_mover.init(x), inner_mover.init(y), inner_mover.init(v)),
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
        moved = move(outer_mover, d.x, state.optimizer.x, x)
        new_x, x_state = tree.where(resting, (x, state.optimizer.x), moved) if warm_up else moved

        _, hessian = gradient_and_hessian(g, x, point.y, batch.inner[0])
        missing = tree.add(tree.add_scale(hessian(pair.v), damping, pair.v), terms.outer.v)
        residual = relative_norm(missing, terms.outer.v)
        metrics = measures(problem, x, pair.y, batch, draws.inner - 1, d.x, residual)
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
        def hessian_of(i):
            return damped_hessian(problem, point, batch.inner[i], damping)

        first = hessian_of(0)

        def at(i, y, v):
            hessian = hessian_of(i) if fresh else first
            s, e = hessian(tree.sub(y, point.y)), hessian(tree.sub(v, point.v))
            return Point((), tree.add(sides.y, s), tree.add(sides.v, e))

        return at

    return slopes


def damped_hessian(
    problem: Problem, point: Point, minibatch: Any, damping: float
) -> Callable[[PyTree], PyTree]:
    """Return the map `w -> H w + damping w`, linearised once."""
    _, hessian = gradient_and_hessian(problem.inner, point.x, point.y, minibatch)
    return lambda w: tree.add_scale(hessian(w), damping, w)
