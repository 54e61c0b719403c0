"""Runs that are measured along their path: all seeds at once, the same measure for every method."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel.driver import initial_state, make_plan
from bilevel.report.numerals import duration
from bilevel.report.tables import Cell, Column, Table
from bilevel.types import Algorithm, Batch, Cost, PyTree


class Setting(NamedTuple):
    """What all methods of an experiment share.

    Attributes:
      data: from `full` or `minibatches`.
      start: `key -> (x, y)`, jax code.
      measure: `(state, held) -> dict` of scalars, jax code.
      held: arrays that only `measure` reads.
      seeds: of the runs; a seed chooses the start, the minibatches and all else that is random.
    """

    data: Batch
    start: Callable[[Any], tuple[PyTree, PyTree]]
    measure: Callable[[Any, Any], dict[str, Any]]
    held: Any = None
    seeds: Sequence[int] = (0,)


class Curve(NamedTuple):
    """What was measured along the runs of one method.

    Attributes:
      label: of the method.
      steps: (points,) outer steps at each log point.
      values: by quantity, (seeds, points).
      cost: oracle calls of one step.
      seconds: of running all seeds, measuring included, compiling left out.
    """

    label: str
    steps: np.ndarray
    values: dict[str, np.ndarray]
    cost: Cost
    seconds: float

    @property
    def calls(self) -> np.ndarray:
        """(points,) gradients, Hessian and cross products together."""
        return self.steps * self.cost.total

    def median(self, quantity: str) -> np.ndarray:
        """(points,) median over the seeds; a run that diverged counts as infinite."""
        return np.median(_or_infinite(self.values[quantity]), 0)

    def last(self, quantity: str) -> float:
        """Median over the seeds at the last point; a run that diverged counts as infinite."""
        return float(self.median(quantity)[-1])

    def reaches(self, quantity: str, level: float, along: np.ndarray) -> float:
        """Where on the axis `along` (points,) the median over the seeds first comes down to a level.

        Linear between the points, inf when never.

        >>> run = Curve("a", np.array([0, 10, 20]), {"loss": np.array([[4.0, 2.0, 1.0]])}, Cost(1), 0.0)
        >>> run.reaches("loss", 3.0, run.steps), run.reaches("loss", 0.5, run.steps)
        (5.0, inf)
        """
        middle = self.median(quantity)
        below = np.flatnonzero(middle <= level)
        if not below.size:
            return float("inf")
        end = below[0]
        near = slice(max(end - 1, 0), end + 1)
        return float(np.interp(-level, -middle[near], np.asarray(along, float)[near]))

    def late(self, quantity: str) -> float:
        """Median over the seeds of the mean over the second half of the points: less noisy."""
        values = _or_infinite(self.values[quantity])
        return float(np.median(values[:, values.shape[1] // 2 :].mean(1)))


def log_points(steps: int, count: int = 60) -> np.ndarray:
    """About `count` whole numbers from 0 to `steps`, evenly apart on a logarithmic axis.

    >>> log_points(100, 5).tolist()
    [0, 1, 3, 10, 32, 100]
    """
    return np.unique([0, *np.round(np.geomspace(1, steps, count)).astype(int)])


def even_points(steps: int, count: int = 60) -> np.ndarray:
    """About `count` whole numbers from 0 to `steps`, evenly apart.

    >>> even_points(100, 4).tolist()
    [0, 25, 50, 75, 100]
    """
    return np.unique(np.round(np.linspace(0, steps, count + 1)).astype(int))


def curve(label: str, algorithm: Algorithm, setting: Setting, points: Sequence[int] | np.ndarray) -> Curve:
    """One method measured along its path, all seeds at once.

    Args:
      label: of the method.
      algorithm: with its settings.
      setting: what all methods share.
      points: outer steps at which to measure, ascending, from `log_points` or `even_points`.

    Returns:
      A `Curve`; values that are not finite stay as they are.
    """
    return on_each(label, algorithm, [setting], points)[0]


def on_each(
    label: str, algorithm: Algorithm, settings: Sequence[Setting], points: Sequence[int] | np.ndarray
) -> list[Curve]:
    """A `curve` in each setting, compiled once: they differ in the arrays of data and held alone."""
    traces, curves = each_seed(algorithm, settings[0], np.asarray(points)), []
    compiled = jax.jit(traces).lower(settings[0].data, settings[0].held).compile()
    for setting in settings:
        begin = time.perf_counter()
        values = jax.device_get(compiled(setting.data, setting.held))
        seconds = time.perf_counter() - begin
        curves.append(Curve(label, np.asarray(points), values, algorithm.cost, seconds))
    return curves


def seconds_per_step(algorithm: Algorithm, setting: Setting, steps: int, *, repeats: int = 3) -> float:
    """Least seconds a step of one seed, of several runs, compiling and measuring left out."""
    bare = setting._replace(measure=lambda state, held: {"x": state.x}, seeds=setting.seeds[:1])
    compiled = jax.jit(each_seed(algorithm, bare, np.array([steps]))).lower(bare.data, None).compile()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(bare.data, None))
        times.append(time.perf_counter() - begin)
    return min(times) / steps


def cost_table(curves: Sequence[Curve]) -> Table:
    """What each method spent: calls of one step, steps, calls and seconds in all."""
    columns = [Column("method", numeric=False), Column("gradients a step"), Column("Hessian products a step")]
    columns += [Column("cross products a step"), Column("steps"), Column("oracle calls"), Column("seconds")]
    rows = [
        [
            Cell(curve.label),
            *map(Cell.of, curve.cost),
            *map(Cell.of, (int(curve.steps[-1]), int(curve.calls[-1]))),
            Cell(duration(curve.seconds), curve.seconds),
        ]
        for curve in curves
    ]
    return Table(columns, rows)


def value_table(
    curves: Sequence[Curve], quantity: str, places: Sequence[int], against: Callable[[Curve], np.ndarray]
) -> Table:
    """A quantity of each method, median over the seeds, where an axis reaches given values.

    Args:
      curves: of the methods.
      quantity: of their values.
      places: on the axis; a method that was not measured there shows its last value before.
      against: the axis of a curve, for example `lambda curve: curve.calls`.
    """
    columns = [Column("method", numeric=False), *[Column(f"{place:,}") for place in places]]
    rows = []
    for curve in curves:
        at = np.searchsorted(against(curve), places, side="right") - 1
        rows.append([Cell(curve.label), *map(Cell.of, curve.median(quantity)[at])])
    return Table(columns, rows)


def each_seed(algorithm: Algorithm, setting: Setting, points: np.ndarray) -> Callable:
    """`(data, held) -> values`: what is measured along the runs of all seeds, each (seeds, points)."""
    keys = jax.vmap(jax.random.key)(jnp.asarray(setting.seeds))

    def all_seeds(data, held):
        def one(key):
            return _trace(algorithm, setting, data, held, key, points)

        # Under `vmap` a step with branches would compute every one of them.
        return lax.map(one, keys) if algorithm.seeds_in_sequence else jax.vmap(one)(keys)

    return all_seeds


def _or_infinite(values):
    return np.where(np.isfinite(values), values, np.inf)


def _trace(algorithm, setting, data, held, key, points):
    x, y = setting.start(key)
    state = initial_state(algorithm, x, y, data)
    # The start and the run use different randomness.
    plan = make_plan(algorithm.draws, data, jax.random.fold_in(key, 1), 0, int(points[-1]))

    def window(state, ends):
        def body(i, state):
            return algorithm.step(state, *plan.read(data, i))[0]

        state = lax.fori_loop(ends[0], ends[1], body, state)
        return state, setting.measure(state, held)

    last = jnp.asarray(points, jnp.int32)
    first = jnp.concatenate([jnp.zeros(1, jnp.int32), last[:-1]])
    return lax.scan(window, state, (first, last))[1]
