"""iMAML: learn a start that regularises the training on each task."""

import optax

from bilevel.algorithms.record import describe
from bilevel.inner import descend
from bilevel.linear import cg
from bilevel.many_tasks import nested_over_tasks
from bilevel.response import implicit
from bilevel.types import Algorithm, Optimizer, Problem, require


@describe(
    family="double loop over tasks, implicit",
    reference="Rajeswaran, Finn, Kakade and Levine, Meta-Learning with Implicit Gradients, NeurIPS 2019, "
    "arXiv:1909.04630, Algorithms 1 and 2",
    learns_start=True,
)
def imaml(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 16,
    linear_steps: int = 5,
    damping: float = 0.0,
    pull: float = 2.0,
    vectorize: bool = True,
) -> Algorithm:
    """Implicit gradients of training that is pulled towards its start.

        y ~ argmin of g(y) + (pull / 2) |y - x|^2,   by descent from x,   for each task
        G = pull (H(y) + pull + damping)^{-1} f_y(y),   by conjugate gradients
        x <- x - outer_optimizer mean over tasks of G

    The path does not matter, only where it ends, so memory does not grow with the inner steps.

    Args:
      problem: the two losses; they read y alone, and get a single task as `batch`.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes.
      inner_steps: steps on each task.
      linear_steps: steps of conjugate gradients, from zero.
      damping: added to H + pull in the linear solve, for networks, where these are indefinite. (The
        defaults of the authors' code come to H + 24 at their pull of 2.)
      pull: strength of the pull, positive.
      vectorize: all tasks at once by `vmap`, else one after the other.

    Returns:
      An `Algorithm` that reads one outer minibatch of tasks a step. The y given to `init` has the
      structure of x and is not used.

    Raises:
      ValueError: when `pull` is not positive.

    Cost per step: for each task inner_steps + 1 gradients, linear_steps Hessian products; the cross
    product is with the pull alone, and costs nothing.

    >>> from bilevel import tasks
    >>> imaml(tasks.quadratic().problem).cost
    Cost(gradients=17, hessian_products=5, cross_products=0)
    """
    pulled = pulled_to_start(problem, pull)
    solver = descend(pulled, inner_optimizer, inner_steps)
    from_x = solver._replace(solve=lambda x, y0, batch: solver.solve(x, x, batch))
    response = implicit(pulled, from_x, cg(linear_steps, damping=damping), warm=False)
    algorithm = nested_over_tasks(pulled, response, outer_optimizer, vectorize=vectorize, name="imaml")
    return algorithm._replace(cost=algorithm.cost._replace(cross_products=0))


def pulled_to_start(problem: Problem, pull: float) -> Problem:
    """The problem with (pull / 2) |y - x|^2 in its inner loss.

    Raises:
      ValueError: when `pull` is not positive.
    """
    require(pull > 0, "pull must be positive", pull)

    def inner(x, y, batch):
        away = optax.tree.norm(optax.tree.sub(y, x), squared=True)
        return problem.inner(x, y, batch) + 0.5 * pull * away

    return Problem(problem.outer, inner)
