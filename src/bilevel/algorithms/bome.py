"""BOME: descent on the outer loss while the value gap of the inner loss falls."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.algorithms.record import describe
from bilevel.combinators import move_outer
from bilevel.feasible import refuse_inner_projection
from bilevel.hypergradient import as_variables, measures
from bilevel.inner import descend
from bilevel.optimizers import as_optimizer, move
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, require

tree = optax.tree


class BomeState(NamedTuple):
    """State of BOME.

    Attributes:
      x: outer variable.
      y: result of T steps from z on g alone; the model to report.
      z: inner variable that moves together with x; it sees both losses, so the outer data too.
      optimizer: states of the optimisers of x and z.
    """

    x: PyTree
    y: PyTree
    z: PyTree
    optimizer: Any


@describe(
    family="double loop, penalty",
    reference="Liu, Ye, Wright, Stone and Liu, BOME! Bilevel Optimization Made Easy: A Simple First-Order "
    "Approach, NeurIPS 2022, arXiv:2209.08709, BOME",
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
    """Return BOME: descend f along a direction in which the value gap of g falls.

        y: T steps of inner_optimizer on g(x, .), from z
        q = g(x, z) - g(x, y),   y held fixed:   grad q = (g_x(x, z) - g_x(x, y), g_y(x, z))
        d = grad f + penalty grad q,   penalty = max(phi - <grad f, grad q>, 0) / |grad q|^2,   at (x, z)
        x <- x - outer_optimizer(d_x),   z <- z - penalised_optimizer(d_z)

    The barrier phi is `control |grad q|^2` or `control q`. Since <grad q, d> = max(<grad f, grad q>, phi),
    the gap q falls at least at the rate phi, to first order.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      penalised_optimizer: optimiser of z; default: `inner_optimizer` (the paper has one step size for x
        and z). With constant steps, z stays off argmin g by the order of the step size.
      inner_steps: number T of steps of each inner solve.
      control: factor eta of phi, positive.
      barrier: "gradient" or "value", the two forms of phi.

    Returns:
      An `Algorithm` that reads T + 1 inner minibatches and 1 outer minibatch per step.

    Raises:
      ValueError: if `control` is not positive, `barrier` is not "gradient" or "value", or `inner_steps` is
        negative, or the problem has an inner projection.

    Cost per step: T + 3 gradients, no products.

    Differs from the paper: the variable that moves with x is called z, and the approximate minimiser of g
    is called y. The authors' code adds 1e-8 to |grad q|^2; here the penalty is 0 where grad q = 0.

    >>> from bilevel import tasks
    >>> bome(tasks.quadratic().problem).cost
    Cost(gradients=13, hessian_products=0, cross_products=0)
    """
    reason = "its value gap has a gradient at a constrained solution"
    refuse_inner_projection(problem, "bome", reason, "use v_pbgd or f2sa")
    require(control > 0, "control must be positive", control)
    if barrier not in ("gradient", "value"):
        raise ValueError(f'barrier must be "gradient" or "value", got {barrier!r}')
    solver = descend(problem, inner_optimizer, inner_steps)
    penalised_optimizer = inner_optimizer if penalised_optimizer is None else penalised_optimizer
    optimizers = as_optimizer(outer_optimizer), as_optimizer(penalised_optimizer)

    def init(x, y):
        x, y = as_variables(x, y)
        return BomeState(x=x, y=y, z=y, optimizer=(optimizers[0].init(x), optimizers[1].init(y)))

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
        excess = jnp.maximum(phi - tree.vdot(descent, slope), 0)
        penalty = excess / jnp.where(jnp.greater(square, 0), square, 1)
        direction = tree.add_scale(descent, penalty, slope)
        metrics = measures(problem, x, y, batch, inner_steps, direction[0], 0.0)
        x_state, z_state = state.optimizer
        x, x_state = move_outer(problem, optimizers[0], direction[0], x_state, x, metrics)
        z, z_state = move(optimizers[1], direction[1], z_state, z)
        return BomeState(x=x, y=y, z=z, optimizer=(x_state, z_state)), metrics

    draws, cost = Draws(1, inner_steps + 1), Cost(gradients=inner_steps + 3)
    return Algorithm(init=init, step=step, draws=draws, cost=cost, name="bome")
