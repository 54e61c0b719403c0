"""ANIL: tasks adapt the head only, upon features that all of them share."""

from typing import Any

import optax

from bilevel.algorithms.record import describe
from bilevel.inner import as_optimizer, descend
from bilevel.many_tasks import nested_over_tasks
from bilevel.response import unrolled
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop over tasks, unrolled",
    reference="following Ji, Lee, Liang and Poor, Convergence of Meta-Learning with Task-Specific "
    "Adaptation over Partial Parameters, NeurIPS 2020, arXiv:2006.09486, whose equations we could not check "
    "against the text",
    learns_start=True,
)
def anil(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    features_optimizer: Optimizer | None = None,
    inner_steps: int = 10,
    vectorize: bool = True,
) -> Algorithm:
    """Learn features and a start of the head, while tasks train the head alone.

        x = {"head": w, "features": p};   y_0 = w;   y_{m+1} = y_m - inner_optimizer g_y(x, y_m)
        u_N = f_y;   u_m = u_{m+1} - inner_optimizer H(y_m) u_{m+1},   m = N - 1 .. 0
        w <- w - outer_optimizer mean over tasks of u_0
        p <- p - features_optimizer mean over tasks of f_p - inner_optimizer sum_m J(y_m) u_{m+1}

    Second derivatives act on the head alone: that is what it saves over `maml`.

    Args:
      problem: the two losses; they read y and `x["features"]`, and get a single task as `batch`.
      inner_optimizer: optax optimiser or step size.
      outer_optimizer: that of the head, or of all x when `features_optimizer` is None.
      features_optimizer: that of the features.
      inner_steps: steps N on each task.
      vectorize: all tasks at once by `vmap`, else one after the other.

    Returns:
      An `Algorithm` that reads one outer minibatch of tasks a step. The y given to `init` has the
      structure of the head and is not used.

    Cost per step: for each task N + 1 gradients, N Hessian products, N cross products.

    >>> from bilevel import tasks
    >>> anil(tasks.quadratic().problem).cost
    Cost(gradients=11, hessian_products=10, cross_products=10)
    """
    response = unrolled(descend(problem, inner_optimizer, inner_steps), start=_head)
    optimizer = as_optimizer(outer_optimizer)
    if features_optimizer is not None:
        optimizer = block_by_block({"head": optimizer, "features": as_optimizer(features_optimizer)})
    return nested_over_tasks(problem, response, optimizer, vectorize=vectorize, name="anil")


def _head(x):
    if not (isinstance(x, dict) and x.keys() >= {"head", "features"}):
        raise ValueError(
            f"anil learns x = {{'head': .., 'features': ..}}, got {type(x).__name__}; name the two blocks so"
        )
    return x["head"]


def block_by_block(optimizers: dict[str, optax.GradientTransformation]) -> optax.GradientTransformation:
    """An optimiser for each block of x, which sees that block alone (constraints fit in)."""

    def init(params: Any):
        return {name: optimizer.init(params[name]) for name, optimizer in optimizers.items()}

    def update(updates, state, params: Any = None):
        moves = {
            name: optimizer.update(updates[name], state[name], params[name])
            for name, optimizer in optimizers.items()
        }
        return {name: move[0] for name, move in moves.items()}, {
            name: move[1] for name, move in moves.items()
        }

    return optax.GradientTransformation(init, update)
