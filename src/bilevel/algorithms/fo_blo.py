"""FO-BLO: the biased first-order parent of UFO-BLO."""

from collections.abc import Callable

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.many_tasks import nested_over_tasks
from bilevel.response import first_order
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, first order, biased",
    reference="Likhosherstov, Song, Choromanski, Davis and Weller, UFO-BLO: Unbiased First-Order Bilevel "
    "Optimization, 2020, arXiv:2006.03631, FO-BLO",
    direct_term_only=True,
)
def fo_blo(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    start: Callable | None = None,
    tasks: bool = False,
    vectorize: bool = True,
) -> Algorithm:
    """First-order bilevel steps: every Hessian and cross derivative counts as zero.

        y_0 = start(x);   y_{j+1} = y_j - inner_optimizer g_y(x, y_j),   j = 0 .. r - 1
        x <- x - outer_optimizer (f_x(x, y_r) + (d start / dx)' f_y(x, y_r)),   the mean over tasks

    With `start` the identity it is first-order MAML (`fomaml`). Its limit need not be stationary,
    and without `start` and f_x it never moves.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes.
      inner_steps: steps r of every inner solve.
      start: `x -> y_0`; None starts at the y given to `init`.
      tasks: the outer minibatch holds tasks along a leading axis, and each is the batch of both
        its losses; else there is one task, with data at both levels.
      vectorize: all tasks at once by `vmap`, else one after the other.

    Returns:
      An `Algorithm` that reads r inner minibatches a step, or one outer minibatch of tasks.

    Cost per step: for each task r + 1 gradients, no products.

    >>> from bilevel import tasks
    >>> fo_blo(tasks.quadratic().problem).cost
    Cost(gradients=11, hessian_products=0, cross_products=0)
    """
    response = first_order(descend(problem, inner_optimizer, inner_steps), start=start)
    if tasks:
        return nested_over_tasks(problem, response, outer_optimizer, vectorize=vectorize, name="fo_blo")
    return nested(problem, response, outer_optimizer, warm=False, name="fo_blo")
