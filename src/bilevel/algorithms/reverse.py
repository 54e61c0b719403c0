"""Reverse mode through an inner run that restarts at every outer step."""

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.response import unrolled
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, unrolled",
    reference="Franceschi, Donini, Frasconi and Pontil, Forward and reverse gradient-based hyperparameter "
    "optimization, ICML 2017, arXiv:1703.01785",
)
def reverse(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 100,
) -> Algorithm:
    """Return reverse mode through whole inner runs, each from the same start.

        y_0 = the y given to `init`;   y_{t+1} = y_t - inner_optimizer(g_y(x, y_t)),   t = 0 .. T - 1
        x <- x - outer_optimizer(d f(x, y_T(x)) / dx)

    The gradient is exact for the T-th iterate: x minimises f(x, y_T(x)), not f(x, y*(x)), and the two come
    closer as T grows. `itd_bio` does the same from the last y.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of steps of each inner run.

    Returns:
      An `Algorithm` that reads T inner minibatches per step.

    Raises:
      ValueError: if `inner_steps` is negative.

    Cost per step: T + 1 gradients, T Hessian products, T cross products.

    >>> from bilevel import tasks
    >>> reverse(tasks.quadratic().problem).cost
    Cost(gradients=101, hessian_products=100, cross_products=100)
    """
    response = unrolled(descend(problem, inner_optimizer, inner_steps))
    return nested(problem, response, outer_optimizer, warm=False, name="reverse")
