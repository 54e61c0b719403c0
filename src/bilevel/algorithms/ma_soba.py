"""MA-SOBA: SOBA with a moving average of the outer direction."""

from bilevel.algorithms.record import describe
from bilevel.combinators import single_loop
from bilevel.directions import implicit_direction
from bilevel.estimators import momentum
from bilevel.types import Algorithm, Optimizer, Point, Problem, Schedule


@describe(
    family="single loop, implicit, stochastic, momentum",
    reference="Chen, Xiao and Balasubramanian, Optimal Algorithms for Stochastic Bilevel Optimization under "
    "Relaxed Smoothness Conditions, JMLR 2024, arXiv:2306.12067, MA-SOBA",
    cheap=True,
)
def ma_soba(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    adjoint_optimizer: Optimizer | None = None,
    weight: float | Schedule = 0.1,
) -> Algorithm:
    """Return MA-SOBA: SOBA with a moving average of the outer direction.

        y <- y - inner_optimizer(g_y);   v <- v - adjoint_optimizer(H v - f_y)
        h <- (1 - weight) h + weight (f_x - J v),   h = f_x - J v at the first step
        x <- x - outer_optimizer(h),   all at the same (x, y, v)

    `weight=1` is `soba`.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      adjoint_optimizer: optimiser of v; default: `inner_optimizer`.
      weight: share of the fresh direction, in (0, 1], or a schedule `step -> weight`, capped at 1.

    Returns:
      An `Algorithm` that reads one minibatch at each level per step.

    Raises:
      ValueError: if a constant `weight` is not in (0, 1].

    Cost per step: 2 gradients, 1 Hessian product, 1 cross product, in one pass.

    Equations: taken from published code of others, not checked against the paper's text.

    >>> from bilevel import tasks
    >>> ma_soba(tasks.quadratic().problem).cost
    Cost(gradients=2, hessian_products=1, cross_products=1)
    """
    adjoint_optimizer = inner_optimizer if adjoint_optimizer is None else adjoint_optimizer
    optimizers = Point(x=outer_optimizer, y=inner_optimizer, v=adjoint_optimizer)
    estimator = momentum(Point(x=weight, y=1.0, v=1.0))
    return single_loop(problem, implicit_direction(problem), estimator, optimizers, name="ma_soba")
