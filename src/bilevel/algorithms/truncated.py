"""Reverse mode through the last inner steps only."""

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.response import unrolled
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, unrolled",
    reference="Shaban, Cheng, Hatch and Boots, Truncated back-propagation for bilevel optimization, AISTATS "
    "2019, arXiv:1810.10667",
)
def truncated(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 100,
    last: int = 20,
    warm: bool = False,
) -> Algorithm:
    """Return truncated back-propagation: reverse mode through the last inner steps.

        y_0 = the y given to `init`;   y_{t+1} = y_t - inner_optimizer(g_y(x, y_t)),   t = 0 .. T - 1
        x <- x - outer_optimizer(d f(x, y_T(x)) / dx),   where y_{T - last} is held constant

    Near the inner solution the bias falls like (1 - step mu)^last. The reverse pass stores `last`
    iterates.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of steps of each inner run.
      last: number of steps that are differentiated, from 0 to T.
      warm: start each inner run at the last y; otherwise at the y given to `init`.

    Returns:
      An `Algorithm` that reads T inner minibatches per step.

    Raises:
      ValueError: if `inner_steps` is negative or `last` is not between 0 and T.

    Cost per step: T + 1 gradients, `last` Hessian products, `last` cross products.

    >>> from bilevel import tasks
    >>> truncated(tasks.quadratic().problem).cost
    Cost(gradients=101, hessian_products=20, cross_products=20)
    """
    response = unrolled(descend(problem, inner_optimizer, inner_steps, last=last))
    return nested(problem, response, outer_optimizer, warm=warm, name="truncated")
