"""DARTS: the hypergradient of one inner step, by finite differences."""

from typing import Any, NamedTuple

import jax
import optax

from bilevel.algorithms.record import describe
from bilevel.calculus import cross_difference
from bilevel.combinators import move_outer
from bilevel.hypergradient import as_variables, measures
from bilevel.optimizers import as_optimizer, move, step_size_of
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, require

tree = optax.tree


class DartsState(NamedTuple):
    """State of DARTS.

    Attributes:
      x, y: outer and inner variable.
      optimizer: states of the optimisers of x and y.
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
    """Return DARTS: one inner step, differentiated by a central difference.

        y' = y - s g_y(x, y),   w = f_y(x, y'),   eps = difference / |w|,   s = virtual_step
        x <- x - outer_optimizer(f_x(x, y') - s (g_x(x, y + eps w) - g_x(x, y - eps w)) / (2 eps))
        y <- y - inner_optimizer(g_y(x, y))      at the new x

    All gradients of g are evaluated on one minibatch. As eps falls to 0, the direction of x tends to the
    direction of `truncated` with one inner step. It is the hypergradient of one step, not of the inner
    solution, so it is biased.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      virtual_step: step size xi that is differentiated, at least 0; default: `inner_optimizer`, which must
        then be a number. 0 is the first-order variant, which drops the indirect term.
      difference: length of the finite difference in y, positive.

    Returns:
      An `Algorithm` that reads one minibatch at each level per step.

    Raises:
      ValueError: if `virtual_step` is negative, or is None and `inner_optimizer` is not a number, or if
        `difference` is not positive.

    Cost per step: 5 gradients, no products; 2 gradients with `virtual_step=0`.

    >>> from bilevel import tasks
    >>> darts(tasks.quadratic().problem).cost
    Cost(gradients=5, hessian_products=0, cross_products=0)
    """
    rule = "virtual_step must be given when inner_optimizer is not a step size"
    length = step_size_of(inner_optimizer, rule) if virtual_step is None else virtual_step
    require(length >= 0, "virtual_step must be at least 0", length)
    require(difference > 0, "difference must be positive", difference)
    first_order = isinstance(length, int | float) and length == 0
    outer_optimizer, inner_optimizer = as_optimizer(outer_optimizer), as_optimizer(inner_optimizer)
    g_y, project = jax.grad(problem.inner, argnums=1), problem.inner_projection

    def init(x, y):
        x, y = as_variables(x, y)
        return DartsState(x=x, y=y, optimizer=(outer_optimizer.init(x), inner_optimizer.init(y)))

    def unrolled_direction(x, y, batch):
        ahead = tree.add_scale(y, -length, g_y(x, y, batch.inner[0]))
        ahead, pull = (ahead, None) if project is None else jax.vjp(project, ahead)
        f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, ahead, batch.outer[0])
        f_y = f_y if pull is None else pull(f_y)[0]
        cross = cross_difference(problem.inner, x, y, batch.inner[0], f_y, difference)
        return tree.add_scale(f_x, -length, cross)

    def step(state, batch, key):
        x, y = state.x, state.y
        x_state, y_state = state.optimizer
        if first_order:
            direction = jax.grad(problem.outer)(x, y, batch.outer[0])
        else:
            direction = unrolled_direction(x, y, batch)
        metrics = measures(problem, x, y, batch, 0, direction, 0.0)
        x, x_state = move_outer(problem, outer_optimizer, direction, x_state, x, metrics)

        def loss(y):
            return problem.inner(x, y, batch.inner[0])

        y, y_state = move(inner_optimizer, jax.grad(loss)(y), y_state, y, project, loss=loss)
        return DartsState(x=x, y=y, optimizer=(x_state, y_state)), metrics

    cost = Cost(gradients=2 if first_order else 5)
    return Algorithm(init=init, step=step, draws=Draws(1, 1), cost=cost, name="darts")
