"""The fair search: the same trials, the same budget and the same score for every method."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel.types import Algorithm
from bilevel_claims.curves import Curve, Setting, curve, each_seed, even_points
from bilevel_claims.types import Search


def late(quantity: str) -> Callable[[dict[str, Any]], Any]:
    """A score for noisy methods: the mean of a quantity over the second half of a trial's points."""

    def score(values):
        return values[quantity][len(values[quantity]) // 2 :].mean()

    score.__doc__ = f"{quantity}, mean over the second half of the trial"
    return score


def grid(
    method: str,
    build: Callable[..., Algorithm],
    axes: Mapping[str, Sequence[Any]],
    setting: Setting | Sequence[Setting],
    *,
    score: str | Callable[[dict[str, Any]], Any],
    steps: int | None = None,
    calls: int | None = None,
    points: int = 1,
    at_once: int | None = None,
) -> Search:
    """The best of a grid of hyper-parameters, scored by the mean over the seeds.

    Axes of floats are one call under `vmap`; an axis of anything else (whole numbers such as inner
    steps, words) compiles once for each of its values. Give every method as many trials.

    Args:
      method: as the page calls it.
      build: `(**values) -> Algorithm`; floats arrive traced.
      axes: the values to try, by argument of `build`.
      setting: what all methods share; take other seeds than those that are shown. Of several, which
        differ in their arrays of data and held alone, the score is the mean.
      score: a quantity of `setting.measure`, taken at the end; or a function of all of them, each of
        shape (points,), whose first docstring line the page shows. The lower the better; what is not
        finite counts as infinite.
      steps, calls: budget of each trial in outer steps, or in gradients and products; exactly one.
      points: how many times to measure along a trial, evenly apart.
      at_once: trials under one `vmap`, all when None; fewer use less memory.

    Returns:
      A `Search`.

    Raises:
      ArithmeticError: when no trial ended well.
      ValueError: when not exactly one budget is given.
    """
    if (steps is None) == (calls is None):
        raise ValueError(f"give exactly one budget of steps or calls, got steps={steps}, calls={calls}")
    traced = {name: values for name, values in axes.items() if all(isinstance(v, float) for v in values)}
    static = {name: values for name, values in axes.items() if name not in traced}
    settings = [setting] if isinstance(setting, Setting) else list(setting)
    setting = settings[0]
    dtype = jax.tree.leaves(jax.eval_shape(setting.start, jax.random.key(0)))[0].dtype
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
            values = each_seed(build_one(row), setting, measured)(data, held)
            return jax.vmap(lambda v: v[score][-1] if isinstance(score, str) else score(v))(values)

        def trials(rows, data, held, trial=trial, example=example):
            batch = 1 if example.seeds_in_sequence else at_once or len(columns)
            return lax.map(lambda row: trial(row, data, held), rows, batch_size=batch)

        compiled, rows = jax.jit(trials), jnp.asarray(columns, dtype)
        found.append(np.mean([compiled(rows, each.data, each.held).mean(1) for each in settings], 0))
    scores = np.asarray(jax.device_get(found), float).reshape([len(v) for v in (static | traced).values()])
    # Static axes came first; back to the order given.
    scores = np.transpose(scores, [list(static | traced).index(name) for name in axes])
    if not isinstance(score, str):
        score = (score.__doc__ or score.__name__).partition("\n")[0].rstrip(".")
    budget = f"{steps:,} steps" if steps else f"{calls:,} oracle calls"
    return chosen(Search(method, dict(axes), scores, {}, (), score.replace("_", " "), budget), scores)


def tune(
    builds: Mapping[str, Callable[..., Algorithm]],
    axes: Mapping[str, Sequence[Any]],
    setting: Setting,
    *,
    score: str | Callable[[dict[str, Any]], Any],
    steps: int | None = None,
    calls: int | None = None,
    seeds: Sequence[int] = (100, 101, 102),
    points: int = 1,
    shown: int = 60,
    at_once: int | None = None,
) -> tuple[list[Search], list[Curve]]:
    """The same grid for every method, and a run of each at its best with the seeds of the setting.

    Args:
      builds: by label, `(**values) -> Algorithm` as in `grid`.
      axes, score, steps, calls, points, at_once: as in `grid`.
      setting: what all methods share; its seeds are those of the curves.
      seeds: of the trials, others than those of the setting.
      shown: points of a curve, evenly apart.

    Returns:
      `(searches, curves)`, in the order of the methods.
    """
    searches, curves = [], []
    trials = setting._replace(seeds=seeds)
    for label, build in builds.items():
        search = grid(
            label, build, axes, trials, score=score, steps=steps, calls=calls, points=points, at_once=at_once
        )
        algorithm = build(**search.best)
        length = steps or (calls or 0) // algorithm.cost.total
        searches.append(search)
        curves.append(curve(label, algorithm, setting, even_points(length, shown)))
    return searches, curves


def chosen(search: Search, scores: np.ndarray) -> Search:
    """The search with these scores, for example the mean of several searches, and the best by them.

    Raises:
      ArithmeticError: when none is finite.
    """
    scores, axes = np.where(np.isfinite(scores), scores, math.inf), search.axes
    if not np.isfinite(scores).any():
        raise ArithmeticError(
            f"no trial of {search.method} ended well: try smaller values of {', '.join(axes)}"
        )
    place = [int(i) for i in np.unravel_index(np.argmin(scores), scores.shape)]
    best = {name: values[i] for (name, values), i in zip(axes.items(), place, strict=True)}
    edge = tuple(
        name
        for (name, values), i in zip(axes.items(), place, strict=True)
        if len(values) > 2 and i in (0, len(values) - 1) and isinstance(values[0], float)
    )
    return search._replace(scores=scores, best=best, edge=edge)
