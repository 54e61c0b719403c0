"""FSLA: a single loop that carries the adjoint, with recursive momentum on x."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.algorithms.record import describe
from bilevel.calculus import hessian_product, products
from bilevel.combinators import move_outer, single_loop
from bilevel.directions import implicit_direction
from bilevel.estimators import check_weight, remember, storm
from bilevel.feasible import face
from bilevel.hypergradient import as_variables, measures
from bilevel.linear import relative_norm
from bilevel.optimizers import as_optimizer, move
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Point, Problem, PyTree, Schedule

tree = optax.tree


class FslaState(NamedTuple):
    """State of FSLA.

    Attributes:
      x, y, v: outer and inner variable, adjoint.
      direction: the direction d of x.
      last_x: outer variable of the previous step; `direction` was evaluated at (last_x, y, v).
      optimizer: states of the three optimisers.
      count: number of steps made.
    """

    x: PyTree
    y: PyTree
    v: PyTree
    direction: PyTree
    last_x: PyTree
    optimizer: Point
    count: jax.Array


@describe(
    family="single loop, implicit, stochastic, momentum",
    reference="Li, Gu and Huang, A Fully Single Loop Algorithm for Bilevel Optimization without Hessian "
    "Inverse, AAAI 2022, arXiv:2112.04660, FSLA",
    cheap=True,
)
def fsla(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    adjoint_optimizer: Optimizer | None = None,
    weight: float | Schedule = 0.1,
    momentum: str = "outer",
) -> Algorithm:
    """Return FSLA: one step on y, on v, then on x along a recursive momentum.

        y <- y - inner_optimizer(g_y(x, y; S1))
        v <- v - adjoint_optimizer(H(x, y; S2) v - f_y(x, y; B1))            at the new y
        h(x, y, v) = f_x(x, y; B2) - J(x, y; S3) v
        d <- h(x, y, v) + (1 - weight) (d - h(x', y', v')),   d = h(x, y, v) at the first step
        x <- x - outer_optimizer(d)

    Here (x', y', v') is the point at which the previous step evaluated h.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      adjoint_optimizer: optimiser of v; default: `inner_optimizer`.
      weight: share of the fresh direction, in (0, 1]: a number, or a schedule `step -> weight`, capped at 1.
      momentum: "outer" for momentum on x alone, or "all" for momentum on all three directions. With "all"
        the three directions are evaluated at one point, as the SOBA paper describes FSLA.

    Returns:
      An `Algorithm` that reads 3 inner and 2 outer minibatches per step (1 and 1 with "all").

    Raises:
      ValueError: if a constant `weight` is not in (0, 1], or `momentum` is not "outer" or "all".

    Cost per step: 4 gradients, 1 Hessian product, 2 cross products (with "all": 4, 2 and 2).

    Equations: taken from published code of others, not checked against the paper's text.

    Differs from the published code (benchopt's bilevel benchmark): the first direction is the plain one,
    where the code starts d and x' at zero; v has an optimiser of its own; `weight` and the step sizes are
    constant unless they are schedules, where the code's fall like 1 / sqrt(k + 1) and start at one number.

    >>> from bilevel import tasks
    >>> fsla(tasks.quadratic().problem).cost
    Cost(gradients=4, hessian_products=1, cross_products=2)
    """
    check_weight(weight)
    if momentum not in ("outer", "all"):
        raise ValueError(f'momentum must be "outer" or "all", got {momentum!r}')
    adjoint_optimizer = inner_optimizer if adjoint_optimizer is None else adjoint_optimizer
    optimizers = Point(*map(as_optimizer, (outer_optimizer, inner_optimizer, adjoint_optimizer)))
    if momentum == "all":
        return single_loop(problem, implicit_direction(problem), storm(weight), optimizers, name="fsla")

    def init(x, y):
        x, y = as_variables(x, y)
        v, direction = tree.zeros_like(y), tree.zeros_like(x)
        states = Point(optimizers.x.init(x), optimizers.y.init(y), optimizers.v.init(v))
        return FslaState(
            x=x,
            y=y,
            v=v,
            direction=direction,
            last_x=x,
            optimizer=states,
            count=jnp.zeros((), jnp.int32),
        )

    def step(state, batch, key):
        x, last = state.x, Point(state.last_x, state.y, state.v)

        def inner_loss(y):
            return problem.inner(x, y, batch.inner[0])

        g_y = jax.grad(inner_loss)(state.y)
        y, y_state = move(
            optimizers.y, g_y, state.optimizer.y, state.y, problem.inner_projection, loss=inner_loss
        )
        free = face(problem, x, y, batch.inner[1])
        f_y = free.project(jax.grad(problem.outer, argnums=1)(x, y, batch.outer[0]))
        matvec = free.restrict(lambda w: hessian_product(problem.inner, x, y, batch.inner[1], w))
        residual = tree.sub(matvec(state.v), f_y)
        v, v_state = move(optimizers.v, residual, state.optimizer.v, state.v)

        def fresh_direction(point):
            f_x = jax.grad(problem.outer)(point.x, point.y, batch.outer[1])
            v = face(problem, point.x, point.y, batch.inner[2]).project(point.v)
            return tree.sub(f_x, products(problem.inner, point.x, point.y, batch.inner[2], v).cross)

        # Both points read the same minibatches. With different ones the momentum would add noise.
        drift = tree.sub(state.direction, fresh_direction(last))
        direction = remember(fresh_direction(Point(x, y, v)), drift, weight, state.count)
        metrics = measures(problem, x, y, batch, 2, direction, relative_norm(residual, f_y))
        new_x, x_state = move_outer(problem, optimizers.x, direction, state.optimizer.x, x, metrics)
        new_state = FslaState(
            x=new_x,
            y=y,
            v=v,
            direction=direction,
            last_x=x,
            optimizer=Point(x_state, y_state, v_state),
            count=state.count + 1,
        )
        return new_state, metrics

    cost = Cost(gradients=4, hessian_products=1, cross_products=2)
    return Algorithm(init=init, step=step, draws=Draws(2, 3), cost=cost, name="fsla")
