"""V-PBGD: gradient descent on f with the value gap of g as a penalty."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.algorithms.record import describe
from bilevel.combinators import move
from bilevel.directions.penalty import penalty_at
from bilevel.hypergradient import as_variables, measures
from bilevel.inner import as_optimizer
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, require

tree = optax.tree


class VPbgdState(NamedTuple):
    """State of V-PBGD.

    Attributes:
      x: outer variable.
      y: the inner variable, trained on g alone: the model to report.
      z: the variable that moves together with x and sees both losses, so the outer data too.
      optimizer: the states of the optimisers of x, y and z.
      count: steps made.
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
    penalty: float | optax.Schedule = 10.0,
) -> Algorithm:
    """First-order: y follows argmin g; x and z descend a penalised loss.

        y: T steps of inner_optimizer on g(x, .), each on its own minibatch
        F(x, z) = min(1 / penalty, 1) (f(x, z) + penalty (g(x, z) - g(x, y))),   y held
        (x, z) <- (x, z) - step F_{x, z}

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes.
      penalised_optimizer: that of z; None takes `inner_optimizer`.
      inner_steps: steps T on y.
      penalty: gamma, not negative: a number, or a schedule `step -> penalty`; the authors raise it
        linearly from 0, as `optax.linear_schedule(0, 0.2, 30_000)` does.

    Returns:
      An `Algorithm` that reads T + 1 inner minibatches and 1 outer minibatch a step.

    Raises:
      ValueError: when a constant `penalty` is negative.

    Cost per step: T + 3 gradients, no products.

    Differs from the paper: y is argmin g, as everywhere in this library; the paper's y is our z.
    The factor min(1 / penalty, 1) is that of the authors' code.

    >>> from bilevel import tasks
    >>> v_pbgd(tasks.quadratic().problem).cost
    Cost(gradients=4, hessian_products=0, cross_products=0)
    """
    require(inner_steps >= 0, "inner steps must be at least 0", inner_steps)
    if not callable(penalty):
        require(penalty >= 0, "penalty must not be negative", penalty)
    penalised_optimizer = inner_optimizer if penalised_optimizer is None else penalised_optimizer
    optimizers = tuple(map(as_optimizer, (outer_optimizer, inner_optimizer, penalised_optimizer)))

    def init(x, y):
        x, y = as_variables(x, y)
        states = tuple(optimizer.init(value) for optimizer, value in zip(optimizers, (x, y, y), strict=True))
        return VPbgdState(x, y, y, states, jnp.zeros((), jnp.int32))

    def step(state, batch, key):
        x, level = state.x, penalty_at(penalty, state.count, state.y)
        x_state, y_state, z_state = state.optimizer

        def train(carry, t):
            y, y_state = carry
            g_y = jax.grad(problem.inner, argnums=1)(x, y, batch.inner[t])
            return move(optimizers[1], g_y, y_state, y), None

        (y, y_state), _ = lax.scan(train, (state.y, y_state), jnp.arange(inner_steps))

        def penalised(x, z):
            minibatch = batch.inner[inner_steps]
            gap = problem.inner(x, z, minibatch) - problem.inner(x, y, minibatch)
            # The factor without a division by a penalty of 0.
            return (problem.outer(x, z, batch.outer[0]) + level * gap) / jnp.maximum(level, 1)

        g_x, g_z = jax.grad(penalised, argnums=(0, 1))(x, state.z)
        metrics = measures(problem, x, y, batch, inner_steps, g_x, 0.0)
        new_x, x_state = move(optimizers[0], g_x, x_state, x)
        z, z_state = move(optimizers[2], g_z, z_state, state.z)
        return VPbgdState(new_x, y, z, (x_state, y_state, z_state), state.count + 1), metrics

    return Algorithm(init, step, Draws(1, inner_steps + 1), Cost(inner_steps + 3), "v_pbgd")
