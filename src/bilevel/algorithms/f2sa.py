"""F2SA: a penalty in place of second derivatives, with two inner variables."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.algorithms.record import describe
from bilevel.combinators import move_outer
from bilevel.directions.penalty import check_penalty, penalty_at
from bilevel.hypergradient import as_variables, measures
from bilevel.optimizers import as_optimizer, move
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, Schedule, require

tree = optax.tree


class F2saState(NamedTuple):
    """State of F2SA.

    Attributes:
      x: outer variable.
      y: inner variable, trained on g alone; the model to report. With `order=2` it is the midpoint of the
        pair z, which is argmin g up to O(1 / penalty^2).
      z: penalised variable, trained on g + f / penalty, so it sees the outer data too. With `order=2` it is
        a pair, trained on g - f / penalty and on g + f / penalty.
      optimizer: states of the optimisers of x and of both inner variables.
      count: number of steps made.
    """

    x: PyTree
    y: PyTree
    z: PyTree
    optimizer: Any
    count: jax.Array


@describe(
    family="double loop, penalty, stochastic",
    reference="Kwon, Kwon, Wright and Nowak, A Fully First-Order Method for Stochastic Bilevel "
    "Optimization, ICML 2023, arXiv:2301.10945, F2SA",
)
def f2sa(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    penalty: float | Schedule = 10.0,
    order: int = 1,
    paired: bool = True,
) -> Algorithm:
    """Return F2SA: the response is a difference of two inner variables.

        T times, on fresh minibatches:
          y <- y - inner_optimizer(g_y(x, y)),   z <- z - inner_optimizer(g_y(x, z) + f_y(x, z) / penalty)
        x <- x - outer_optimizer(f_x(x, z) + penalty (g_x(x, z) - g_x(x, y)))

    The error at the fixed point is O(1 / penalty). `order=2` takes a central difference, whose error is
    O(1 / penalty^2): the two variables are then trained on g - f / penalty and on g + f / penalty, the
    difference is halved, and f_x is averaged over both.

    The penalty may grow: we recall the schedule `lambda k: (k + 1.0) ** (1 / 7)` from the paper. Its
    increments delta_k fall like k^(-6/7). Increments of 0.1 (k + 1)^(-1/7) would instead give a penalty of
    314 after 10,000 steps.

    Args:
      problem: the two losses.
      inner_optimizer: optimiser of y and of z, see `Optimizer`. The direction of z is divided by the
        penalty, so the paper's alpha_k is `inner_optimizer / penalty`.
      outer_optimizer: optimiser of x.
      inner_steps: number T of steps on y and on z.
      penalty: lambda, positive: a number, or a schedule `step -> penalty`.
      order: 1, or 2 for the central difference, which is F2SA-p with p = 2 (Chen, Li, Chayti and Zhang,
        Faster Gradient Methods for Highly-Smooth Stochastic Bilevel Optimization, arXiv:2509.02937).
      paired: evaluate both g_x on one minibatch, so that most of their noise, which the penalty multiplies,
        cancels; otherwise each on its own minibatch.

    Returns:
      An `Algorithm` that reads 2 T + 1 inner minibatches (2 T + 2 without `paired`) and T + 1 outer
      minibatches (2 T + 2 with `order=2`) per step.

    Raises:
      ValueError: if `inner_steps` is negative, a constant `penalty` is not positive, or `order` is not 1
        or 2.

    Cost per step: 3 T + 3 gradients (4 T + 4 with `order=2`), no products.

    Differs from the paper: y is argmin g, as everywhere in this library; the paper calls it z, and calls
    our z y. Both g_x read one minibatch; `paired=False` gives each its own, as benchopt's code does and, as
    we recall, the paper. The penalty is constant unless it is given as a schedule. One optimiser moves y and
    z. The gradients of F2SA-p are not normalised.

    >>> from bilevel import tasks
    >>> f2sa(tasks.quadratic().problem).cost
    Cost(gradients=33, hessian_products=0, cross_products=0)
    """
    require(inner_steps >= 0, "inner_steps must be at least 0", inner_steps)
    require(order in (1, 2), "order must be 1 or 2", order)
    check_penalty(penalty)
    inner_optimizer, outer_optimizer = as_optimizer(inner_optimizer), as_optimizer(outer_optimizer)
    # Weight of f / penalty in the loss of each inner variable.
    shares = (0, 1) if order == 1 else (-1, 1)

    def tilted(level, x, share, variable, batches):
        outer, inner = batches
        gradient = jax.grad(problem.inner, argnums=(0, 1))(x, variable, inner)
        if share == 0:
            return gradient
        pull = jax.grad(problem.outer, argnums=(0, 1))(x, variable, outer)
        return tree.add_scale(gradient, share / level, pull)

    def init(x, y):
        x, y = as_variables(x, y)
        states = outer_optimizer.init(x), (inner_optimizer.init(y),) * 2
        z, count = y if order == 1 else (y, y), jnp.zeros((), jnp.int32)
        return F2saState(x=x, y=y, z=z, optimizer=states, count=count)

    def step(state, batch, key):
        x, level = state.x, penalty_at(penalty, state.count, state.y)
        x_state, inner_states = state.optimizer

        def gradients(variables, t, apart=1):
            # With order 1 only z reads outer minibatches.
            batches = [
                (batch.outer[order * t + (order - 1) * i], batch.inner[2 * t + apart * i]) for i in (0, 1)
            ]
            return [tilted(level, x, *parts) for parts in zip(shares, variables, batches, strict=True)]

        def train(carry, t):
            slopes = [g_y for _, g_y in gradients(carry[0], t)]
            moved = (
                move(inner_optimizer, slope, old, variable, problem.inner_projection)
                for slope, old, variable in zip(slopes, carry[1], carry[0], strict=True)
            )
            return tuple(zip(*moved, strict=True)), None

        variables = (state.y, state.z) if order == 1 else state.z
        (variables, inner_states), _ = lax.scan(train, (variables, inner_states), jnp.arange(inner_steps))
        (low, _), (high, _) = gradients(variables, inner_steps, apart=0 if paired else 1)
        direction = tree.scale(level / order, tree.sub(high, low))
        y, z = variables if order == 1 else (tree.scale(0.5, tree.add(*variables)), variables)
        metrics = measures(problem, x, y, batch, 2 * inner_steps, direction, 0.0)
        new_x, x_state = move_outer(problem, outer_optimizer, direction, x_state, x, metrics)
        states = x_state, inner_states
        return F2saState(x=new_x, y=y, z=z, optimizer=states, count=state.count + 1), metrics

    draws = Draws(order * (inner_steps + 1), 2 * inner_steps + (1 if paired else 2))
    cost = Cost(gradients=(2 + order) * (inner_steps + 1))
    return Algorithm(init=init, step=step, draws=draws, cost=cost, name="f2sa")
