"""Experiments: settings that all methods share, and runs measured along their path."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel.driver import initial_state, make_plan
from bilevel.types import Algorithm, Batch, Cost, PyTree


class Experiment(NamedTuple):
    """Settings that all methods share; give the fields after `measure` by name.

    Attributes:
      data: from `full` or `minibatches`.
      start, measure: jax code, `key -> (x, y)` and `(state, held) -> dict` of scalars.
      held: arrays that only `measure` reads.
      seeds: of the start, the minibatches and the random directions, one a run.
      seeds_in_sequence: whether not to `vmap` the seeds; None means the choice of the algorithm.
    """

    data: Batch
    start: Callable[[Any], tuple[PyTree, PyTree]]
    measure: Callable[[Any, Any], dict[str, Any]]
    held: Any = None
    seeds: Sequence[int] = (0,)
    seeds_in_sequence: bool | None = None

    def in_sequence(self, algorithm: Algorithm) -> bool:
        """Return whether the seeds of an algorithm run one after another."""
        own = self.seeds_in_sequence
        return algorithm.seeds_in_sequence if own is None else own


@dataclass(frozen=True)
class Trajectory:
    """Quantities measured along the runs of one method, one run a seed.

    Attributes:
      label: label of the method.
      steps, values: outer steps at each of (points,); (seeds, points) by quantity. Divergence counts as
        infinite: whatever is not finite becomes inf.
      cost: oracle calls of one step.
      seconds: time of all runs, measuring included, compiling excluded.
    """

    label: str
    steps: np.ndarray
    values: dict[str, np.ndarray]
    cost: Cost
    seconds: float

    def __post_init__(self):
        values = {name: np.where(np.isfinite(found), found, np.inf) for name, found in self.values.items()}
        object.__setattr__(self, "values", values)

    @property
    def diverged(self) -> int:
        """Return the number of seeds with a quantity that is not finite at the last point."""
        return int(np.any([np.isinf(found[:, -1]) for found in self.values.values()], axis=0).sum())

    @property
    def calls(self) -> np.ndarray:
        """Return the oracle calls at each point: gradients, Hessian and cross products."""
        return self.steps * self.cost.total

    def median(self, quantity: str) -> np.ndarray:
        """Return the median over the seeds at each point."""
        return np.median(self.values[quantity], 0)

    def last(self, quantity: str) -> float:
        """Return the median over the seeds at the last point."""
        return float(self.median(quantity)[-1])

    def late(self, quantity: str) -> float:
        """Return the median over the seeds of the mean over the second half of the points."""
        values = self.values[quantity]
        return float(np.median(values[:, values.shape[1] // 2 :].mean(1)))

    def reaches(self, quantity: str, level: float, along: np.ndarray) -> float:
        """Return the place on the axis `along` (points,) where the median first falls to a level, or inf.

        The median is linear between two points.

        >>> run = Trajectory("a", np.array([0, 10, 20]), {"loss": np.array([[4.0, 2.0, 1.0]])}, Cost(1), 0.0)
        >>> run.reaches("loss", 3.0, run.steps), run.reaches("loss", 0.5, run.steps)
        (5.0, inf)
        """
        middle = self.median(quantity)
        below = np.flatnonzero(middle <= level)
        if not below.size:
            return float("inf")
        near = slice(max(below[0] - 1, 0), below[0] + 1)
        return float(np.interp(-level, -middle[near], np.asarray(along, float)[near]))


class Axis(NamedTuple):
    """Horizontal axis of trajectories: its label, and `of`, `trajectory -> (points,)`."""

    name: str
    of: Callable[[Trajectory], np.ndarray]


STEPS = Axis("outer steps", lambda run: run.steps)
CALLS = Axis("oracle calls", lambda run: run.calls)


def ends(runs: Iterable[Trajectory], quantity: str) -> dict[str, float]:
    """Return the last value of a quantity by method, the median over the seeds."""
    return {run.label: run.last(quantity) for run in runs}


def log_points(steps: int, count: int = 60) -> np.ndarray:
    """Return about `count` whole numbers from 0 to `steps`, evenly spaced in the logarithm.

    >>> log_points(100, 5).tolist()
    [0, 1, 3, 10, 32, 100]
    """
    return np.unique([0, *np.round(np.geomspace(1, steps, count)).astype(int)])


def even_points(steps: int, count: int = 60) -> np.ndarray:
    """Return about `count` whole numbers from 0 to `steps`, evenly spaced.

    >>> even_points(100, 4).tolist()
    [0, 25, 50, 75, 100]
    """
    return np.unique(np.round(np.linspace(0, steps, count + 1)).astype(int))


def trajectory(label: str, algorithm: Algorithm, experiment: Experiment, points: Any) -> Trajectory:
    """Run one method with every seed and return the values measured along its path.

    The outer steps `points`, at which to measure, ascend, such as `log_points` or `even_points`.
    """
    return trajectories(label, algorithm, [experiment], points)[0]


def trajectories(
    label: str, algorithm: Algorithm, experiments: Sequence[Experiment], points: Any
) -> list[Trajectory]:
    """Return a `trajectory` in each experiment, from one compiled program.

    The experiments may differ only in their arrays of `data` and `held`.
    """
    steps, found = np.asarray(points), []
    traces = jax.jit(each_seed(algorithm, experiments[0], steps))
    compiled = traces.lower(experiments[0].data, experiments[0].held).compile()
    for experiment in experiments:
        begin = time.perf_counter()
        values = jax.device_get(compiled(experiment.data, experiment.held))
        seconds, cost = time.perf_counter() - begin, algorithm.cost
        found.append(Trajectory(label=label, steps=steps, values=values, cost=cost, seconds=seconds))
    return found


def seconds_per_step(algorithm: Algorithm, experiment: Experiment, steps: int, *, repeats: int = 3) -> float:
    """Return the seconds of one step of one seed, the least of several runs, without compiling."""
    bare = experiment._replace(measure=lambda state, held: {"x": state.x}, seeds=experiment.seeds[:1])
    compiled = jax.jit(each_seed(algorithm, bare, np.array([steps]))).lower(bare.data, None).compile()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(bare.data, None))
        times.append(time.perf_counter() - begin)
    return min(times) / steps


def each_seed(algorithm: Algorithm, experiment: Experiment, points: np.ndarray) -> Callable:
    """Return `(data, held) -> values`, which runs every seed; values are (seeds, points)."""
    keys = jax.vmap(jax.random.key)(jnp.asarray(experiment.seeds))

    def all_seeds(data, held):
        def one(key):
            return _measured(algorithm, experiment, data, held, key, points)

        # Under `vmap` a step computes all of its branches.
        return lax.map(one, keys) if experiment.in_sequence(algorithm) else jax.vmap(one)(keys)

    return all_seeds


def _measured(algorithm, experiment, data, held, key, points):
    x, y = experiment.start(key)
    state = initial_state(algorithm, x, y, data)
    # The start and the run use different randomness.
    plan = make_plan(algorithm.draws, data, jax.random.fold_in(key, 1), 0, int(points[-1]))

    def window(state, ends):
        def body(i, state):
            return algorithm.step(state, *plan.read(data, i))[0]

        state = lax.fori_loop(ends[0], ends[1], body, state)
        return state, experiment.measure(state, held)

    last = jnp.asarray(points, jnp.int32)
    first = jnp.concatenate([jnp.zeros(1, jnp.int32), last[:-1]])
    return lax.scan(window, state, (first, last))[1]
