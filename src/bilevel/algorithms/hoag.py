"""HOAG: inexact hypergradients of rising accuracy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.algorithms.record import describe
from bilevel.combinators import move_outer
from bilevel.hypergradient import as_variables, measures, undiagnosed
from bilevel.inner import descend_until
from bilevel.linear import cg
from bilevel.optimizers import as_optimizer
from bilevel.response import implicit
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, Schedule

tree = optax.tree


class HoagState(NamedTuple):
    """State of HOAG.

    Attributes:
      x, y, v: outer and inner variable, adjoint.
      optimizer: state of the outer optimiser.
      count: number of steps made.
    """

    x: PyTree
    y: PyTree
    v: PyTree
    optimizer: Any
    count: jax.Array


@describe(
    family="double loop, implicit, adaptive accuracy",
    reference="Pedregosa, Hyperparameter Optimization with Approximate Gradient, ICML 2016, "
    "arXiv:1602.02355, HOAG",
)
def hoag(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 1000,
    linear_steps: int = 100,
    tolerance: float | Schedule = 0.1,
    decay: float = 0.9,
) -> Algorithm:
    """Return HOAG: inner and linear solves to a tolerance that falls every step.

        y: steps of inner_optimizer on g(x, .), from the last y, until |g_y| <= e_k
        v: conjugate gradients on H v = f_y, from the last v, until |f_y - H v| <= e_k
        x <- x - outer_optimizer(f_x - J v),   e_k = tolerance decay^k

    The method converges when the sum of the e_k is finite. Each solve stays on one minibatch.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: largest number T of steps of each inner solve.
      linear_steps: largest number N of steps of each linear solve.
      tolerance: e_0, or a schedule `k -> e_k`, which replaces `decay`.
      decay: factor of the tolerance from one step to the next.

    Returns:
      An `Algorithm` that reads 3 inner minibatches per step.

    Raises:
      ValueError: if `inner_steps` is negative or `linear_steps` is below 1.

    Cost per step: at most T + 1 gradients, at most N + 1 Hessian products, 1 cross product. `cost` holds
    these bounds; most steps take far fewer calls.

    Differs from the paper: the inner solver is any optax optimiser, stopped by |g_y|, which bounds the
    paper's distance to the solution up to the factor 1/mu. The outer step size is not adapted. Equations:
    recalled, not checked against the paper's text.

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
        v, count = tree.zeros_like(y), jnp.zeros((), jnp.int32)
        return HoagState(x=x, y=y, v=v, optimizer=optimizer.init(x), count=count)

    def step(state, batch, key):
        if callable(tolerance):
            bound = tolerance(state.count)
        else:
            bound = tolerance * decay ** state.count.astype(float)
        response = response_at(bound)
        gradient, y, info = undiagnosed(problem, response, state.x, state.y, batch, key, state.v)
        metrics = measures(problem, state.x, y, batch, 2, gradient, info.linear_residual)
        x, optimizer_state = move_outer(problem, optimizer, gradient, state.optimizer, state.x, metrics)
        count = state.count + 1
        return HoagState(x=x, y=y, v=info.v, optimizer=optimizer_state, count=count), metrics

    cost = Cost(gradients=1).plus(response_at(0.0).cost)
    return Algorithm(init=init, step=step, draws=Draws(1, 3), cost=cost, name="hoag")
