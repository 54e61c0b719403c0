"""Newton steps: y and its adjoint move by two linear systems with one Hessian, then x moves.

At a point (x, y, v) the sides of the systems are `p = g_y` and `q = H v - f_y`; `H s = p` gives the
Newton step `y - s`, `H e = q` the adjoint `v - e`. An inexact solution is as many optimiser steps on

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
from bilevel.types import Algorithm, Batch, Cost, Draws, Point, Problem, PyTree, require

tree = optax.tree


class NewtonState(NamedTuple):
    """State of an algorithm of Newton steps.

    Attributes:
      x, y, v: outer and inner variable, adjoint.
      optimizer: the states of the optimisers of the three.
      estimator: the states of the estimators of the two sides and of the hypergradient.
      count: steps made.
    """

    x: PyTree
    y: PyTree
    v: PyTree
    optimizer: Point
    estimator: tuple[Any, Any]
    count: jax.Array


class Pair(NamedTuple):
    """y and v on the way to the solution of their systems, with the states of their optimisers."""

    y: PyTree
    v: PyTree
    states: tuple[Any, Any]


def newton_loop(
    problem: Problem,
    solve: Callable,
    estimators: tuple[Estimator, Estimator],
    *,
    inner_optimizer,
    outer_optimizer,
    draws: Draws,
    cost: Cost,
    damping: float = 0.0,
    warm_up: int = 0,
    name: str,
) -> Algorithm:
    """Sides of the systems, their inexact solution, the hypergradient at it, a step of x.

        p, q = estimators[0] of (g_y, H v - f_y) at (x, y, v), on the first minibatches
        y, v <- solve, which starts with one step of inner_optimizer against p and q
        d = estimators[1] of f_x - J v at the new y and v, on the last minibatches
        x <- x - outer_optimizer d

    Args:
      problem: the two losses.
      solve: `(point, sides, batch, started, descend) -> Pair`; `started` is the pair after the step
        against the sides, `descend(pair, slopes)` makes one more.
      estimators: of the sides and of the hypergradient.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes; the inner one keeps its
        state from step to step.
      draws: minibatches of one step; the last ones are those of d.
      cost: oracle calls of one step.
      damping: added to the diagonal of H in both systems.
      warm_up: first steps in which x rests and y and v make the one step of inner_optimizer only.
      name: for reports.

    Raises:
      ValueError: when `damping` < 0 or `warm_up` < 0.
    """
    require(damping >= 0, "damping must be at least 0", damping)
    require(warm_up >= 0, "warm_up must be at least 0", warm_up)
    inner_optimizer, outer_optimizer = as_optimizer(inner_optimizer), as_optimizer(outer_optimizer)
    f, g = problem

    def sides(point, batch):
        x, y, v = point
        g_y, hessian = gradient_and_hessian(g, x, y, batch.inner[0])
        f_y = jax.grad(f, argnums=1)(x, y, batch.outer[0])
        image = tree.add_scale(hessian(v), damping, v)
        outer, inner = Point((), tree.zeros_like(y), tree.scale(-1, f_y)), Point((), g_y, image)
        return Terms(outer, inner, 0.0)

    def hypergradient(point, batch):
        x, y, v = point
        cross = products(g, x, y, batch.inner[0], v).cross
        f_x = jax.grad(f)(x, y, batch.outer[0])
        return Terms(Point(f_x, (), ()), Point(tree.scale(-1, cross), (), ()), 0.0)

    def descend(pair, slopes):
        y, y_state = move(inner_optimizer, slopes.y, pair.states[0], pair.y)
        v, v_state = move(inner_optimizer, slopes.v, pair.states[1], pair.v)
        return Pair(y, v, (y_state, v_state))

    def init(x, y, blocks=(1, 1)):
        x, y = as_variables(x, y)
        v = tree.zeros_like(y)
        states = Point(outer_optimizer.init(x), inner_optimizer.init(y), inner_optimizer.init(v))
        memories = estimators[0].init(Point((), y, v), blocks), estimators[1].init(Point(x, (), ()), blocks)
        return NewtonState(x, y, v, states, memories, jnp.zeros((), jnp.int32))

    def step(state, batch, key):
        x, point = state.x, Point(state.x, state.y, state.v)
        memory_of_sides, memory = state.estimator
        first, memory_of_sides, terms = estimators[0].update(sides, memory_of_sides, point, batch, key)
        started = descend(Pair(state.y, state.v, state.optimizer[1:]), first)
        solved = solve(point, first, batch, started, descend)
        resting = jnp.less(state.count, warm_up)
        pair = tree.where(resting, started, solved) if warm_up else solved

        last = Batch(Shifted(batch.outer, draws.outer - 1), Shifted(batch.inner, draws.inner - 1))
        d, memory, _ = estimators[1].update(hypergradient, memory, Point(x, pair.y, pair.v), last, key)
        moved = move(outer_optimizer, d.x, state.optimizer.x, x)
        new_x, x_state = tree.where(resting, (x, state.optimizer.x), moved) if warm_up else moved

        _, hessian = gradient_and_hessian(g, x, point.y, batch.inner[0])
        missing = tree.add(tree.add_scale(hessian(pair.v), damping, pair.v), terms.outer.v)
        residual = relative_norm(missing, terms.outer.v)
        metrics = measures(problem, x, pair.y, batch, draws.inner - 1, d.x, residual)
        states = Point(x_state, *pair.states)
        count = state.count + 1
        return NewtonState(new_x, pair.y, pair.v, states, (memory_of_sides, memory), count), metrics

    return Algorithm(init, step, draws._replace(fixed=estimators[0].fixed), cost, name)


def gradient_steps(extra_steps: int, slopes: Callable) -> Callable:
    """A `solve` of `newton_loop`: further steps of the optimiser.

    Args:
      extra_steps: how many, at least 0.
      slopes: `(point, sides, batch) -> (i, y, v) -> Point((), slope of y, slope of v)`, i from 1.
    """
    require(extra_steps >= 0, "extra_steps must be at least 0", extra_steps)

    def solve(point, sides, batch, started, descend):
        at = slopes(point, sides, batch)

        def step(pair, i):
            return descend(pair, at(i, pair.y, pair.v)), None

        return lax.scan(step, started, jnp.arange(1, extra_steps + 1))[0]

    return solve


def fixed_sides(problem: Problem, damping: float = 0.0, *, fresh: bool = False) -> Callable:
    """Slopes `p + H (y - y_k)` and `q + H (v - v_k)`, H of the first or of the i-th minibatch."""

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


def damped_hessian(problem: Problem, point: Point, minibatch: Any, damping: float) -> Callable:
    """`w -> H w + damping w`, linearised once."""
    _, hessian = gradient_and_hessian(problem.inner, point.x, point.y, minibatch)
    return lambda w: tree.add_scale(hessian(w), damping, w)
