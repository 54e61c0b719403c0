"""SOBA: one stochastic step on each of the three problems, all at once."""

from bilevel.algorithms.record import describe
from bilevel.combinators import single_loop
from bilevel.directions import implicit_direction
from bilevel.estimators import plain
from bilevel.types import Algorithm, Optimizer, Point, Problem


@describe(
    family="single loop, implicit, stochastic",
    reference="Dagréou, Ablin, Vaiter and Moreau, A framework for bilevel optimization that enables "
    "stochastic and global variance reduction algorithms, NeurIPS 2022, arXiv:2201.13409, SOBA",
    cheap=True,
)
def soba(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    adjoint_optimizer: Optimizer | None = None,
) -> Algorithm:
    """Return SOBA: one stochastic step on each of the three problems.

        y <- y - inner_optimizer(g_y)
        v <- v - adjoint_optimizer(H v - f_y)
        x <- x - outer_optimizer(f_x - J v),   all at the same (x, y, v)

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`; schedules give the
        decreasing steps of the theory.
      adjoint_optimizer: optimiser of v; default: `inner_optimizer`.

    Returns:
      An `Algorithm` that reads one minibatch at each level per step.

    Cost per step: 2 gradients, 1 Hessian product, 1 cross product, in one pass.

    >>> from bilevel import tasks
    >>> soba(tasks.quadratic().problem).cost
    Cost(gradients=2, hessian_products=1, cross_products=1)
    """
    adjoint_optimizer = inner_optimizer if adjoint_optimizer is None else adjoint_optimizer
    optimizers = Point(x=outer_optimizer, y=inner_optimizer, v=adjoint_optimizer)
    return single_loop(problem, implicit_direction(problem), plain(), optimizers, name="soba")
