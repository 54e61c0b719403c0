"""iMAML: learn a start that regularises the training on each task."""

from dataclasses import replace

import optax

from bilevel.algorithms.record import describe
from bilevel.inner import descend
from bilevel.linear import cg
from bilevel.many_tasks import from_start, nested_over_tasks
from bilevel.response import implicit
from bilevel.types import Algorithm, Optimizer, Problem, require
from bilevel.whole_models import closed


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
    """Return iMAML: implicit gradients of training that is pulled to its start.

        y ~ argmin over y of g(y) + (pull / 2) |y - x|^2,   T steps of inner_optimizer from x,   for each task
        v = (H(y) + pull + damping)^-1 f_y(y),   N steps of conjugate gradients from zero
        x <- x - outer_optimizer(mean over tasks of pull v)

    Only the end of the path matters, so memory does not grow with the inner steps.

    Args:
      problem: the two losses; they read y alone, and get a single task as `batch`.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of steps on each task.
      linear_steps: number N of steps of conjugate gradients.
      damping: added to the diagonal of H + pull in the linear solve. Networks need it, since H + pull is
        indefinite there.
      pull: strength of the pull towards the start, positive.
      vectorize: run all tasks at once by `vmap`; otherwise one after the other.

    Returns:
      An `Algorithm` that reads one outer minibatch of tasks per step. The y given to `init` has the
      structure of x; its values are not used.

    Raises:
      ValueError: if `pull` is not positive or `inner_steps` is negative.

    Cost per step: T + 1 gradients and N Hessian products for each task. The cross derivative is -pull times
    the identity, and its products cost nothing.

    Differs from the authors' code: every inner step feels the pull, where the code takes T steps on g alone
    and then one step on the pull. The direction is pull (H + pull)^-1 f_y, where the code with its default
    dampings takes (pull + 10) (H + 2 (pull + 10))^-1 f_y, which is 12 (H + 24)^-1 f_y at a pull of 2.

    >>> from bilevel import tasks
    >>> imaml(tasks.quadratic().problem).cost
    Cost(gradients=17, hessian_products=5, cross_products=0)
    """
    pulled = pulled_to_start(problem, pull)
    solver = descend(pulled, inner_optimizer, inner_steps)
    from_x = solver._replace(solve=lambda x, y0, batch: solver.solve(x, x, batch))
    response = implicit(pulled, from_x, cg(linear_steps, damping=damping), warm=False)
    algorithm = nested_over_tasks(pulled, response, outer_optimizer, vectorize=vectorize, name="imaml")
    algorithm = from_start(algorithm, lambda x: x)
    return algorithm._replace(cost=algorithm.cost._replace(cross_products=0))


def pulled_to_start(problem: Problem, pull: float) -> Problem:
    """Return the problem with (pull / 2) |y - x|^2 added to its inner loss.

    Args:
      problem: the two losses; x and y have the same structure.
      pull: strength of the pull of y towards x, positive.

    Raises:
      ValueError: if `pull` is not positive.
    """
    require(pull > 0, "pull must be positive", pull)

    def inner(x, y, batch):
        squared_distance = optax.tree.norm(optax.tree.sub(closed(y), closed(x)), squared=True)
        return problem.inner(x, y, batch) + 0.5 * pull * squared_distance

    return replace(problem, inner=inner)
