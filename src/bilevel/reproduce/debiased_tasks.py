"""What the entries on UFO-BLO with images share: first-order, debiased and exact steps at equal cost."""

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.datasets import ImageClasses
from bilevel.fewshot import METHODS, Episodes, Learner, Settings, Shape, fixed_episodes
from bilevel.models import Network, from_module
from bilevel.report.reproduce_figures import Line, lines
from bilevel.report.tables import Cell, Column, Table
from bilevel.reproduce.curves import Curve, Setting, each_seed, even_points
from bilevel.reproduce.search import chosen
from bilevel.reproduce.types import Finding, Picture, Search, at_most, shown, verdict
from bilevel.sampling import Full
from bilevel.types import Batch

FO, DEBIASED, EXACT, KEPT = LABELS = (
    "first order",
    "debiased, q = 0.2",
    "exact, recomputed",
    "exact, iterates kept",
)
PROBABILITY, TASKS, QUERIES, POINTS, ERROR = 0.2, 5, 1, 5, "error"
TRIAL_SEED = 100


class Experiment(NamedTuple):
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
    curves: list[Curve]


def halved(images: Any) -> Any:
    """The mean of each 2x2 block of pixels."""
    return nn.avg_pool(images, (2, 2), (2, 2))


def price(label: str, inner_steps: int) -> float:
    """Mean gradients and Hessian products a task of a step.

    >>> [price(label, 9) for label in LABELS]
    [10.0, 19.0, 55.0, 19.0]
    """
    recomputed = inner_steps * (inner_steps + 1) / 2
    dearer = {FO: 0.0, DEBIASED: PROBABILITY * recomputed, EXACT: recomputed, KEPT: float(inner_steps)}
    return 1 + inner_steps + dearer[label]


def run(experiment: Experiment) -> Finding:
    """Every method with its own outer step, chosen on validation classes, at every number of ways."""
    net = from_module("small", experiment.module, experiment.data.train.shape[2:])
    return report(experiment, [outcome(experiment, net, ways) for ways in experiment.ways])


def outcome(experiment: Experiment, net: Network, ways: int) -> Outcome:
    """All methods at one number of ways."""
    data, shape = experiment.data, Shape(ways, 1, QUERIES)
    scale = np.asarray(data.mean, np.float32), np.asarray(data.std, np.float32)
    batches = Batch(Episodes(jnp.asarray(data.train), *scale, None, shape, TASKS), Full(None))
    valid, test = (
        fixed_episodes(part, *scale, shape, experiment.asked) for part in (data.validation, data.test)
    )
    searches, curves = [], []
    for label in LABELS:
        points = even_points(round(experiment.budget / price(label, experiment.inner_steps)), POINTS)
        steps = int(points[-1])

        # One program for the trials and for what is shown.
        @jax.jit
        def errors(inner_step, outer_step, seed, batches, held, label=label, points=points, steps=steps):
            falling = optax.linear_schedule(outer_step, 0.0, steps)
            learner = method(net, ways, label, inner_step, experiment.inner_steps, falling)
            setting = Setting(batches, learner.start, error_of(learner, ways), held, seed[None])
            # No `vmap` over the one seed: convolutions would loop over its kernels.
            algorithm = learner.algorithm._replace(branches=True)
            return each_seed(algorithm, setting, points)(batches, held)[ERROR]

        def tried(pair, errors=errors):
            return float(errors(*pair, jnp.asarray(TRIAL_SEED), batches, valid)[0, -1])

        scores = np.array([tried(pair) for pair in itertools.product(*experiment.axes.values())])
        scores = scores.reshape([len(values) for values in experiment.axes.values()])
        words = "error on tasks of validation classes"
        budget = f"{experiment.budget:,} gradients and products a task"
        searches.append(
            chosen(Search(f"{label}, {ways}-way", experiment.axes, None, {}, (), words, budget), scores)
        )
        best = searches[-1].best.values()
        begin = time.perf_counter()
        runs = [errors(*best, jnp.asarray(seed), batches, test) for seed in range(experiment.seeds)]
        values = {ERROR: np.concatenate(jax.device_get(runs))}
        cost = method(net, ways, label, 0.1, experiment.inner_steps, 0.1).algorithm.cost
        curves.append(Curve(label, points, values, cost, time.perf_counter() - begin))
    return Outcome(ways, searches, curves)


def method(
    net: Network, ways: int, label: str, inner_step: Any, inner_steps: int, outer_step: Any
) -> Learner:
    """A learner of a start for the whole network, by plain descent at both levels."""
    name = {FO: "fomaml", KEPT: "maml"}.get(label, "ufo_blo")
    settings = Settings(
        inner_step,
        inner_steps,
        inner_steps,
        probability=PROBABILITY if label == DEBIASED else 1.0,
        recompute=int(name == "ufo_blo"),
    )
    return METHODS[name](net, ways, optax.sgd(outer_step), settings)


def error_of(learner: Learner, ways: int) -> Any:
    """A measure for `Setting`: the share of query images taken for another class."""

    def error(x, episode):
        return jnp.mean(jnp.argmax(learner.answer(x, episode, ways), -1) != episode.query.labels)

    def measure(state, held):
        return {ERROR: jax.vmap(error, in_axes=(None, 0))(state.x, held).mean()}

    return measure


def report(experiment: Experiment, outcomes: Sequence[Outcome]) -> Finding:
    """Numbers, words and figures."""
    last = {o.ways: {run.label: run.last(ERROR) for run in o.curves} for o in outcomes}
    numbers: dict[str, Any] = {}
    for ways, errors in last.items():
        numbers[f"{ways}-way: last error, debiased over first order"] = at_most(
            errors[DEBIASED] / errors[FO], 1
        )
        numbers[f"{ways}-way: the same over exact, recomputed"] = at_most(errors[DEBIASED] / errors[EXACT], 1)
        numbers[f"{ways}-way: the same over exact, iterates kept"] = shown(errors[DEBIASED] / errors[KEPT])
    beats = {
        other: [str(ways) for ways, errors in last.items() if errors[DEBIASED] <= errors[other]]
        for other in (FO, EXACT, KEPT)
    }

    spread = max(np.ptp(run.values[ERROR][:, -1]) for o in outcomes for run in o.curves)

    def where(other):
        return f"at {' and '.join(beats[other])} ways" if beats[other] else "nowhere"

    told = "; ".join(
        f"{ways}-way " + ", ".join(f"{100 * (1 - errors[label]):.1f} % ({label})" for label in LABELS)
        for ways, errors in last.items()
    )
    words = (
        f"At equal cost debiased steps end at least as accurate as first-order ones {where(FO)}, and as "
        f"exact ones that recompute their paths {where(EXACT)}. Accuracy on new classes: {told}. Against "
        f"exact steps that keep their iterates, whose gradient costs "
        f"{price(KEPT, experiment.inner_steps):g} and not {price(EXACT, experiment.inner_steps):g}, they are "
        f"as accurate {where(KEPT)}. Seeds of one method lie up to {100 * spread:.1f} points apart."
    )
    figures = [
        Picture(
            f"Accuracy at {o.ways} ways",
            lines(
                f"New classes, {o.ways}-way 1-shot, equal cost",
                "gradients and Hessian products a task",
                "accuracy",
                [
                    Line(
                        run.label,
                        run.steps * price(run.label, experiment.inner_steps),
                        1 - run.values[ERROR],
                        colour=LABELS.index(run.label),
                    )
                    for run in o.curves
                ],
                log="",
                height=4.2,
            ),
            "Median of the seeds and their range, each method with its best outer step.",
        )
        for o in outcomes
    ]
    columns = [Column("ways"), Column("method", numeric=False), Column("cost of a step, a task")]
    columns += [Column("steps"), Column("inner step"), Column("outer step"), Column("accuracy")]
    columns += [Column("seconds a run")]
    rows = [
        [
            Cell.of(o.ways),
            Cell(run.label),
            *map(Cell.of, (price(run.label, experiment.inner_steps), int(run.steps[-1]))),
            *map(Cell.of, search.best.values()),
            *map(Cell.of, (1 - run.last(ERROR), run.seconds / experiment.seeds)),
        ]
        for o in outcomes
        for search, run in zip(o.searches, o.curves, strict=True)
    ]
    searches = [search for o in outcomes for search in o.searches]
    return Finding(
        verdict(numbers), words, numbers, figures, [("New classes", Table(columns, rows))], searches
    )
