"""DARTS: the hypergradient of one inner step, by finite differences."""

from typing import Any, NamedTuple

import jax
import optax

from bilevel.algorithms.record import describe
from bilevel.calculus import cross_difference
from bilevel.combinators import move
from bilevel.hypergradient import as_variables, measures
from bilevel.inner import as_optimizer
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, require

tree = optax.tree


class DartsState(NamedTuple):
    """State of DARTS.

    Attributes:
      x, y: outer and inner variable.
      optimizer: the states of both optimisers.
    """

    x: PyTree
    y: PyTree
    optimizer: Any


@describe(
    family="single loop, unrolled, finite differences",
    reference="Liu, Simonyan and Yang, DARTS: Differentiable Architecture Search, ICLR 2019, "
    "arXiv:1806.09055, Algorithm 1",
    cheap=True,
)
def darts(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    virtual_step: float | None = None,
    difference: float = 0.01,
) -> Algorithm:
    """One unrolled inner step, differentiated by a central difference.

        y' = y - virtual_step g_y(x, y),   w = f_y(x, y'),   eps = difference / |w|
        x <- x - outer_optimizer (f_x(x, y') - virtual_step (g_x(x, y + eps w) - g_x(x, y - eps w)) / (2 eps))
        y <- y - inner_optimizer g_y(x, y)      at the new x

    All gradients of g are taken on one minibatch. For eps -> 0 the direction of x is that of
    `truncated` with one step. It answers for one inner step, not for the solution, and is biased.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes.
      virtual_step: xi, not negative, the step that is differentiated; 0 is the first-order variant,
        which drops the indirect term; None takes `inner_optimizer`, which then must be a number.
      difference: length of the finite difference in y, positive.

    Returns:
      An `Algorithm` that reads one minibatch at each level a step.

    Raises:
      ValueError: when `virtual_step` is None and `inner_optimizer` is not a number, `virtual_step` is
        negative, or `difference` is not positive.

    Cost per step: 5 gradients, no products; 2 with `virtual_step=0`.

    >>> from bilevel import tasks
    >>> darts(tasks.quadratic().problem).cost
    Cost(gradients=5, hessian_products=0, cross_products=0)
    """
    if virtual_step is None:
        if callable(inner_optimizer) or isinstance(inner_optimizer, tuple):
            raise ValueError("virtual_step must be given when inner_optimizer is not a step size")
        virtual_step = inner_optimizer
    require(virtual_step >= 0, "virtual_step must not be negative", virtual_step)
    require(difference > 0, "difference must be positive", difference)
    first_order = isinstance(virtual_step, int | float) and virtual_step == 0
    outer_optimizer, inner_optimizer = as_optimizer(outer_optimizer), as_optimizer(inner_optimizer)
    g_y = jax.grad(problem.inner, argnums=1)

    def init(x, y):
        x, y = as_variables(x, y)
        return DartsState(x, y, (outer_optimizer.init(x), inner_optimizer.init(y)))

    def unrolled(x, y, batch):
        ahead = tree.add_scale(y, -virtual_step, g_y(x, y, batch.inner[0]))
        f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, ahead, batch.outer[0])
        cross = cross_difference(problem.inner, x, y, batch.inner[0], f_y, difference)
        return tree.add_scale(f_x, -virtual_step, cross)

    def step(state, batch, key):
        x, y = state.x, state.y
        x_state, y_state = state.optimizer
        direction = jax.grad(problem.outer)(x, y, batch.outer[0]) if first_order else unrolled(x, y, batch)
        metrics = measures(problem, x, y, batch, 0, direction, 0.0)
        x, x_state = move(outer_optimizer, direction, x_state, x)
        y, y_state = move(inner_optimizer, g_y(x, y, batch.inner[0]), y_state, y)
        return DartsState(x, y, (x_state, y_state)), metrics

    return Algorithm(init, step, Draws(1, 1), Cost(2 if first_order else 5), "darts")
