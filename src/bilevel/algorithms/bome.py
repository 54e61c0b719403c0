"""BOME: descent on the outer loss that never lets the value gap of the inner loss grow."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.algorithms.record import describe
from bilevel.combinators import move
from bilevel.hypergradient import as_variables, measures
from bilevel.inner import as_optimizer, descend
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, require

tree = optax.tree


class BomeState(NamedTuple):
    """State of BOME.

    Attributes:
      x: outer variable.
      y: z after the last T steps on g alone: the model to report.
      z: the variable that moves together with x and sees both losses, so the outer data too.
      optimizer: the states of the optimisers of x and z.
    """

    x: PyTree
    y: PyTree
    z: PyTree
    optimizer: Any


@describe(
    family="double loop, penalty",
    reference="Liu, Ye, Wright, Stone and Liu, BOME! Bilevel Optimization Made Easy: A Simple First-Order "
    "Approach, NeurIPS 2022, arXiv:2209.08709",
)
def bome(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    penalised_optimizer: Optimizer | None = None,
    inner_steps: int = 10,
    control: float = 0.5,
    barrier: str = "gradient",
) -> Algorithm:
    """First-order: x and z descend f under the condition that g(x, z) - min g falls.

        y: T steps of inner_optimizer on g(x, .), from z
        q = g(x, z) - g(x, y),   with y held:  grad q = (g_x(x, z) - g_x(x, y), g_y(x, z))
        penalty = max(phi - <grad f, grad q>, 0) / |grad q|^2
        (x, z) <- (x, z) - step (grad f + penalty grad q),   grad f at (x, z)

    phi is `control |grad q|^2`, or `control q`. The direction d has <grad q, d> = max(<grad f, grad q>,
    phi): q falls at least as fast as phi tells.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes.
      penalised_optimizer: that of z; None takes `inner_optimizer` (the paper has one step size for
        x and z). At constant steps z keeps a distance of that order from argmin g.
      inner_steps: steps T.
      control: eta, positive.
      barrier: "gradient" or "value", the two forms of phi.

    Returns:
      An `Algorithm` that reads T + 1 inner minibatches and 1 outer minibatch a step.

    Raises:
      ValueError: when `control` is not positive or `barrier` is another word.

    Cost per step: T + 3 gradients, no products.

    Differs from the paper: the moving variable is called z, its approximate minimiser of g y. No
    1e-8 below the fraction, which the authors' code has; at grad q = 0 the penalty is 0.

    >>> from bilevel import tasks
    >>> bome(tasks.quadratic().problem).cost
    Cost(gradients=13, hessian_products=0, cross_products=0)
    """
    require(control > 0, "control must be positive", control)
    if barrier not in ("gradient", "value"):
        raise ValueError(f'barrier must be "gradient" or "value", got {barrier!r}')
    solver = descend(problem, inner_optimizer, inner_steps)
    penalised_optimizer = inner_optimizer if penalised_optimizer is None else penalised_optimizer
    optimizers = as_optimizer(outer_optimizer), as_optimizer(penalised_optimizer)

    def init(x, y):
        x, y = as_variables(x, y)
        return BomeState(x, y, y, (optimizers[0].init(x), optimizers[1].init(y)))

    def step(state, batch, key):
        x, z = state.x, state.z
        y = solver.solve(x, z, batch)

        def gap(x, z):
            minibatch = batch.inner[inner_steps]
            return problem.inner(x, z, minibatch) - problem.inner(x, y, minibatch)

        value, slope = jax.value_and_grad(gap, argnums=(0, 1))(x, z)
        descent = jax.grad(problem.outer, argnums=(0, 1))(x, z, batch.outer[0])
        square = tree.vdot(slope, slope)
        phi = control * (square if barrier == "gradient" else value)
        level = jnp.maximum(phi - tree.vdot(descent, slope), 0) / jnp.where(jnp.greater(square, 0), square, 1)
        direction = tree.add_scale(descent, level, slope)
        metrics = measures(problem, x, y, batch, inner_steps, direction[0], 0.0)
        moved = map(move, optimizers, direction, state.optimizer, (x, z))
        (x, z), states = zip(*moved, strict=True)
        return BomeState(x, y, z, states), metrics

    return Algorithm(init, step, Draws(1, inner_steps + 1), Cost(inner_steps + 3), "bome")
