"""Double loops over tasks with an inner problem each and a mean outer loss."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import PartitionSpec

from bilevel.combinators import NestedState, move_outer
from bilevel.hypergradient import as_variables, measures, stationarity, undiagnosed
from bilevel.keys import key_for
from bilevel.optimizers import as_optimizer
from bilevel.response.types import Response
from bilevel.sampling import full
from bilevel.types import Algorithm, Batch, Cost, Draws, Optimizer, Problem, PyTree
from bilevel.widening import widened

TASKS = "tasks"  # the mesh axis over which tasks are spread


def whole_task(task: PyTree, key: Any) -> Batch:
    """Return the batch in which both losses see the whole task at every inner step."""
    return full(task, task)


def drawn_by(resample: Callable[[PyTree, Any], PyTree]) -> Callable[[PyTree, Any], Batch]:
    """Return a function `(task, key) -> Batch` of minibatches drawn by `resample`."""

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
    """Compute the mean of an estimate over tasks.

    Under `jax.set_mesh(mesh)`, with a mesh axis named `tasks` that divides the number of tasks, every device
    takes an equal share of them.

    Args:
      estimate: `(memory, batch, key) -> (memory, (gradient, y, metrics))` for one task.
      memory: value that one task passes to the next. With `vectorize`, and across devices, every task gets
        the same value, and the mean of the returned values is kept.
      tasks: pytree of arrays with a leading axis of tasks; without leaves it is one task.
      key: random key, split among the tasks; None if the estimate needs none.
      vectorize: whether all tasks run at once, by `vmap`; otherwise they run one after the other.
      source: `(task, key) -> Batch`, the minibatches of one task.

    Returns:
      `(memory, gradient, y, metrics)`: means of gradient and metrics, and the y of the first task. The mean
      of gradient norms is not the norm of the mean gradient: set `gradient_norm` anew.
    """

    def one(memory, task_and_key):
        task, key = task_and_key
        source_key, key = (None, None) if key is None else jax.random.split(key)
        return estimate(memory, source(task, source_key), key)

    if not jax.tree.leaves(tasks):
        memory, (gradient, y, metrics) = one(memory, (tasks, key))
        return memory, gradient, y, metrics
    count = count_tasks(tasks)
    keys = None if key is None else jax.random.split(key, count)

    def share(memory, tasks_and_keys):
        """Return mean memory, mean gradient and mean metrics of some tasks, and the first y."""
        if vectorize:
            memories, (gradients, ys, metrics) = jax.vmap(one, in_axes=(None, 0))(memory, tasks_and_keys)
            return *_mean((memories, gradients, metrics)), jax.tree.map(lambda a: a[0], ys)
        return _one_by_one(one, memory, tasks_and_keys)

    mesh = jax.sharding.get_abstract_mesh()
    devices = dict(mesh.shape).get(TASKS, 1)
    if devices > 1 and count % devices == 0:
        spread = PartitionSpec(TASKS)
        # The check of replication is off: values that `estimate` closes over are the same on every device.
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
    return memory, gradient, y, metrics


def _one_by_one(one, memory, tasks_and_keys):
    """Return the results of `share` from running sums, one task after the other."""
    count = len(jax.tree.leaves(tasks_and_keys)[0])
    first = jax.tree.map(lambda a: a[0], tasks_and_keys)
    _, (gradient, y, metrics) = jax.eval_shape(one, memory, first)
    nothing = optax.tree.zeros_like((gradient, metrics))

    def add(carry, indexed):
        memory, sums, kept = carry
        index, task_and_key = indexed
        memory, (gradient, y, metrics) = one(memory, task_and_key)
        sums = jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, (gradient, metrics))
        return (memory, sums, optax.tree.where(index == 0, y, kept)), None

    carry = memory, jax.tree.map(widened, nothing), optax.tree.zeros_like(y)
    (memory, sums, y), _ = lax.scan(add, carry, (jnp.arange(count), tasks_and_keys))
    gradient, metrics = jax.tree.map(lambda a, b: (a / count).astype(b.dtype), sums, nothing)
    return memory, gradient, metrics, y


def _mean(stacked):
    return jax.tree.map(lambda a: jnp.mean(a, axis=0), stacked)


def from_start(algorithm: Algorithm, start: Callable[[PyTree], PyTree] | None) -> Algorithm:
    """Return an algorithm whose inner solver starts at `start(x)`, not at the y given to `init`.

    That y then takes the dtypes of `start(x)`, so that a step keeps the dtypes of its state.

    Args:
      algorithm: the algorithm.
      start: `x -> y_0`, or None for an algorithm that starts at its y.

    Raises:
      ValueError: in `init`, if y does not have the structure and shapes of `start(x)`.
    """
    if start is None:
        return algorithm

    def init(x, y):
        x, y = as_variables(x, y)
        first = jax.eval_shape(start, x)
        shapes, wanted = (jax.tree.map(jnp.shape, value) for value in (y, first))
        if jax.tree.structure(y) != jax.tree.structure(first) or shapes != wanted:
            raise ValueError(
                f"y must have the structure and shapes of the start that {algorithm.name} learns, {wanted}, "
                f"got {shapes}; pass a y like it, for example zeros"
            )
        return algorithm.init(x, jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), y, first))

    return algorithm._replace(init=init)


def count_tasks(tasks: PyTree) -> int:
    """Return the length of the leading axis of a minibatch of tasks, 1 if it has no leaves."""
    leaves = jax.tree.leaves(tasks)
    return len(leaves[0]) if leaves else 1


def nested_over_tasks(
    problem: Problem,
    response: Response,
    optimizer: Optimizer,
    *,
    vectorize: bool = True,
    source: Callable[[PyTree, Any], Batch] = whole_task,
    rate: Callable[[PyTree, PyTree, Any], Any] | None = None,
    name: str = "nested_over_tasks",
) -> Algorithm:
    """Return a double loop over tasks that moves x by the mean hypergradient.

        y_i, pullback_i = response(x, y0; task i)
        x <- x - optimizer(mean over i of f_x + pullback_i(f_y))

    The tasks of a step are one outer minibatch: a pytree of arrays with a leading axis of tasks.
    Every task starts at the y given to `init`, or at the response's own start.

    Args:
      problem: the two losses; their `batch` is a minibatch of `source`, by default the whole task.
      response: the inner solver with its derivative; it must carry no adjoint.
      optimizer: outer optax optimiser or step size.
      vectorize: whether all tasks run at once, by `vmap`; otherwise they run one after the other.
      source: `(task, key) -> Batch`, the minibatches of one task.
      rate: `(x, tasks, key) -> factor` of the gradient, from a second minibatch of tasks.
      name: name in errors and reports.

    Returns:
      An `Algorithm`. Its metrics are means over the tasks, and its y is the one of the first task.

    Cost per task: 1 gradient of f, and the cost of the response.
    """
    mover = as_optimizer(optimizer)
    draws = max(1, response.draws)

    def init(x, y):
        x, y = as_variables(x, y)
        return NestedState(x=x, y=y, v=(), optimizer=mover.init(x), start=y)

    def step(state, batch, key):
        x = state.x

        def estimate(memory, batch, key):
            gradient, y, info = undiagnosed(problem, response, x, state.start, batch, key)
            metrics = measures(problem, x, y, batch, draws - 1, gradient, info.linear_residual)
            return memory, (gradient, y, metrics)

        _, gradient, y, metrics = over_tasks(
            estimate, (), batch.outer[0], key, vectorize=vectorize, source=source
        )
        metrics["gradient_norm"] = stationarity(problem, x, gradient)
        if rate is not None:
            gradient = optax.tree.scale(rate(x, batch.outer[1], key_for("rate", key)), gradient)
        x, optimizer_state = move_outer(problem, mover, gradient, state.optimizer, x, metrics)
        return NestedState(x=x, y=y, v=(), optimizer=optimizer_state, start=state.start), metrics

    outer_draws = 1 if rate is None else 2
    return Algorithm(
        init=init,
        step=step,
        draws=Draws(outer_draws, 1),
        cost=Cost(gradients=1).plus(response.cost),
        name=name,
    )
