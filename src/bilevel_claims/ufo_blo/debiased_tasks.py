"""UFO-BLO's steps against others at equal cost, on tasks of images."""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from bilevel.datasets import ImageClasses
from bilevel.fewshot import METHODS, Episodes, Learner, Shape, fixed_episodes
from bilevel.models import Network, from_module
from bilevel.report.tables import Cell, Column, Table
from bilevel.sampling import Full
from bilevel.types import Batch
from bilevel_claims.experiment import Experiment, Trajectory, each_seed, even_points
from bilevel_claims.figures import Line, line_figure
from bilevel_claims.problems.image_tasks import START, over, percent, wrong
from bilevel_claims.search import chosen
from bilevel_claims.types import Finding, Picture, Search, at_most, shown

FO, DEBIASED, DEBIASED_KEPT, EXACT, KEPT = LABELS = (
    "first order",
    "debiased, recomputed",
    "debiased, iterates kept",
    "exact, recomputed",
    "exact, iterates kept",
)
PROBABILITY, TASKS, QUERIES, POINTS, ERROR, DRAWS = 0.2, 5, 1, 3, "error", "exact draws"
TRIAL_SEED = 100
# A better method errs at least a twentieth less, and a tenth less than before training.
GAIN, LEARNS = 0.95, 0.9


class Benchmark(NamedTuple):
    """One data set and network, and what all methods share on it.

    Attributes:
      data: classes of images.
      module: of flax, `(images, first) -> (n, width)`.
      ways: classes of a task, one comparison for each.
      inner_steps: of plain descent on one image a class.
      axes: `inner_optimizer` and `outer_optimizer`, the steps to try; the outer one falls to zero in a
        line along the budget.
      budget: gradients and Hessian products for each of the tasks of a step.
      seeds: number of runs that are shown.
      asked: tasks that measure the error.
    """

    data: ImageClasses
    module: nn.Module
    ways: Sequence[int]
    inner_steps: int
    axes: Mapping[str, Sequence[float]]
    budget: int
    seeds: int
    asked: int


class Outcome(NamedTuple):
    """What one number of ways showed.

    Attributes:
      ways: classes of a task.
      searches, curves: by method, in the order of `LABELS`.
    """

    ways: int
    searches: list[Search]
    curves: list[Trajectory]


def halved(images: Any) -> Any:
    """The mean of each 2x2 block of pixels."""
    return nn.avg_pool(images, (2, 2), (2, 2))


def price(label: str, inner_steps: int) -> float:
    """Mean gradients and Hessian products a task of a step.

    >>> [price(label, 9) for label in LABELS]
    [10.0, 19.0, 11.8, 55.0, 19.0]
    """
    share = {FO: 0.0, EXACT: 1.0, KEPT: 1.0}.get(label, PROBABILITY)
    return 1 + inner_steps + share * _dearer(label, inner_steps)


def _dearer(label, inner_steps):
    """What an exact gradient costs beside the first-order one."""
    kept = label in (KEPT, DEBIASED_KEPT)
    return inner_steps if kept else inner_steps * (inner_steps + 1) / 2


def run(benchmark: Benchmark) -> Finding:
    """Every method with its own outer step, chosen on validation classes, at every number of ways."""
    data = benchmark.data
    for ways in benchmark.ways:
        for part, images in (("training", data.train), ("validation", data.validation), ("test", data.test)):
            Shape(ways, 1, QUERIES).validate(images, part)
    net = from_module("small", benchmark.module, data.train.shape[2:])
    return report(benchmark, [outcome(benchmark, net, ways) for ways in benchmark.ways])


def outcome(benchmark: Benchmark, net: Network, ways: int) -> Outcome:
    """All methods at one number of ways."""
    data, shape = benchmark.data, Shape(ways, 1, QUERIES)
    scale = np.asarray(data.mean, np.float32), np.asarray(data.std, np.float32)
    batches = Batch(Episodes(jnp.asarray(data.train), *scale, None, shape, TASKS), Full(None))
    valid, test = (
        fixed_episodes(part, *scale, shape, benchmark.asked) for part in (data.validation, data.test)
    )
    searches, curves = [], []
    for label in LABELS:
        points = even_points(int(benchmark.budget / price(label, benchmark.inner_steps)), POINTS)
        steps = int(points[-1])

        # One program for the trials and for what is shown.
        @jax.jit
        def errors(inner_step, outer_step, seed, batches, held, label=label, points=points, steps=steps):
            falling = optax.linear_schedule(outer_step, 0.0, steps)
            learner = method(net, ways, label, inner_step, benchmark.inner_steps, falling)

            def start(key):
                return learner.start(jax.random.fold_in(key, START))

            experiment = Experiment(
                data=batches,
                start=start,
                measure=measure_of(learner, ways),
                held=held,
                seeds=seed[None],
                # No `vmap` over the one seed: convolutions would loop over its kernels.
                seeds_in_sequence=True,
            )
            return each_seed(learner.algorithm, experiment, points)(batches, held)

        def tried(pair, errors=errors):
            return float(errors(*pair, jnp.asarray(TRIAL_SEED), batches, valid)[ERROR][0, -1])

        scores = np.array([tried(pair) for pair in itertools.product(*benchmark.axes.values())])
        scores = scores.reshape([len(values) for values in benchmark.axes.values()])
        words = "error on tasks of validation classes"
        budget = f"{benchmark.budget:,} gradients and products a task"
        searches.append(chosen(f"{label}, {ways}-way", benchmark.axes, scores, score=words, budget=budget))
        best = searches[-1].best.values()
        begin = time.perf_counter()
        runs = [errors(*best, jnp.asarray(seed), batches, test) for seed in range(benchmark.seeds)]
        values = jax.tree.map(lambda *seeds: np.concatenate(seeds), *jax.device_get(runs))
        cost = method(net, ways, label, 0.1, benchmark.inner_steps, 0.1).algorithm.cost
        curves.append(
            Trajectory(
                label=label, steps=points, values=values, cost=cost, seconds=time.perf_counter() - begin
            )
        )
    return Outcome(ways, searches, curves)


def method(
    net: Network, ways: int, label: str, inner_step: Any, inner_steps: int, outer_step: Any
) -> Learner:
    """A learner of a start for the whole network, by plain descent at both levels."""
    name = {FO: "fomaml", KEPT: "maml"}.get(label, "ufo_blo")
    own = {}
    if name == "ufo_blo":
        own["probability"] = PROBABILITY if label in (DEBIASED, DEBIASED_KEPT) else 1.0
        own["recompute"] = int(label in (DEBIASED, EXACT))
    steps = {"inner_step": inner_step, "inner_steps": inner_steps, "test_steps": inner_steps}
    return METHODS[name](net, ways, optax.sgd(outer_step), **steps, **own)


def measure_of(learner: Learner, ways: int) -> Any:
    """For `Experiment`: the error on the held tasks, and how many exact gradients were drawn so far."""

    def measure(state, held):
        def error(episode):
            return wrong(learner.answer(state.x, episode, ways), episode.query.labels)

        # All tasks at once take 13 GiB at the sizes of the paper, and convolutions are no faster.
        errors = lax.map(error, held)
        draws = state.seen.exact_draws if hasattr(state, "seen") else jnp.zeros(())
        return {ERROR: errors.mean(), DRAWS: draws}

    return measure


def spent(run: Trajectory, inner_steps: int) -> float:
    """Gradients and Hessian products a task of a run, the mean of the seeds, by the coins that fell."""
    steps = int(run.steps[-1])
    if run.label not in (DEBIASED, DEBIASED_KEPT):
        return steps * price(run.label, inner_steps)
    exact = float(run.values[DRAWS][:, -1].mean()) / TASKS
    return steps * (1 + inner_steps) + exact * _dearer(run.label, inner_steps)


def gain(error: float, other: float, start: float, images: int) -> dict[str, Any]:
    """A number that holds where an error is clearly below another, and clearly below that of a start."""
    number = at_most(over(error, other, images), GAIN)
    rule = f"{number['rule']}, where the error is at most {LEARNS} of that before training"
    return number | {"rule": rule, "holds": number["holds"] and error <= LEARNS * start}


def report(benchmark: Benchmark, outcomes: Sequence[Outcome]) -> Finding:
    """Numbers, words and figures."""
    last = {o.ways: {run.label: run.last(ERROR) for run in o.curves} for o in outcomes}
    numbers: dict[str, Any] = {}
    ahead: dict[str, list[str]] = {}
    for o in outcomes:
        images, errors = benchmark.asked * o.ways * QUERIES, last[o.ways]
        # All start alike; to come from below chance to chance is not to learn.
        start = min(1 - 1 / o.ways, float(o.curves[0].median(ERROR)[0]))
        for other, label in ((FO, DEBIASED), (EXACT, DEBIASED), (KEPT, DEBIASED_KEPT)):
            number = gain(errors[label], errors[other], start, images)
            ahead.setdefault(other, []).extend([str(o.ways)] if number["holds"] else [])
            decides = number if label == DEBIASED else shown(number["value"])
            numbers[f"{o.ways}-way: last error of '{label}' over '{other}'"] = decides
        numbers[f"{o.ways}-way: last error of '{DEBIASED}' over that before training"] = shown(
            over(errors[DEBIASED], start, images)
        )
    figures = [_figure(benchmark, o) for o in outcomes]
    searches = [search for o in outcomes for search in o.searches]
    tables = [("New classes", _table(benchmark, outcomes))]
    words = _words(benchmark, outcomes, last, ahead)
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


def _words(benchmark, outcomes, last, ahead):
    def where(other):
        return f"at {' and '.join(ahead[other])} ways" if ahead[other] else "nowhere"

    told = "; ".join(
        f"{ways}-way " + ", ".join(f"{percent(errors[label])} ({label})" for label in LABELS)
        for ways, errors in last.items()
    )
    ends = [run.values[ERROR][:, -1] for o in outcomes for run in o.curves]
    spread = max((np.ptp(end[np.isfinite(end)]) for end in ends if np.isfinite(end).any()), default=0.0)
    costs = {label: f"{price(label, benchmark.inner_steps):g}" for label in LABELS}
    less = f"err at least {100 * (1 - GAIN):.0f} % less than"
    return (
        f"At equal cost debiased steps that recompute paths {less} first-order ones {where(FO)}, and than "
        f"exact ones that recompute {where(EXACT)}. Accuracy on new classes: {told}. With iterates kept a "
        f"debiased step costs {costs[DEBIASED_KEPT]} and not {costs[DEBIASED]}, an exact one {costs[KEPT]} "
        f"and not {costs[EXACT]}; debiased steps then {less} exact ones {where(KEPT)}. Seeds of one method "
        f"lie up to {100 * spread:.1f} points apart."
    )


def _figure(benchmark, outcome):
    drawn = []
    for run in outcome.curves:
        calls = run.steps * price(run.label, benchmark.inner_steps)
        drawn.append(Line(run.label, calls, 1 - run.values[ERROR], colour=LABELS.index(run.label)))
    heading = f"New classes, {outcome.ways}-way 1-shot, equal cost"
    axes = "gradients and Hessian products a task", "accuracy"
    return Picture(
        f"Accuracy at {outcome.ways} ways",
        line_figure(heading, *axes, drawn, log="", height=4.2),
        "Median of the seeds and their range, each method with its best outer step. The cost of debiased "
        "steps is that in the mean of their coins.",
    )


def _table(benchmark, outcomes):
    columns = [Column("ways"), Column("method", numeric=False), Column("cost of a step, a task")]
    columns += [Column("steps"), Column("spent a task, mean of the seeds"), Column("inner step")]
    columns += [Column("outer step"), Column("accuracy"), Column("seconds a run, with measuring")]
    rows = []
    for o in outcomes:
        for search, run in zip(o.searches, o.curves, strict=True):
            error, steps = run.last(ERROR), benchmark.inner_steps
            known = Cell.of(1 - error) if math.isfinite(error) else Cell("diverged", mark="alarm")
            cost = price(run.label, steps), int(run.steps[-1]), spent(run, steps)
            seconds = Cell.of(run.seconds / benchmark.seeds)
            cells = *map(Cell.of, (*cost, *search.best.values())), known, seconds
            rows.append([Cell.of(o.ways), Cell(run.label), *cells])
    return Table(columns, rows)
