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
    """Back-propagation through the last steps of each inner run.

        y^{t+1} = y^t - inner_optimizer g_y(x, y^t),  t = 0 .. inner_steps - 1,  y^0 = first y
        x <- x - outer_optimizer d f(x, y^T(x)) / dx,  y^{T - last} taken as a constant

    Near the inner solution the bias falls like (1 - step mu)^last, and memory is that of `last` steps.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes.
      inner_steps: steps T of each inner run.
      last: how many of them are differentiated, in 0..T.
      warm: start each inner run at the last y, else at the first.

    Returns:
      An `Algorithm` that reads T inner minibatches a step.

    Raises:
      ValueError: when `last` is not in 0..T.

    Cost per step: T + 1 gradients, `last` Hessian products, `last` cross products.

    >>> from bilevel import tasks
    >>> truncated(tasks.quadratic().problem).cost
    Cost(gradients=101, hessian_products=20, cross_products=20)
    """
    response = unrolled(descend(problem, inner_optimizer, inner_steps, last=last))
    return nested(problem, response, outer_optimizer, warm=warm, name="truncated")
