"""FO-BLO: the biased first-order method that UFO-BLO makes unbiased."""

from collections.abc import Callable

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.many_tasks import from_start, nested_over_tasks
from bilevel.response import first_order
from bilevel.types import Algorithm, Optimizer, Problem, PyTree


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
    start: Callable[[PyTree], PyTree] | None = None,
    tasks: bool = False,
    vectorize: bool = True,
) -> Algorithm:
    """Return FO-BLO: every Hessian and cross derivative counts as zero.

        y_0 = start(x);   y_{t+1} = y_t - inner_optimizer(g_y(x, y_t)),   t = 0 .. T - 1
        x <- x - outer_optimizer(mean over tasks of f_x(x, y_T) + (d start / dx)' f_y(x, y_T))

    With `start=lambda x: x` and tasks it is first-order MAML (`fomaml`). It is biased: its limit need not be
    stationary. Without `start`, x moves along f_x alone, and not at all where f_x is zero.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of steps of each inner solve.
      start: `x -> y_0`; default: y_0 is the y given to `init`.
      tasks: whether the outer minibatch holds tasks along a leading axis, each the batch of both losses;
        otherwise there is one task, with data at both levels.
      vectorize: run all tasks at once by `vmap`; otherwise one after the other.

    Returns:
      An `Algorithm` that reads T inner minibatches per step, or one outer minibatch of tasks.

    Raises:
      ValueError: if `inner_steps` is negative.

    Cost per step: for each task T + 1 gradients, no products.

    >>> from bilevel import tasks
    >>> fo_blo(tasks.quadratic().problem).cost
    Cost(gradients=11, hessian_products=0, cross_products=0)
    """
    response = first_order(descend(problem, inner_optimizer, inner_steps), start=start)
    if tasks:
        algorithm = nested_over_tasks(problem, response, outer_optimizer, vectorize=vectorize, name="fo_blo")
    else:
        algorithm = nested(problem, response, outer_optimizer, warm=False, name="fo_blo")
    return from_start(algorithm, start)
