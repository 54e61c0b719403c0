"""HOAG: inexact hypergradients of rising accuracy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.algorithms.record import describe
from bilevel.combinators import move
from bilevel.hypergradient import as_variables, hypergradient, measures
from bilevel.inner import as_optimizer, descend_until
from bilevel.linear import cg
from bilevel.response import implicit
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree

tree = optax.tree


class HoagState(NamedTuple):
    """State of HOAG.

    Attributes:
      x, y, v: outer and inner variable, adjoint.
      optimizer: state of the outer optimiser.
      count: steps made.
    """

    x: PyTree
    y: PyTree
    v: PyTree
    optimizer: Any
    count: jax.Array


@describe(
    family="double loop, implicit, adaptive accuracy",
    reference="following Pedregosa, Hyperparameter optimization with approximate gradient, ICML 2016, "
    "arXiv:1602.02355",
)
def hoag(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 1000,
    linear_steps: int = 100,
    tolerance: float | optax.Schedule = 0.1,
    decay: float = 0.9,
) -> Algorithm:
    """Inner and linear problem solved to a tolerance that falls from step to step.

        y: steps of inner_optimizer on g(x, .), from the last y, until |g_y| <= e_k
        v: conjugate gradients on H v = f_y, from the last v, until |f_y - H v| <= e_k
        x <- x - outer_optimizer (f_x - J v),   e_k = tolerance decay^k

    The method converges when the e_k have a finite sum. Both solves stay on one minibatch each.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes.
      inner_steps, linear_steps: the most steps of each inner and each linear solve.
      tolerance: e_0, or a schedule `k -> e_k` that makes `decay` idle.
      decay: factor of the tolerance from one step to the next.

    Returns:
      An `Algorithm` that reads 3 inner minibatches a step.

    Raises:
      ValueError: when `inner_steps` < 0 or `linear_steps` < 1.

    Cost per step: at most `inner_steps` + 1 gradients and `linear_steps` + 1 Hessian products, and 1
    cross product. These are what budgets count; most steps take far fewer.

    Differs from the paper: any optax optimiser inside, stopped by |g_y| and not by the distance to the
    solution, which |g_y| bounds up to the factor 1/mu; the outer step size is yours.

    >>> from bilevel import tasks
    >>> hoag(tasks.quadratic().problem).cost
    Cost(gradients=1001, hessian_products=101, cross_products=1)
    """
    inner_optimizer, optimizer = as_optimizer(inner_optimizer), as_optimizer(outer_optimizer)

    def response_at(tolerance):
        solver = descend_until(problem, inner_optimizer, inner_steps, tolerance=tolerance)
        return implicit(problem, solver, cg(linear_steps, tolerance=tolerance))

    def init(x, y):
        x, y = as_variables(x, y)
        return HoagState(x, y, tree.zeros_like(y), optimizer.init(x), jnp.zeros((), jnp.int32))

    def step(state, batch, key):
        level = (
            tolerance(state.count) if callable(tolerance) else tolerance * decay ** state.count.astype(float)
        )
        response = response_at(level)
        gradient, y, info = hypergradient(problem, response, state.x, state.y, batch, key, state.v)
        metrics = measures(problem, state.x, y, batch, 2, gradient, info.linear_residual)
        x, optimizer_state = move(optimizer, gradient, state.optimizer, state.x)
        return HoagState(x, y, info.v, optimizer_state, state.count + 1), metrics

    cost = Cost(gradients=1).plus(response_at(0.0).cost)
    return Algorithm(init, step, Draws(1, 3), cost, "hoag")
