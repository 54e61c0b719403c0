"""Algorithms whose outer loss is a mean over tasks, each with its own inner problem."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import PartitionSpec

from bilevel.combinators import NestedState, move
from bilevel.hypergradient import as_variables, hypergradient, measures
from bilevel.inner import as_optimizer
from bilevel.response.types import Response
from bilevel.sampling import full
from bilevel.types import Algorithm, Batch, Cost, Draws, Problem, PyTree

TASKS = "tasks"  # the mesh axis over which tasks are spread


def whole_task(task: PyTree, key: Any) -> Batch:
    """Both losses, at every inner step, see the task as it is."""
    return full(task, task)


def drawn_by(resample: Callable) -> Callable:
    """A source whose every minibatch is a fresh draw: `(task, key) -> Batch`."""

    def source(task, key):
        outer_key, inner_key = jax.random.split(key)
        return Batch(_Drawn(task, outer_key, resample), _Drawn(task, inner_key, resample))

    return source


@partial(jax.tree_util.register_dataclass, data_fields=["task", "key"], meta_fields=["resample"])
@dataclass(frozen=True)
class _Drawn:
    task: PyTree
    key: Any
    resample: Callable
    is_full = False

    def __getitem__(self, i):
        return self.resample(self.task, jax.random.fold_in(self.key, i))


def over_tasks(
    estimate: Callable,
    memory: PyTree,
    tasks: PyTree,
    key: Any,
    *,
    vectorize: bool,
    source: Callable[[PyTree, Any], Batch] = whole_task,
) -> tuple[PyTree, PyTree, PyTree, dict[str, Any]]:
    """The mean of an estimate over tasks.

    Under `jax.set_mesh(mesh)` with a mesh axis named `tasks` that divides their number, every device
    takes its share of them.

    Args:
      estimate: `(memory, batch, key) -> (memory, (gradient, y, metrics))` for one task.
      memory: handed on from task to task; with `vectorize` every task gets it as it is, and the
        mean of what they return is kept (so too between devices).
      tasks: pytree of arrays with a leading axis of tasks; without leaves it is one task.
      key: split among the tasks; None is fine for estimates that need none.
      vectorize: all tasks at once by `vmap`, else one after the other.
      source: `(task, key) -> Batch`, what the losses of one task read.

    Returns:
      `(memory, gradient, y, metrics)`: gradient and metrics are means, y is that of the first task.
    """

    def one(memory, task_and_key):
        task, key = task_and_key
        source_key, key = (None, None) if key is None else jax.random.split(key)
        return estimate(memory, source(task, source_key), key)

    leaves = jax.tree.leaves(tasks)
    if not leaves:
        memory, (gradient, y, metrics) = one(memory, (tasks, key))
        return memory, gradient, y, metrics
    keys = None if key is None else jax.random.split(key, len(leaves[0]))

    def share(memory, tasks_and_keys):
        """Memory, gradient and metrics, means over some tasks, and the first y."""
        if vectorize:
            memories, (gradients, ys, metrics) = jax.vmap(one, in_axes=(None, 0))(memory, tasks_and_keys)
            return *_mean((memories, gradients, metrics)), jax.tree.map(lambda a: a[0], ys)
        return _one_by_one(one, memory, tasks_and_keys)

    mesh = jax.sharding.get_abstract_mesh()
    devices = dict(mesh.shape).get(TASKS, 1)
    if devices > 1 and len(leaves[0]) % devices == 0:
        spread = PartitionSpec(TASKS)
        # Without the check of replication: what `estimate` closes over is the same on every device.
        shares = jax.shard_map(
            lambda *arguments: jax.tree.map(lambda a: a[None], share(*arguments)),
            in_specs=(PartitionSpec(), spread),
            out_specs=spread,
            check_vma=False,
        )
        *stacked, ys = shares(memory, (tasks, keys))
        memory, gradient, metrics = _mean(stacked)
        y = jax.tree.map(lambda a: a[0], ys)
    else:
        memory, gradient, metrics, y = share(memory, (tasks, keys))
    metrics["gradient_norm"] = optax.tree.norm(gradient)
    return memory, gradient, y, metrics


def _one_by_one(one, memory, tasks_and_keys):
    """The same for one task after the other: sums are kept, and not what each task gave."""
    count = len(jax.tree.leaves(tasks_and_keys)[0])
    first = jax.tree.map(lambda a: a[0], tasks_and_keys)
    _, (gradient, y, metrics) = jax.eval_shape(one, memory, first)
    nothing = optax.tree.zeros_like((gradient, metrics, y))

    def add(carry, indexed):
        memory, sums, kept = carry
        index, task_and_key = indexed
        memory, (gradient, y, metrics) = one(memory, task_and_key)
        sums = optax.tree.add(sums, (gradient, metrics))
        return (memory, sums, optax.tree.where(index == 0, y, kept)), None

    carry = memory, nothing[:2], nothing[2]
    (memory, sums, y), _ = lax.scan(add, carry, (jnp.arange(count), tasks_and_keys))
    gradient, metrics = optax.tree.scale(1 / count, sums)
    return memory, gradient, metrics, y


def _mean(stacked):
    return jax.tree.map(lambda a: jnp.mean(a, axis=0), stacked)


def nested_over_tasks(
    problem: Problem,
    response: Response,
    optimizer,
    *,
    vectorize: bool = True,
    source: Callable[[PyTree, Any], Batch] = whole_task,
    rate: Callable[[PyTree, PyTree, Any], Any] | None = None,
    name: str = "nested_over_tasks",
) -> Algorithm:
    """Double loop over tasks: train y on each, take the mean hypergradient, move x.

        y_i, pullback_i = response(x, y0; task i)
        x <- x + optimizer(mean over i of f_x + pullback_i(f_y))

    The tasks of a step are one outer minibatch: a pytree of arrays with a leading axis of tasks.
    Every task starts at the y given to `init`, or at the response's own start.

    Args:
      problem: the two losses; both get a single task (or what `source` makes of it) as `batch`.
      response: the inner solver with its derivative; carries no adjoint.
      optimizer: outer optax optimiser or step size.
      vectorize: all tasks at once by `vmap`, else one after the other.
      source: `(task, key) -> Batch`, what the losses of one task read.
      rate: `(x, tasks, key) -> factor` of the gradient, from a second minibatch of tasks.
      name: for reports.

    Returns:
      An `Algorithm`. Its metrics are means over the tasks; y is that of the first.

    Cost per task: 1 gradient of f and the response's cost.
    """
    optimizer = as_optimizer(optimizer)
    draws = max(1, response.draws)

    def init(x, y):
        x, y = as_variables(x, y)
        return NestedState(x, y, (), optimizer.init(x), y)

    def step(state, batch, key):
        x = state.x

        def estimate(memory, batch, key):
            gradient, y, info = hypergradient(problem, response, x, state.start, batch, key)
            residual = jnp.asarray(info.linear_residual, info.outer_loss.dtype)
            metrics = measures(problem, x, y, batch, draws - 1, gradient, residual)
            return memory, (gradient, y, metrics)

        _, gradient, y, metrics = over_tasks(
            estimate, (), batch.outer[0], key, vectorize=vectorize, source=source
        )
        if rate is not None:
            rate_key = None if key is None else jax.random.fold_in(key, 1)
            gradient = optax.tree.scale(rate(x, batch.outer[1], rate_key), gradient)
        x, optimizer_state = move(optimizer, gradient, state.optimizer, x)
        return NestedState(x, y, (), optimizer_state, state.start), metrics

    outer_draws = 1 if rate is None else 2
    return Algorithm(init, step, Draws(outer_draws, 1), Cost(gradients=1).plus(response.cost), name)
