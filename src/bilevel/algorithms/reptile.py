"""Reptile: move the start towards where training on a task ends."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from bilevel.algorithms.record import describe
from bilevel.combinators import NestedState, move_outer
from bilevel.hypergradient import as_variables, measures, stationarity
from bilevel.inner import descend
from bilevel.many_tasks import drawn_by, from_start, over_tasks, whole_task
from bilevel.optimizers import as_optimizer
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
    """Return Reptile: steps of the start x towards the trained y, averaged over tasks.

        y_0 = x;   y_{t+1} = y_t - inner_optimizer(g_y(y_t; S_t)),   t = 0 .. T - 1,   for each task
        x <- x - outer_optimizer(mean over tasks of (x - y_T))

    Only the metrics use the outer loss. To first order in the step size the direction is a sum of gradients
    of g and of gradients of products g_y(S_s)'g_y(S_t). With `resample`, S_s and S_t are different data of
    a task, so a step that lowers the loss on one minibatch also lowers it on the others. Without it they are
    the same data, and the products only improve the fit to them. With T = 1 this is joint training on all
    tasks.

    Args:
      problem: the two losses; x is where y starts, and both losses get a single task as `batch`.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`; an outer step size of 1
        replaces x by the mean of the trained y.
      inner_steps: number T of steps on each task.
      resample: `(task, key) -> minibatch`, which draws a fresh minibatch S_t of a task's data; None means
        the whole task.
      vectorize: run all tasks at once by `vmap`; otherwise one after the other.

    Returns:
      An `Algorithm` that reads one outer minibatch of tasks per step. The y given to `init` has the
      structure of x; its values are not used.

    Raises:
      ValueError: if `inner_steps` is negative.

    Cost per step: T gradients for each task, no products.

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
        return NestedState(x=x, y=y, v=(), optimizer=optimizer.init(x), start=y)

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
        metrics["gradient_norm"] = stationarity(problem, x, gradient)
        x, optimizer_state = move_outer(problem, optimizer, gradient, state.optimizer, x, metrics)
        return NestedState(x=x, y=y, v=(), optimizer=optimizer_state, start=state.start), metrics

    algorithm = Algorithm(init=init, step=step, draws=Draws(1, 1), cost=solver.cost, name="reptile")
    return from_start(algorithm, lambda x: x)
