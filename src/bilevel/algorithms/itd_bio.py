"""ITD-BiO: back-propagation through the inner loop."""

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.response import unrolled
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, unrolled",
    reference="Ji, Yang and Liang, Bilevel Optimization: Convergence Analysis and Enhanced Design, "
    "ICML 2021, arXiv:2010.07962, ITD-BiO",
)
def itd_bio(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    warm: bool = True,
) -> Algorithm:
    """Return ITD-BiO: reverse mode through the inner steps.

        y_0 = the last y;   y_{t+1} = y_t - inner_optimizer(g_y(x, y_t)),   t = 0 .. T - 1
        x <- x - outer_optimizer(d f(x, y_T(x)) / dx)

    With a fixed number of inner steps the error of the hypergradient has a floor of about (1 - step mu)^T.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of steps of each inner solve.
      warm: start each inner solve at the last y; otherwise at the y given to `init`.

    Returns:
      An `Algorithm` that reads T inner minibatches per step.

    Raises:
      ValueError: if `inner_steps` is negative.

    Cost per step: T + 1 gradients, T Hessian products, T cross products.

    Equations: recalled, not checked against the paper's text.

    >>> from bilevel import tasks
    >>> itd_bio(tasks.quadratic().problem).cost
    Cost(gradients=11, hessian_products=10, cross_products=10)
    """
    response = unrolled(descend(problem, inner_optimizer, inner_steps))
    return nested(problem, response, outer_optimizer, warm=warm, name="itd_bio")
