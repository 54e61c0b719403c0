"""Reverse mode through an inner run that starts afresh at every outer step."""

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
    """Back-propagation through whole inner runs, each from the first y.

        y^{t+1} = y^t - inner_optimizer g_y(x, y^t),  t = 0 .. inner_steps - 1,  y^0 = first y
        x <- x - outer_optimizer d f(x, y^T(x)) / dx

    The exact gradient of f at the T-th iterate: x minimises that, not f(x, y*(x)), and the more steps
    the closer the two. With the last y as start it is `itd_bio`.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes.
      inner_steps: steps T of each inner run.

    Returns:
      An `Algorithm` that reads T inner minibatches a step.

    Cost per step: T + 1 gradients, T Hessian products, T cross products.

    >>> from bilevel import tasks
    >>> reverse(tasks.quadratic().problem).cost
    Cost(gradients=101, hessian_products=100, cross_products=100)
    """
    response = unrolled(descend(problem, inner_optimizer, inner_steps))
    return nested(problem, response, outer_optimizer, warm=False, name="reverse")
