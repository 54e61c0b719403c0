"""V-PBGD: gradient descent on f with the value gap of g as a penalty."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.algorithms.record import describe
from bilevel.combinators import move_outer
from bilevel.directions.penalty import penalty_at
from bilevel.hypergradient import as_variables, measures
from bilevel.optimizers import as_optimizer, move
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, Schedule, require

tree = optax.tree


class VPbgdState(NamedTuple):
    """State of V-PBGD.

    Attributes:
      x: outer variable.
      y: inner variable, trained on g alone: the model to report.
      z: second inner variable, trained on both losses and so on the outer data too.
      optimizer: the states of the optimisers of x, y and z.
      count: number of steps made.
    """

    x: PyTree
    y: PyTree
    z: PyTree
    optimizer: Any
    count: jax.Array


@describe(
    family="single loop, penalty",
    reference="Shen and Chen, On Penalty-based Bilevel Gradient Descent Method, ICML 2023, "
    "arXiv:2302.05185, V-PBGD",
    cheap=True,
)
def v_pbgd(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    penalised_optimizer: Optimizer | None = None,
    inner_steps: int = 1,
    penalty: float | Schedule = 10.0,
) -> Algorithm:
    """Return V-PBGD: gradient descent on f with the value gap of g as a penalty.

        y: T steps of inner_optimizer on g(x, .), each on its own minibatch
        F(x, z) = min(1 / gamma, 1) (f(x, z) + gamma (g(x, z) - g(x, y))),   y held constant
        x <- x - outer_optimizer(F_x),   z <- z - penalised_optimizer(F_z)

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      penalised_optimizer: optimiser of z; default: `inner_optimizer`.
      inner_steps: number T of steps on y.
      penalty: gamma, not negative: a number, or a schedule `step -> penalty`. The authors raise it
        linearly from 0, as `optax.linear_schedule(0, 0.2, 30_000)` does.

    Returns:
      An `Algorithm` that reads T + 1 inner minibatches and 1 outer minibatch per step.

    Raises:
      ValueError: if `inner_steps` or a constant `penalty` is negative.

    Cost per step: T + 3 gradients, no products.

    Differs from the paper: y is argmin g, as everywhere in this library; the paper's y is our z. The
    factor min(1 / gamma, 1) comes from the authors' code.

    >>> from bilevel import tasks
    >>> v_pbgd(tasks.quadratic().problem).cost
    Cost(gradients=4, hessian_products=0, cross_products=0)
    """
    require(inner_steps >= 0, "inner_steps must be at least 0", inner_steps)
    if not callable(penalty):
        require(penalty >= 0, "penalty must not be negative", penalty)
    penalised_optimizer = inner_optimizer if penalised_optimizer is None else penalised_optimizer
    optimizers = tuple(map(as_optimizer, (outer_optimizer, inner_optimizer, penalised_optimizer)))

    def init(x, y):
        x, y = as_variables(x, y)
        states = tuple(optimizer.init(value) for optimizer, value in zip(optimizers, (x, y, y), strict=True))
        return VPbgdState(x=x, y=y, z=y, optimizer=states, count=jnp.zeros((), jnp.int32))

    def step(state, batch, key):
        x, level = state.x, penalty_at(penalty, state.count, state.y)
        x_state, y_state, z_state = state.optimizer

        def train(carry, t):
            y, y_state = carry

            def loss(y):
                return problem.inner(x, y, batch.inner[t])

            return move(
                optimizers[1], jax.grad(loss)(y), y_state, y, problem.inner_projection, loss=loss
            ), None

        (y, y_state), _ = lax.scan(train, (state.y, y_state), jnp.arange(inner_steps))

        def penalised(x, z):
            minibatch = batch.inner[inner_steps]
            gap = problem.inner(x, z, minibatch) - problem.inner(x, y, minibatch)
            # min(1 / penalty, 1) = 1 / max(penalty, 1), which is defined at a penalty of 0.
            return (problem.outer(x, z, batch.outer[0]) + level * gap) / jnp.maximum(level, 1)

        g_x, g_z = jax.grad(penalised, argnums=(0, 1))(x, state.z)
        metrics = measures(problem, x, y, batch, inner_steps, g_x, 0.0)
        new_x, x_state = move_outer(problem, optimizers[0], g_x, x_state, x, metrics)

        def loss(z):
            return penalised(x, z)

        z, z_state = move(optimizers[2], g_z, z_state, state.z, problem.inner_projection, loss=loss)
        states = x_state, y_state, z_state
        return VPbgdState(x=new_x, y=y, z=z, optimizer=states, count=state.count + 1), metrics

    cost = Cost(gradients=inner_steps + 3)
    return Algorithm(init=init, step=step, draws=Draws(1, inner_steps + 1), cost=cost, name="v_pbgd")
