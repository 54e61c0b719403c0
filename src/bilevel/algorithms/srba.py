"""SRBA: SOBA's directions by recursive (SPIDER) estimates."""

from bilevel.algorithms.record import describe
from bilevel.combinators import single_loop
from bilevel.directions import implicit_direction
from bilevel.estimators import spider
from bilevel.types import Algorithm, Optimizer, Point, Problem


@describe(
    family="single loop, implicit, stochastic, variance reduction",
    reference="Dagreou, Moreau, Vaiter and Ablin, A Lower Bound and a Near-Optimal Algorithm for Bilevel "
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
    """All three variables move together; recursive estimates of their directions.

        every `period` steps:   D = SOBA's three directions on all rows
        else:                   D <- D + D(now; b) - D(last point; b),   one minibatch b for both
        (x, y, v) <- (x, y, v) - optimizers D

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes.
      adjoint_optimizer: that of v; None takes `inner_optimizer`.
      period: steps from one refresh to the next; about as many as there are minibatches.

    Returns:
      An `Algorithm` that reads one minibatch at each level a step, and now and then the whole set.

    Raises:
      ValueError: when `period` < 1, or (in the first step) for data from the host.

    Cost per step: 4 gradients, 2 Hessian products, 2 cross products; a refresh reads the whole
    set once and is not counted.

    >>> from bilevel import tasks
    >>> srba(tasks.quadratic().problem).cost
    Cost(gradients=4, hessian_products=2, cross_products=2)
    """
    adjoint_optimizer = inner_optimizer if adjoint_optimizer is None else adjoint_optimizer
    optimizers = Point(x=outer_optimizer, y=inner_optimizer, v=adjoint_optimizer)
    return single_loop(problem, implicit_direction(problem), spider(period), optimizers, name="srba")
