"""The driver: `run` on the host, `advance` on the device."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel.checkpoint import Checkpoint
from bilevel.sampling import Host
from bilevel.types import Algorithm, Batch, DivergedError, PyTree, Result


def advance(algorithm: Algorithm, state: Any, data: Batch, key: Any, *, start: Any, steps: int, until: Any = None):
    """The state after steps `start` to `start + steps - 1`: one pure function, nothing on the host.

    Minibatches and keys of all steps are chosen before the loop, from `key` and the number of
    the step alone, so the path does not depend on how a run is cut into chunks. Under `vmap`
    over a function that builds the algorithm, a whole sweep of step sizes is one call.

    Args:
      algorithm: what to run.
      state: from `algorithm.init`, or the state to go on from.
      data: from `full` or `minibatches`.
      key: random key.
      start: number of the first step, may be traced.
      steps: how many steps to plan for.
      until: how many of them to make (all when None), may be traced.

    Returns:
      The new state.

    >>> import bilevel
    >>> task = bilevel.tasks.quadratic()
    >>> def last_x(rate):
    ...     algorithm = bilevel.soba(task.problem, outer_optimizer=rate)
    ...     state = algorithm.init(*task.start(jax.random.key(0)))
    ...     return advance(algorithm, state, task.data(None), jax.random.key(0), start=0, steps=10).x
    >>> jax.vmap(last_x)(jnp.array([0.1, 0.01])).shape
    (2, 10)
    """
    plan = _plan(algorithm, data, key, start, steps)

    def body(i, state):
        return algorithm.step(state, *_pick(data, plan, i))[0]

    # The trip count is traced also when it is known: one loop, compiled once, for every chunk.
    return lax.fori_loop(0, jnp.asarray(steps if until is None else until), body, state)


def run(
    algorithm: Algorithm,
    x: PyTree,
    y: PyTree,
    data: Batch,
    *,
    steps: int,
    key: Any,
    log_every: int = 100,
    callback: Callable[[int, Any, dict], bool | None] | None = None,
    state: Any = None,
    start: int = 0,
    checkpoint: Checkpoint | str | None = None,
    progress: bool = True,
    allow_divergence: bool = False,
) -> Result:
    """Run an algorithm, logging, checking and saving every `log_every` steps.

    Args:
      algorithm: what to run.
      x, y: where it starts.
      data: from `full` or `minibatches`, or a `Batch` of `Host` sources.
      steps: number of the last step.
      key: `jax.random.key(seed)`; an array of keys runs that many seeds at once, by `vmap`, and
        every state and metric then has a leading axis.
      log_every: steps between log points. The path of the state does not depend on it.
      callback: `(step, state, metrics)` at each log point; returning True ends the run.
      state: a state to start from instead of `algorithm.init(x, y)`.
      start: number of the first step, where `state` was left.
      checkpoint: a folder (or a `Checkpoint`) to save in, and to resume from if it holds a save.
      progress: show a bar after a few seconds, in a terminal or notebook.
      allow_divergence: go on with values that are not finite instead of raising.

    Returns:
      A `Result`: last state, history, compile time apart.

    Raises:
      ValueError: when an argument does not fit, or the checkpoint is of another problem.
      DivergedError: when the state or a metric is not finite at a log point.

    >>> import bilevel
    >>> task = bilevel.tasks.quadratic()
    >>> x, y = task.start(jax.random.key(0))
    >>> result = run(bilevel.soba(task.problem), x, y, task.data(None), steps=50, key=jax.random.key(0))
    >>> [int(step) for step in result.history["step"]]
    [0, 50]
    """
    if steps < start or log_every < 1:
        raise ValueError(f"need steps >= start and log_every >= 1, got {steps}, {start} and {log_every}")
    seeds = np.ndim(key) > 0
    if state is None:
        state = algorithm.init(x, y)
        if seeds:
            state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*np.shape(key), *leaf.shape)), state)
    record = _History()
    saved = Checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
    if saved is not None and (found := saved.restore(algorithm.name, state, key)):
        start, state, record.entries = found

    # A call of no steps compiles, and nothing else.
    begin = time.perf_counter()
    chunk = _load(algorithm, data, start, 1, log_every)
    jax.block_until_ready(_chunk(algorithm, state, chunk, key, start, 0, log_every, seeds))
    metrics = jax.block_until_ready(_observe(algorithm, state, chunk, key, start, seeds))
    compile_seconds = time.perf_counter() - begin

    begin = time.perf_counter() - record.seconds
    if not record.entries:
        record.add(start, 0.0, metrics)
        _check(algorithm, metrics, state, (start, start), state, record, allow_divergence)
    stop = bool(callback and callback(start, state, metrics))
    step = start
    with _bar(steps - start, algorithm.name, progress) as bar:
        try:
            while step < steps and not stop:
                count = min(log_every, steps - step)
                chunk = _load(algorithm, data, step, count, log_every)
                new = _chunk(algorithm, state, chunk, key, step, count, log_every, seeds)
                chunk = _load(algorithm, data, step + count, 1, log_every)
                metrics = jax.device_get(_observe(algorithm, new, chunk, key, step + count, seeds))
                _check(algorithm, metrics, new, (step, step + count), state, record, allow_divergence)
                step, state = step + count, new
                record.add(step, time.perf_counter() - begin, metrics)
                bar.update(count)
                stop = bool(callback and callback(step, state, metrics))
                if saved is not None and (saved.due() or stop or step == steps):
                    saved.save(step, algorithm.name, state, key, record.entries)
        except KeyboardInterrupt:
            if saved is not None:
                saved.save(step, algorithm.name, state, key, record.entries)
            raise
    return Result(state, record.arrays(), compile_seconds)


@partial(jax.jit, static_argnames=("algorithm", "room", "seeds"))
def _chunk(algorithm, state, data, key, start, count, room, seeds):
    def one(state, key):
        return advance(algorithm, state, data, key, start=start, steps=room, until=count)

    return jax.vmap(one)(state, key) if seeds else one(state, key)


@partial(jax.jit, static_argnames=("algorithm", "seeds"))
def _observe(algorithm, state, data, key, start, seeds):
    """The metrics at `state`, on the minibatches of the step that would come next."""

    def one(state, key):
        return algorithm.step(state, *_pick(data, _plan(algorithm, data, key, start, 1), 0))[1]

    return jax.vmap(one)(state, key) if seeds else one(state, key)


def _plan(algorithm, data, key, start, steps):
    """Minibatches and keys of `steps` steps: all that is random, before the loop."""
    outer_key, inner_key, step_key = jax.random.split(key, 3)

    def picks(source, key, draws):
        return source.plan(key, start * draws, steps * draws).reshape(steps, draws)

    keys = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(start + jnp.arange(steps))
    return (
        picks(data.outer, outer_key, algorithm.draws.outer),
        picks(data.inner, inner_key, algorithm.draws.inner),
        keys,
    )


def _pick(data, plan, i):
    outer, inner, keys = plan
    return Batch(data.outer.view(outer[i]), data.inner.view(inner[i])), keys[i]


def _load(algorithm, data, step, count, room):
    """`data` with host sources replaced by the stacked minibatches of one chunk."""

    def load(source, draws):
        if isinstance(source, Host):
            return source.stack(step * draws, count * draws, room * draws)
        return source

    return Batch(load(data.outer, algorithm.draws.outer), load(data.inner, algorithm.draws.inner))


def _check(algorithm, metrics, new, window, state, record, allow_divergence):
    if allow_divergence:
        return
    broken = [name for name, value in metrics.items() if not np.all(np.isfinite(value))]
    if not broken and not _finite(new):
        leaves = jax.tree_util.tree_leaves_with_path(new)
        broken = ["state" + jax.tree_util.keystr(path) for path, leaf in leaves if not _finite(leaf)]
    if broken:
        raise DivergedError(algorithm.name, window, broken[0], state, record.arrays())


@jax.jit
def _finite(state):
    leaves = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def _bar(total, name, progress):
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=name, unit="step", delay=2, leave=False, disable=None if progress else True)


class _History:
    """Metrics at log points: plain numbers (or lists of them, one a seed), which JSON can hold."""

    def __init__(self):
        self.entries = []

    def add(self, step, seconds, metrics):
        values = {name: np.asarray(value).tolist() for name, value in metrics.items()}
        self.entries.append({"step": step, "seconds": seconds, **values})

    @property
    def seconds(self):
        return self.entries[-1]["seconds"] if self.entries else 0.0

    def arrays(self):
        return {name: np.array([entry[name] for entry in self.entries]) for name in self.entries[0]}
