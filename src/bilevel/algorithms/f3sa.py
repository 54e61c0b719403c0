"""F3SA: F2SA in one loop, with recursive momentum on every gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.algorithms.record import describe
from bilevel.combinators import move_outer
from bilevel.directions.penalty import check_penalty, penalty_at
from bilevel.estimators import check_weight, remember
from bilevel.hypergradient import as_variables, measures
from bilevel.optimizers import as_optimizer, move
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, Schedule

tree = optax.tree


class F3saState(NamedTuple):
    """State of F3SA.

    Attributes:
      x: outer variable.
      y: inner variable, trained on g alone; the model to report.
      z: penalised variable, trained on g + f / penalty, so it sees the outer data too.
      last: x, y and z of the previous step.
      gradients: the six estimates, three for the inner step and three for the outer step.
      optimizer: states of the optimisers of x, y and z.
      count: number of steps made.
    """

    x: PyTree
    y: PyTree
    z: PyTree
    last: Any
    gradients: Any
    optimizer: Any
    count: jax.Array


@describe(
    family="single loop, penalty, stochastic, momentum",
    reference="Kwon, Kwon, Wright and Nowak, A Fully First-Order Method for Stochastic Bilevel "
    "Optimization, ICML 2023, arXiv:2301.10945, F3SA",
)
def f3sa(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    penalty: float | Schedule = 10.0,
    weight: float | Schedule = 0.1,
) -> Algorithm:
    """Return F3SA: F2SA in one loop, with recursive momentum on each gradient.

        y <- y - inner_optimizer(d[g_y(x, y)])
        z <- z - inner_optimizer(d[g_y(x, z)] + d[f_y(x, z)] / penalty)
        x <- x - outer_optimizer(d[f_x(x, z)] + penalty (d[g_x(x, z)] - d[g_x(x, y)]))   at the new y, z

        d[h]_k = h(p_k; b_k) + (1 - weight) (d[h]_{k-1} - h(p_{k-1}; b_k)),   d[h]_0 = h(p_0; b_0)

    Here p_k is the point (x, y, z) at which step k evaluates h. Since the penalty may grow, each of the six
    gradients has its own estimate d. Each reads its own minibatch b_k, the same at both points.

    Args:
      problem: the two losses.
      inner_optimizer: optimiser of y and of z, see `Optimizer`. The direction of z is divided by the
        penalty.
      outer_optimizer: optimiser of x.
      penalty: lambda, positive: a number, or a schedule `step -> penalty` (see `f2sa`).
      weight: share of the fresh gradient, in (0, 1]: a number, or a schedule `step -> weight`, capped at 1.

    Returns:
      An `Algorithm` that reads 4 inner and 2 outer minibatches per step.

    Raises:
      ValueError: if a constant `penalty` is not positive, or a constant `weight` is not in (0, 1].

    Cost per step: 12 gradients, no products.

    Differs from the paper: y is argmin g, as everywhere in this library; the paper calls it z, and calls
    our z y. The penalty is constant unless it is given as a schedule.

    >>> from bilevel import tasks
    >>> f3sa(tasks.quadratic().problem).cost
    Cost(gradients=12, hessian_products=0, cross_products=0)
    """
    check_penalty(penalty)
    check_weight(weight)
    optimizers = tuple(map(as_optimizer, (outer_optimizer, inner_optimizer, inner_optimizer)))

    def inner_gradients(x, y, z, batch):
        g_y = jax.grad(problem.inner, argnums=1)
        f_y = jax.grad(problem.outer, argnums=1)
        return g_y(x, y, batch.inner[0]), g_y(x, z, batch.inner[1]), f_y(x, z, batch.outer[0])

    def outer_gradients(x, y, z, batch):
        g_x, f_x = jax.grad(problem.inner), jax.grad(problem.outer)
        return f_x(x, z, batch.outer[1]), g_x(x, z, batch.inner[3]), g_x(x, y, batch.inner[2])

    def init(x, y):
        x, y = as_variables(x, y)
        zeros = tree.zeros_like((y, y, y)), tree.zeros_like((x, x, x))
        states = tuple(optimizer.init(value) for optimizer, value in zip(optimizers, (x, y, y), strict=True))
        return F3saState(
            x=x,
            y=y,
            z=y,
            last=(x, y, y),
            gradients=zeros,
            optimizer=states,
            count=jnp.zeros((), jnp.int32),
        )

    def step(state, batch, key):
        def estimate(gradients, now, before, last):
            # Both points read the same minibatches. With different ones the momentum would add noise.
            drift = tree.sub(last, gradients(*before, batch))
            return remember(gradients(*now, batch), drift, weight, state.count)

        x, level = state.x, penalty_at(penalty, state.count, state.y)
        x_state, y_state, z_state = state.optimizer
        now = x, state.y, state.z
        inner_estimates = estimate(inner_gradients, now, state.last, state.gradients[0])
        g_y, g_y_z, f_y = inner_estimates
        y, y_state = move(optimizers[1], g_y, y_state, state.y, problem.inner_projection)
        z_slope = tree.add_scale(g_y_z, 1 / level, f_y)
        z, z_state = move(optimizers[2], z_slope, z_state, state.z, problem.inner_projection)
        # The previous step evaluated its outer gradients at its x and at the y and z that it returned.
        before = state.last[0], state.y, state.z
        outer_estimates = estimate(outer_gradients, (x, y, z), before, state.gradients[1])
        f_x, g_x_z, g_x = outer_estimates
        direction = tree.add_scale(f_x, level, tree.sub(g_x_z, g_x))
        metrics = measures(problem, x, y, batch, 2, direction, 0.0)
        new_x, x_state = move_outer(problem, optimizers[0], direction, x_state, x, metrics)
        new_state = F3saState(
            x=new_x,
            y=y,
            z=z,
            last=now,
            gradients=(inner_estimates, outer_estimates),
            optimizer=(x_state, y_state, z_state),
            count=state.count + 1,
        )
        return new_state, metrics

    return Algorithm(init=init, step=step, draws=Draws(2, 4), cost=Cost(gradients=12), name="f3sa")
