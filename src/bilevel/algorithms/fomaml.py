"""FOMAML: first-order MAML, whose Hessians count as zero."""

from bilevel.algorithms.record import describe
from bilevel.inner import descend
from bilevel.many_tasks import from_start, nested_over_tasks
from bilevel.response import first_order
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop over tasks, first order, biased",
    reference="Finn, Abbeel and Levine, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, "
    "ICML 2017, arXiv:1703.03400, first-order MAML",
    learns_start=True,
    cheap=True,
)
def fomaml(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 5,
    vectorize: bool = True,
) -> Algorithm:
    """Return FOMAML: move the start along the gradient at the trained y.

        y_0 = x;   y_{t+1} = y_t - inner_optimizer(g_y(y_t)),   t = 0 .. T - 1,   for each task
        x <- x - outer_optimizer(mean over tasks of f_y(y_T))

    It is biased: its limit need not be a stationary point of the loss after T steps. `ufo_blo` removes the
    bias.

    Args:
      problem: the two losses; x is where y starts, and both receive one task as `batch`.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of steps on each task.
      vectorize: run all tasks at once by `vmap`; otherwise one after the other.

    Returns:
      An `Algorithm` that reads one outer minibatch of tasks per step. The y given to `init` has the
      structure of x; its values are not used.

    Raises:
      ValueError: if `inner_steps` is negative.

    Cost per step: for each task T + 1 gradients, no products.

    >>> from bilevel import tasks
    >>> fomaml(tasks.quadratic().problem).cost
    Cost(gradients=6, hessian_products=0, cross_products=0)
    """

    def start(x):
        return x

    response = first_order(descend(problem, inner_optimizer, inner_steps), start=start)
    algorithm = nested_over_tasks(problem, response, outer_optimizer, vectorize=vectorize, name="fomaml")
    return from_start(algorithm, start)
