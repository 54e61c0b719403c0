"""VRBO: a double loop along recursive estimates, with regular refreshes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.algorithms.record import describe
from bilevel.combinators import move_outer
from bilevel.directions import neumann_direction
from bilevel.hypergradient import as_variables, measures
from bilevel.linear import neumann
from bilevel.optimizers import as_optimizer, as_rate, move
from bilevel.sampling import Shifted
from bilevel.types import Algorithm, Batch, Draws, Optimizer, Point, Problem, PyTree, require
from bilevel.widening import widened

tree = optax.tree


class VrboState(NamedTuple):
    """State of VRBO.

    Attributes:
      x, y: outer and inner variable.
      direction: estimates of the hypergradient (`.x`) and of g_y (`.y`) at (x, y).
      optimizer: the states of the optimisers of x and y.
      count: number of steps made.
    """

    x: PyTree
    y: PyTree
    direction: Point
    optimizer: Point
    count: jax.Array


@describe(
    family="double loop, implicit, stochastic, variance reduction",
    reference="Yang, Ji and Liang, Provably Faster Algorithms for Bilevel Optimization, NeurIPS 2021, "
    "arXiv:2106.04692, VRBO",
)
def vrbo(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    period: int = 3,
    refresh: int | None = None,
    terms: int = 10,
    rate: float | None = None,
) -> Algorithm:
    """Return VRBO: a move of x, then several of y, along recursive estimates of both.

        d = (P, g_y)(x, y) on many rows, every `period` steps;   P = f_x - J v, v by `neumann(terms, rate)`
        x <- x - outer_optimizer(d_x)
        d <- d + (P, g_y)(new x, y) - (P, g_y)(old x, y)
        T times:  y <- y - inner_optimizer(d_y)
                  d <- d + (P, g_y)(x, new y) - (P, g_y)(x, old y)

    Both points of a difference see the same minibatches, and every difference has its own. After a step, d
    is the estimate at the pair (x, y) from which the next difference starts.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of moves of y per step. A loop `t = 0 .. m + 1` whose last pass moves nothing
        has T = m + 1.
      period: steps from one refresh to the next, at least 1.
      refresh: number of minibatches that a refresh averages; None means the whole set.
      terms: number Q of Hessian products of the series.
      rate: step size of the series, at most 1/L; default: `inner_optimizer`, which must then be a number.

    Returns:
      An `Algorithm` that reads Q + 2 inner minibatches for each of its T + 1 + `refresh` samples. With
      `refresh=None` it needs data whose whole set can be read (`full`, `minibatches`).

    Raises:
      ValueError: if `inner_steps` < 0, `period` < 1 or `refresh` < 1, or if `rate` is None and
        `inner_optimizer` is not a number.

    Cost per step: 4 (T + 1) gradients, 2 Q (T + 1) Hessian products, 2 (T + 1) cross products. A refresh
    costs 2 gradients, Q Hessian products and 1 cross product more on its rows, which are not counted.

    Equations: recalled, not checked against the paper's text.

    >>> from bilevel import tasks
    >>> vrbo(tasks.quadratic().problem, inner_steps=1).cost
    Cost(gradients=8, hessian_products=40, cross_products=4)
    """
    require(inner_steps >= 0, "inner_steps must be at least 0", inner_steps)
    require(period >= 1, "period must be at least 1", period)
    require(refresh is None or refresh >= 1, "refresh must be at least 1", refresh)
    oracle = neumann_direction(problem, neumann(terms, as_rate(rate, inner_optimizer)))
    optimizers = Point(as_optimizer(outer_optimizer), as_optimizer(inner_optimizer), None)
    corrections = inner_steps + 1

    def init(x, y):
        x, y = as_variables(x, y)
        states = Point(optimizers.x.init(x), optimizers.y.init(y), ())
        direction = tree.zeros_like(Point(x, y, ()))
        return VrboState(x=x, y=y, direction=direction, optimizer=states, count=jnp.zeros((), jnp.int32))

    def step(state, batch, key):
        def terms_at(point, i):
            inner = Shifted(batch.inner, i * oracle.draws.inner)
            return oracle.evaluate(point, Batch(Shifted(batch.outer, i), inner), key)

        def refreshed():
            if refresh is None:
                return oracle.evaluate(start, batch.whole(), key).total

            def add(total, i):
                return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, terms_at(start, i).total), None

            zero = jax.tree.map(widened, tree.zeros_like(start))
            total, _ = lax.scan(add, zero, corrections + jnp.arange(refresh))
            return jax.tree.map(lambda a, b: (a / refresh).astype(b.dtype), total, start)

        def corrected(direction, old, new, i):
            # The same minibatches at both points, so that their noise cancels.
            return tree.add(direction, tree.sub(terms_at(new, i).total, terms_at(old, i).total))

        def move_y(carry, i):
            old, direction, y_state = carry
            y, y_state = move(optimizers.y, direction.y, y_state, old.y, problem.inner_projection)
            new = Point(old.x, y, ())
            return (new, corrected(direction, old, new, i), y_state), None

        start = Point(state.x, state.y, ())
        direction = lax.cond(state.count % period == 0, refreshed, lambda: state.direction)
        residual = terms_at(start, 0).linear_residual
        metrics = measures(problem, state.x, state.y, batch, 0, direction.x, residual)
        x, x_state = move_outer(problem, optimizers.x, direction.x, state.optimizer.x, state.x, metrics)
        moved = Point(x, state.y, ())
        carry = moved, corrected(direction, start, moved, 0), state.optimizer.y
        (end, direction, y_state), _ = lax.scan(move_y, carry, jnp.arange(1, corrections))
        states = Point(x_state, y_state, ())
        new_state = VrboState(x=x, y=end.y, direction=direction, optimizer=states, count=state.count + 1)
        return new_state, metrics

    samples = corrections + (refresh or 0)
    return Algorithm(
        init=init,
        step=step,
        draws=Draws(samples, samples * oracle.draws.inner),
        cost=oracle.cost.times(2 * corrections),
        name="vrbo",
        seeds_in_sequence=True,
    )
