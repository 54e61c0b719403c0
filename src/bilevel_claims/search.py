"""Searches with the same trials, the same budget and the same score for every method."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel.types import Algorithm
from bilevel_claims.experiment import Experiment, Trajectory, each_seed, even_points, trajectory
from bilevel_claims.types import Search


def late(quantity: str) -> Callable[[dict[str, Any]], Any]:
    """Return a score for noisy methods: the mean of a quantity over the second half of a trial."""

    def score(values):
        return values[quantity][len(values[quantity]) // 2 :].mean()

    score.__doc__ = f"{quantity}, mean over the second half of the trial"
    return score


def grid(
    method: str,
    build: Callable[..., Algorithm],
    axes: Mapping[str, Sequence[Any]],
    experiment: Experiment | Sequence[Experiment],
    *,
    score: str | Callable[[dict[str, Any]], Any],
    steps: int | None = None,
    calls: int | None = None,
    points: int = 1,
) -> Search:
    """Search a grid of hyper-parameters for the lowest mean score over the seeds.

    All trials along axes of floats run under one `vmap`; other axes compile once for each value.

    Args:
      method: label of the method.
      build, axes: `(**values) -> Algorithm`, floats arrive traced; values to try, by argument.
      experiment: the settings that all methods share, with other seeds than those of the figures. The
        score of several is their mean; they may differ only in their arrays of `data` and `held`.
      score: a quantity at the end of the trial; or a function of all quantities, each (points,), whose
        first docstring line the page shows. Values that are not finite count as infinite.
      steps, calls: budget of each trial in outer steps, or in oracle calls; exactly one.
      points: number of measurements along a trial, evenly spaced.

    Raises:
      ArithmeticError: if every trial diverged.
      ValueError: unless exactly one budget is given.
    """
    if (steps is None) == (calls is None):
        raise ValueError(f"give exactly one budget, steps or calls, got steps={steps} and calls={calls}")
    traced = {name: values for name, values in axes.items() if all(isinstance(v, float) for v in values)}
    static = {name: values for name, values in axes.items() if name not in traced}
    experiments = [experiment] if isinstance(experiment, Experiment) else list(experiment)
    shared = experiments[0]
    dtype = jax.tree.leaves(jax.eval_shape(shared.start, jax.random.key(0)))[0].dtype
    columns = np.array(list(itertools.product(*traced.values())))
    found = []
    for values in itertools.product(*static.values()):
        fixed = dict(zip(static, values, strict=True))

        def build_one(row, fixed=fixed):
            return build(**fixed, **dict(zip(traced, row, strict=True)))

        example = build_one(columns[0])
        length = steps or (calls or 0) // example.cost.total
        measured = np.unique(np.round(np.linspace(0, length, points + 1)[1:]).astype(int))

        def trial(row, data, held, build_one=build_one, measured=measured):
            values = each_seed(build_one(row), shared, measured)(data, held)
            return jax.vmap(lambda v: v[score][-1] if isinstance(score, str) else score(v))(values)

        def trials(rows, data, held, trial=trial, example=example):
            batch = 1 if shared.in_sequence(example) else len(columns)
            return lax.map(lambda row: trial(row, data, held), rows, batch_size=batch)

        compiled, rows = jax.jit(trials), jnp.asarray(columns, dtype)
        found.append(np.mean([compiled(rows, each.data, each.held).mean(1) for each in experiments], 0))
    scores = np.asarray(jax.device_get(found), float).reshape([len(v) for v in (static | traced).values()])
    # Static axes came first: restore the order given.
    scores = np.transpose(scores, [list(static | traced).index(name) for name in axes])
    if not isinstance(score, str):
        score = (score.__doc__ or score.__name__).partition("\n")[0].rstrip(".")
    budget = f"{steps:,} steps" if steps else f"{calls:,} oracle calls"
    return chosen(method, axes, scores, score=score.replace("_", " "), budget=budget)


def tune(
    builds: Mapping[str, Callable[..., Algorithm]],
    axes: Mapping[str, Sequence[Any]],
    experiment: Experiment,
    *,
    score: str | Callable[[dict[str, Any]], Any],
    steps: int | None = None,
    calls: int | None = None,
    seeds: Sequence[int] = (100, 101, 102),
    points: int = 1,
    shown: int = 60,
) -> tuple[list[Search], list[Trajectory]]:
    """Search the same grid for every method, and run each method with its best values.

    The arguments are those of `grid`, with `builds` by label. The runs have the seeds of the experiment,
    the trials `seeds`. A trajectory has `shown` points, evenly spaced.
    """
    searches, runs, trials = [], [], experiment._replace(seeds=seeds)
    for label, build in builds.items():
        search = grid(label, build, axes, trials, score=score, steps=steps, calls=calls, points=points)
        algorithm = build(**search.best)
        length = steps or (calls or 0) // algorithm.cost.total
        searches.append(search)
        runs.append(trajectory(label, algorithm, experiment, even_points(length, shown)))
    return searches, runs


def chosen(method: str, axes: Mapping[str, Any], scores: np.ndarray, *, score: str, budget: str) -> Search:
    """Return the search with given scores and its best trial; the arguments are those of `Search`.

    Scores that are not finite count as infinite; an `ArithmeticError` says that none is finite.
    """
    scores = np.where(np.isfinite(scores), scores, math.inf)
    if not np.isfinite(scores).any():
        raise ArithmeticError(f"every trial of {method} diverged; try smaller values of {', '.join(axes)}")
    place = dict(zip(axes, map(int, np.unravel_index(np.argmin(scores), scores.shape)), strict=True))
    best, axes = {name: axes[name][i] for name, i in place.items()}, dict(axes)
    ends = {name: (values[0], values[-1]) for name, values in axes.items() if len(values) > 2}
    edge = tuple(name for name in ends if isinstance(best[name], float) and best[name] in ends[name])
    return Search(method=method, axes=axes, scores=scores, best=best, edge=edge, score=score, budget=budget)
