"""The driver: `run` on the host, `advance` on the device."""

import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from bilevel.certificates import Certify, judge, missed, reached, unmeasured
from bilevel.checkpoint import Checkpoint
from bilevel.divergence import FACTOR, LEAST_FACTOR, Steps, builder, diagnose, first_broken, reaction
from bilevel.estimators import count_blocks
from bilevel.sampling import Host, require_sources
from bilevel.types import Algorithm, Batch, DivergedError, Draws, PyTree, Result, require
from bilevel.whole_models import closed, opened


class Plan(NamedTuple):
    """Random choices of one chunk of steps, drawn before its loop.

    Attributes:
      outer, inner: picks of minibatches, arrays with leading axes (steps, draws).
      keys: (steps,) random keys.
    """

    outer: Any
    inner: Any
    keys: Any

    def read(self, data: Batch, i: Any) -> tuple[Batch, Any]:
        """Return the minibatches and the key of the i-th step of the chunk."""
        outer, inner, key = jax.tree.map(lambda picks: picks[i], self)
        return Batch(data.outer.view(outer), data.inner.view(inner)), key


def make_plan(draws: Draws, data: Batch, key: Any, start: Any, steps: int) -> Plan:
    """Return the plan of steps `start` to `start + steps - 1`.

    It depends on the key and on the numbers of the steps alone, not on how a run is cut into chunks.
    """
    outer_key, inner_key, step_key = jax.random.split(key, 3)

    def picks(source, key, count):
        flat = source.plan(key, start * count, steps * count, draws.fixed)
        return jax.tree.map(lambda picks: picks.reshape(steps, count, *picks.shape[1:]), flat)

    keys = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(start + jnp.arange(steps))
    return Plan(picks(data.outer, outer_key, draws.outer), picks(data.inner, inner_key, draws.inner), keys)


def advance(algorithm: Algorithm, state: Any, data: Batch, key: Any, *, start: Any, steps: int) -> Any:
    """Return the state after `steps` steps, as one pure function on the device.

    Minibatches and keys of all steps are chosen before the loop, from `key` and the number of
    the step alone, so the path does not depend on how a run is cut into chunks. Under `vmap`
    over a function that builds the algorithm, a whole sweep of step sizes is one call.

    Args:
      algorithm: algorithm to run.
      state: from `initial_state`, or from an earlier call.
      data: from `full` or `minibatches`, or a `Batch` of two sources.
      key: random key.
      start: number of the first step, may be traced; the last one is `start + steps - 1`.
      steps: number of steps.

    Returns:
      The new state.

    Raises:
      ValueError: if the data do not fit the algorithm.

    >>> import bilevel
    >>> from bilevel import tasks
    >>> task = tasks.quadratic()
    >>> def last_x(rate):
    ...     algorithm = bilevel.soba(task.problem, outer_optimizer=rate)
    ...     state = algorithm.init(*task.start(jax.random.key(0)))
    ...     return advance(algorithm, state, task.data, jax.random.key(0), start=0, steps=10).x
    >>> jax.vmap(last_x)(jnp.array([0.1, 0.01])).shape
    (2, 10)
    """
    require_sources(data, table=algorithm.name if algorithm.draws.fixed else None)
    plan = make_plan(algorithm.draws, data, key, start, steps)
    return opened(_follow(algorithm, closed(state), data, plan, steps))


def initial_state(algorithm: Algorithm, x: PyTree, y: PyTree, data: Batch) -> Any:
    """Return the state before the first step, as `run` makes it.

    Args:
      algorithm: algorithm to run.
      x, y: start of the outer and of the inner variable.
      data: data of the run. An algorithm that keeps a table of minibatches reads their numbers, and needs a
        `BlockSource` at each level.

    Raises:
      ValueError: if the data do not fit the algorithm.

    >>> import bilevel
    >>> from bilevel import tasks
    >>> task = tasks.quadratic()
    >>> data = task.minibatches(8)
    >>> state = initial_state(bilevel.saba(task.problem), *task.start(jax.random.key(0)), data)
    """
    if not algorithm.draws.fixed:
        require_sources(data, host=True)
        return algorithm.init(x, y)
    require_sources(data, table=algorithm.name)
    return algorithm.init(x, y, count_blocks(data))


def run(
    algorithm: Algorithm | Callable[[float], Algorithm],
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
    checkpoint: Checkpoint | Path | str | None = None,
    progress: bool = True,
    on_divergence: str = "raise",
    certify: Certify | None = None,
    tolerance: float | None = None,
) -> Result:
    """Run an algorithm; log, check and save every `log_every` steps.

    Args:
      algorithm: algorithm to run; with `on_divergence="halve"`, a function `factor -> Algorithm`.
      x, y: start of the outer and of the inner variable.
      data: from `full` or `minibatches`, or a `Batch` of two sources, each a `Source` or a `Host`.
      steps: number of the last step.
      key: `jax.random.key(seed)`. An array of keys runs one seed for each key, all at once by `vmap`;
        every state and metric then has a leading axis.
      log_every: steps between log points. The path of the state does not depend on it.
      callback: called as `(step, state, metrics)` at each log point, with `seconds` among the metrics. If
        it returns True, the run ends. The seconds leave out compiling and the callback itself. A resumed
        run calls it again at the step from which it resumes.
      state: state to start from; default: `initial_state(algorithm, x, y, data)`.
      start: number of the first step; with `state`, the number of steps that it has made.
      checkpoint: folder (or a `Checkpoint`) to save in, and to resume from if it holds a save of
        the same start, algorithm and key. Hyper-parameters are not compared; name them in the
        `identity` of a `Checkpoint`.
      progress: whether to show a bar after a few seconds, in a terminal or notebook.
      on_divergence: what to do when the state or a metric is not finite at a log point.
        `"raise"`: find the step, the loss and the leaf, and raise `DivergedError`.
        `"restore"`: warn with its message, and end with the state and the history of the last log point.
        `"halve"`: warn, and go on from the last log point with `algorithm(factor)`, where `factor` is 1 at
        first and halves each time, at most 20 times; `algorithm` multiplies its step sizes by it. The
        history holds it as `step_size_factor`.
        `"continue"`: do not look.
        A start that is not finite raises unless the run continues.
      certify: a `Certify`, to measure the true gradient norm of Phi along the run. The history holds
        `certified_gradient_norm`, `certified_error`, `certified_inner_residual` and
        `certified_linear_residual`, NaN at log points without a certificate. The seconds leave it out.
        At the end the run warns if the residuals were not small compared with the gradient. After a
        divergence it does not.
      tolerance: the run ends when a certificate knows the gradient norm to its accuracy, and it is at most
        this, for every seed. A run that ends above it warns.

    Returns:
      A `Result`: last state, history, compile time, with `certify` the last certificate, and the last
      divergence.

    Raises:
      ValueError: if an argument does not fit, or the checkpoint belongs to another run.
      DivergedError: if the state or a metric is not finite at a log point, see `on_divergence`.

    >>> import bilevel
    >>> from bilevel import tasks
    >>> task = tasks.quadratic()
    >>> x, y = task.start(jax.random.key(0))
    >>> result = run(bilevel.soba(task.problem), x, y, task.data, steps=50, key=jax.random.key(0))
    >>> [int(step) for step in result.history["step"]]
    [0, 50]
    """
    require(log_every >= 1, "log_every must be at least 1", log_every)
    require(steps >= start, f"steps must be at least {start}, the first step", steps)
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    require(typed, "key must be made by jax.random.key(seed)", key)
    build, factor = builder(algorithm, on_divergence), 1.0
    current = build(factor)
    require_sources(data, table=current.name if current.draws.fixed else None, host=True)
    seeds = np.ndim(key) > 0
    require(
        tolerance is None or certify is not None,
        "tolerance needs certify=Certify(problem, every=...)",
        tolerance,
    )
    require(tolerance is None or tolerance > 0, "tolerance must be positive", tolerance)
    if certify is not None:
        require(isinstance(certify, Certify), "certify must be a Certify(problem, every=...)", certify)
        certify.require(data, log_every)
    if state is None:
        state = initial_state(current, x, y, data)
        if seeds:
            state = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*np.shape(key), *leaf.shape)), state)
    state, record = closed(state), _History()
    saved = Checkpoint(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
    if saved is not None and (found := saved.restore(current.name, state, key)):
        start, state, record.entries = found
        require(start <= steps, f"steps must be at least {start}, where the checkpoint was saved", steps)
        # A run that halved its step sizes before goes on with the halves.
        factor = record.entries[-1].get(FACTOR, factor)
        current = build(factor)
    state = _on_mesh(state)
    room = max(1, min(log_every, steps - start))

    def compiled():
        """Compile the program by a chunk of zero steps; return the metrics at the state, and the seconds."""
        begin = time.perf_counter()
        data_now, plan = _prepare(current, data, key, start, 0, room)
        jax.block_until_ready(_chunk(current, state, data_now, plan, 0, seeds))
        metrics = jax.device_get(_observe(current, state, data_now, plan, 0, seeds))
        return metrics, time.perf_counter() - begin

    def diagnosed(window):
        again = _again(current, data, key, room, seeds)
        return diagnose(current, data, again, state, window, start, record.arrays())

    certified, certified_at, faults, diverged = None, None, [], None

    def certificate(certify, step, metrics):
        """Return a certificate at the state, measured and judged."""
        nonlocal certified, certified_at, faults
        certified, certified_at = certify.measure(state, data, seeds), step
        faults = judge(certified, metrics, tolerance)
        return certified

    def log(step, metrics, add=True):
        """Certify and record a log point, call the user's callback, and return whether to stop the run."""
        metrics, stop = dict(metrics), False
        with clock.stopped() as seconds:
            if on_divergence == "halve":
                metrics[FACTOR] = factor
            if certify is not None and ((step - start) % certify.every == 0 or step == steps):
                found = certificate(certify, step, metrics)
                metrics |= found.metrics()
                stop = tolerance is not None and reached(found, tolerance)
            elif certify is not None:
                metrics |= unmeasured(metrics)
            if add:
                record.add(step, seconds if step > start else 0.0, metrics)
            if callback is not None:
                stop |= bool(callback(step, opened(state), {**metrics, "seconds": seconds}))
            if stop and certify is not None and certified_at != step:
                record.complete(certificate(certify, step, metrics).metrics())
        return stop

    metrics, compile_seconds = compiled()
    if on_divergence != "continue" and first_broken(metrics, state):
        raise diagnosed((start, start))
    clock = _Clock(record.seconds)
    step, stop = start, log(start, metrics, add=not record.entries)
    with _bar(steps - start, current.name, progress) as bar:
        try:
            while step < steps and not stop:
                count = min(room, steps - step)
                data_now, plan = _prepare(current, data, key, step, count, room)
                new = _chunk(current, state, data_now, plan, count, seeds)
                metrics = jax.device_get(_observe(current, new, data_now, plan, count, seeds))
                if on_divergence != "continue" and first_broken(metrics, new):
                    with clock.stopped():
                        diverged = diagnosed((step, step + count))
                        if on_divergence == "raise" or factor <= LEAST_FACTOR:
                            raise diverged
                        factor /= 2
                        warnings.warn(reaction(diverged, on_divergence, factor), RuntimeWarning, stacklevel=2)
                        if on_divergence == "halve":
                            current = build(factor)
                            compile_seconds += compiled()[1]
                            continue
                        if certify is not None and certified_at != step:
                            record.complete(certificate(certify, step, {}).metrics())
                    if saved is not None:
                        saved.save(step, state, record.entries)
                    break
                step, state = step + count, new
                bar.update(count)
                stop = log(step, metrics)
                if saved is not None and (saved.due() or stop or step == steps):
                    saved.save(step, state, record.entries)
        except (KeyboardInterrupt, DivergedError):
            if saved is not None:
                saved.save(step, state, record.entries)
            raise
    # The warning of a divergence names its own remedy, which those of a certificate may contradict.
    remarks, arrived = [] if diverged else faults, True
    if certified is not None and tolerance is not None:
        arrived = reached(certified, tolerance)
        if diverged is None or on_divergence == "halve":
            remarks = [*missed(certified, tolerance), *remarks]
    if remarks:
        warnings.warn(f"{current.name}: {'; '.join(remarks)}", RuntimeWarning, stacklevel=2)
    return Result(
        state=opened(state),
        history=record.arrays(),
        compile_seconds=compile_seconds,
        certificate=certified,
        solved=None if certified is None else arrived and not faults and diverged is None,
        diverged=diverged,
    )


def _again(algorithm, data, key, room, seeds):
    """Return the steps of a run, to be made again from any of its states."""

    def hold(state, batch, key):
        return algorithm.step(state, batch, key)[0]._replace(x=state.x), {}

    held = algorithm._replace(step=hold)

    def go(state, step, count, algorithm=algorithm):
        data_now, plan = _prepare(algorithm, data, key, step, count, room)
        return _chunk(algorithm, state, data_now, plan, count, seeds)

    def measure(state, step):
        data_now, plan = _prepare(algorithm, data, key, step, 0, room)
        return jax.device_get(_observe(algorithm, state, data_now, plan, 0, seeds))

    def read(step, seed):
        data_now, plan = _prepare(algorithm, data, key, step, 0, room)
        return (plan if seed is None else jax.tree.map(lambda picks: picks[seed], plan)).read(data_now, 0)[0]

    return Steps(go, measure, partial(go, algorithm=held), read)


def _on_mesh(state: PyTree) -> PyTree:
    """Return the state where compiled steps place it under `jax.set_mesh`.

    With any other placement the steps would compile twice. Leaves that already lie on a mesh stay there.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return state
    whole = NamedSharding(mesh, PartitionSpec())

    def place(leaf):
        return leaf if isinstance(leaf.sharding, NamedSharding) else jax.device_put(leaf, whole)

    return jax.tree.map(place, jax.tree.map(jnp.asarray, state))


def _prepare(algorithm, data, key, step, count, room):
    """Return data and plan of `count` steps, plus one step for the metrics."""

    def load(source, draws):
        if isinstance(source, Host):
            return source.stack(step * draws, (count + 1) * draws, (room + 1) * draws)
        return source

    draws = algorithm.draws
    data = Batch(load(data.outer, draws.outer), load(data.inner, draws.inner))
    return data, _plan(draws, data, key, step, room + 1)


@partial(jax.jit, static_argnames=("draws", "steps"))
def _plan(draws, data, key, start, steps):
    def one(key):
        return make_plan(draws, data, key, start, steps)

    return jax.vmap(one)(key) if np.ndim(key) else one(key)


@partial(jax.jit, static_argnames=("algorithm", "seeds"))
def _chunk(algorithm, state, data, plan, count, seeds):
    def one(state, plan):
        return _follow(algorithm, state, data, plan, count)

    return _each(algorithm, one, state, plan) if seeds else one(state, plan)


@partial(jax.jit, static_argnames=("algorithm", "seeds"))
def _observe(algorithm, state, data, plan, i, seeds):
    """Return the metrics at `state`, on the minibatches of the i-th step of the plan."""

    def one(state, plan):
        return algorithm.step(state, *plan.read(data, i))[1]

    return _each(algorithm, one, state, plan) if seeds else one(state, plan)


def _each(algorithm, one, state, plan):
    """Run all seeds at once, or in sequence if `seeds_in_sequence` asks for it."""
    if algorithm.seeds_in_sequence:
        return lax.map(lambda pair: one(*pair), (state, plan))
    return jax.vmap(one)(state, plan)


def _follow(algorithm, state, data, plan, count):
    def body(i, state):
        return algorithm.step(state, *plan.read(data, i))[0]

    # The trip count is traced even if it is known, so that every chunk runs the same loop bit for bit.
    return lax.fori_loop(0, jnp.asarray(count, jnp.int32), body, state)


def _bar(total, name, progress):
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError:  # it comes with an extra, and a run does not need it
        return _NoBar()
    return tqdm(total=total, desc=name, unit="step", delay=2, leave=False, disable=None if progress else True)


class _NoBar(nullcontext):
    """Stand-in for a progress bar."""

    def __enter__(self):
        return self

    def update(self, count):
        pass


class _Clock:
    """Seconds since the clock was made, without the time for which it was stopped."""

    def __init__(self, seconds):
        self.begin = time.perf_counter() - seconds

    def seconds(self):
        return time.perf_counter() - self.begin

    @contextmanager
    def stopped(self):
        """Stop the clock in the body of a `with` statement, and yield its seconds."""
        before = self.seconds()
        try:
            yield before
        finally:
            self.begin += self.seconds() - before


class _History:
    """Metrics at log points, JSON-ready: numbers, or lists with one for each seed."""

    def __init__(self):
        self.entries = []

    def add(self, step, seconds, metrics):
        values = {name: np.asarray(value).tolist() for name, value in metrics.items()}
        self.entries.append({"step": step, "seconds": seconds, **values})

    def complete(self, metrics):
        """Replace metrics of the last log point."""
        self.entries[-1] |= {name: np.asarray(value).tolist() for name, value in metrics.items()}

    @property
    def seconds(self):
        return self.entries[-1]["seconds"] if self.entries else 0.0

    def arrays(self):
        # A resumed run may measure more than the run before, or less.
        first = self.entries[0] if self.entries else ()
        names = [name for name in first if all(name in entry for entry in self.entries)]
        return {name: np.array([entry[name] for entry in self.entries]) for name in names}
