"""ANIL: tasks train only the head, on features that all tasks share."""

from collections.abc import Hashable
from typing import Any

import optax

from bilevel.algorithms.record import describe
from bilevel.inner import descend
from bilevel.many_tasks import from_start, nested_over_tasks
from bilevel.optimizers import as_optimizer
from bilevel.response import unrolled
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop over tasks, unrolled",
    reference="Ji, Lee, Liang and Poor, Convergence of Meta-Learning with Task-Specific Adaptation over "
    "Partial Parameters, NeurIPS 2020, arXiv:2006.09486, ANIL",
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
    """Return ANIL: learn features and a start of the head; tasks train the head.

        x = {"head": w, "features": p};   y_0 = w;   y_{t+1} = y_t - s g_y(x, y_t)
        u_T = f_y;   u_t = u_{t+1} - s H(y_t) u_{t+1},   t = T - 1 .. 0
        w <- w - outer_optimizer(mean over tasks of u_0)
        p <- p - features_optimizer(mean over tasks of f_p - s sum_t J(y_t) u_{t+1})

    The formulas assume that `inner_optimizer` is a step size s. Second derivatives act on the head alone, so
    `anil` is cheaper than `maml`.

    Args:
      problem: the two losses. They read y and `x["features"]`, and receive one task as `batch`. x may have
        further blocks, which all tasks share like the features.
      inner_optimizer: optimiser of y, see `Optimizer`.
      outer_optimizer: optimiser of the head; of all of x if `features_optimizer` is None.
      features_optimizer: optimiser of the features and of every further block, all together; default:
        `outer_optimizer`.
      inner_steps: number T of steps on each task.
      vectorize: run all tasks at once by `vmap`; otherwise one after the other.

    Returns:
      An `Algorithm` that reads one outer minibatch of tasks per step. The y given to `init` has the
      structure of the head; its values are not used.

    Raises:
      ValueError: if `inner_steps` is negative; in `init`, if x lacks one of the two blocks or y is not like
        the head.

    Cost per step: for each task T + 1 gradients, T Hessian products, T cross products.

    Equations: recalled, not checked against the paper's text.

    >>> from bilevel import tasks
    >>> anil(tasks.quadratic().problem).cost
    Cost(gradients=11, hessian_products=10, cross_products=10)
    """
    response = unrolled(descend(problem, inner_optimizer, inner_steps), start=_head)
    optimizer = as_optimizer(outer_optimizer)
    if features_optimizer is not None:
        parts: dict[Hashable, Any] = {"head": optimizer, "features": as_optimizer(features_optimizer)}
        optimizer = optax.partition(
            parts, lambda x: {name: "head" if name == "head" else "features" for name in x}
        )
    algorithm = nested_over_tasks(problem, response, optimizer, vectorize=vectorize, name="anil")
    return from_start(algorithm, _head)


def _head(x):
    if not (isinstance(x, dict) and x.keys() >= {"head", "features"}):
        found = f"a dict with keys {list(x)}" if isinstance(x, dict) else f"an x of type {type(x).__name__}"
        raise ValueError(
            f"anil needs x to be a dict with the keys 'head' and 'features', got {found}; "
            "pass x={'head': ..., 'features': ...}"
        )
    return x["head"]
