"""FO-ITD-BiO: inner steps and the direct gradient alone."""

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.response import first_order
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, first order, biased",
    reference="Ji, Yang and Liang, Bilevel Optimization: Convergence Analysis and Enhanced Design, "
    "ICML 2021, arXiv:2010.07962, FO-ITD-BiO in the authors' code",
    direct_term_only=True,
)
def fo_itd_bio(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    warm: bool = True,
) -> Algorithm:
    """Return FO-ITD-BiO: iterative differentiation without second derivatives.

        y_0 = the last y;   y_{t+1} = y_t - inner_optimizer(g_y(x, y_t)),   t = 0 .. T - 1
        x <- x - outer_optimizer(f_x(x, y_T))

    Where f does not depend on x directly, x never moves. Use it where x and y act together in f, such as
    features and a head on them. For many tasks use `fo_blo`.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of steps of each inner solve.
      warm: start each inner solve at the last y; otherwise at the y given to `init`.

    Returns:
      An `Algorithm` that reads T inner minibatches per step.

    Raises:
      ValueError: if `inner_steps` is negative.

    Cost per step: T + 1 gradients, no products.

    >>> from bilevel import tasks
    >>> fo_itd_bio(tasks.quadratic().problem).cost
    Cost(gradients=11, hessian_products=0, cross_products=0)
    """
    response = first_order(descend(problem, inner_optimizer, inner_steps))
    return nested(problem, response, outer_optimizer, warm=warm, name="fo_itd_bio")
