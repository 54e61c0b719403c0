"""SRBA: SOBA's directions by recursive (SPIDER) estimates."""

from bilevel.algorithms.record import describe
from bilevel.combinators import single_loop
from bilevel.directions import implicit_direction
from bilevel.estimators import spider
from bilevel.types import Algorithm, Optimizer, Point, Problem


@describe(
    family="single loop, implicit, stochastic, variance reduction",
    reference="Dagréou, Moreau, Vaiter and Ablin, A Lower Bound and a Near-Optimal Algorithm for Bilevel "
    "Empirical Risk Minimization, AISTATS 2024, arXiv:2302.08766, SRBA",
    cheap=True,
)
def srba(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    adjoint_optimizer: Optimizer | None = None,
    period: int = 100,
) -> Algorithm:
    """Return SRBA: SOBA with recursive (SPIDER) estimates of its directions.

        every `period` steps:   D = SOBA's three directions on all rows
        at the other steps:     D <- D + D(now; b) - D(previous point; b),   one minibatch b for both
        y <- y - inner_optimizer(D_y),   v <- v - adjoint_optimizer(D_v),   x <- x - outer_optimizer(D_x)

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      adjoint_optimizer: optimiser of v; default: `inner_optimizer`.
      period: steps from one refresh to the next; a good value is the number of minibatches.

    Returns:
      An `Algorithm` that reads one minibatch at each level per step, and the whole set at a refresh.

    Raises:
      ValueError: if `period` < 1, or in the first step if the data come from a host loader.

    Cost per step: 4 gradients, 2 Hessian products, 2 cross products. A refresh reads the whole set once
    and is not counted.

    >>> from bilevel import tasks
    >>> srba(tasks.quadratic().problem).cost
    Cost(gradients=4, hessian_products=2, cross_products=2)
    """
    adjoint_optimizer = inner_optimizer if adjoint_optimizer is None else adjoint_optimizer
    optimizers = Point(x=outer_optimizer, y=inner_optimizer, v=adjoint_optimizer)
    return single_loop(problem, implicit_direction(problem), spider(period), optimizers, name="srba")
