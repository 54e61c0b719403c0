"""Reptile: move the start towards where training on a task ends."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from bilevel.algorithms.record import describe
from bilevel.combinators import NestedState, move
from bilevel.hypergradient import as_variables, measures
from bilevel.inner import as_optimizer, descend
from bilevel.many_tasks import drawn_by, over_tasks, whole_task
from bilevel.types import Algorithm, Draws, Optimizer, Problem, PyTree


@describe(
    family="double loop over tasks, first order",
    reference="Nichol, Achiam and Schulman, On First-Order Meta-Learning Algorithms, 2018, "
    "arXiv:1803.02999, Algorithm 2",
    learns_start=True,
    cheap=True,
)
def reptile(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 1.0,
    inner_steps: int = 5,
    resample: Callable[[PyTree, Any], PyTree] | None = None,
    vectorize: bool = True,
) -> Algorithm:
    """Steps of the start x towards the trained y, the mean over tasks.

        y_0 = x;   y_{j+1} = y_j - inner_optimizer g_y(y_j; S_j),   j = 0 .. N - 1,   for each task
        x <- x - outer_optimizer mean over tasks of (x - y_N)

    The outer loss is not used, but in the metrics: to first order the direction is a sum of gradients
    and products of gradients of g: of g on other data of the task with `resample`, which makes
    what helps one minibatch help the others; of g on the same data without it, which helps to fit
    them and no more. With N = 1 it is joint training on all tasks.

    Args:
      problem: the two losses; x is where y starts, both get a single task as `batch`.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes; an outer step of 1 takes the
        mean of the trained y.
      inner_steps: steps N on each task.
      resample: `(task, key) -> minibatch`, a fresh draw S_j of a task's data; None for the whole task.
      vectorize: all tasks at once by `vmap`, else one after the other.

    Returns:
      An `Algorithm` that reads one outer minibatch of tasks a step. The y given to `init` has the
      structure of x and is not used.

    Cost per step: for each task N gradients, no products.

    >>> from bilevel import tasks
    >>> reptile(tasks.quadratic().problem).cost
    Cost(gradients=5, hessian_products=0, cross_products=0)
    """
    optimizer = as_optimizer(outer_optimizer)
    solver = descend(problem, inner_optimizer, inner_steps)
    last = max(0, inner_steps - 1)
    source = whole_task if resample is None else drawn_by(resample)

    def init(x, y):
        x, y = as_variables(x, y)
        return NestedState(x, y, (), optimizer.init(x), y)

    def step(state, batch, key):
        x = state.x

        def estimate(memory, batch, key):
            y = solver.solve(x, x, batch)
            gradient = optax.tree.sub(x, y)
            metrics = measures(problem, x, y, batch, last, gradient, jnp.zeros((), optax.tree.norm(x).dtype))
            return memory, (gradient, y, metrics)

        _, gradient, y, metrics = over_tasks(
            estimate, (), batch.outer[0], key, vectorize=vectorize, source=source
        )
        x, optimizer_state = move(optimizer, gradient, state.optimizer, x)
        return NestedState(x, y, (), optimizer_state, state.start), metrics

    return Algorithm(init, step, Draws(1, 1), solver.cost, "reptile")
