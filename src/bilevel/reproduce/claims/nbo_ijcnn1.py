"""Newton steps on minibatches of ijcnn1, against single loops and AmIGO, at equal oracle calls."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from bilevel.algorithms import amigo, fsla, ma_soba, nsbo, saba, soba
from bilevel.combinators import power
from bilevel.datasets import load
from bilevel.estimators import count_blocks
from bilevel.report.reproduce_figures import Line, lines
from bilevel.report.tables import Cell, Column, Table
from bilevel.reproduce.curves import Setting, cost_table, seconds_per_step, value_table
from bilevel.reproduce.problems import ridge
from bilevel.reproduce.schedules import falling
from bilevel.reproduce.search import late, tune
from bilevel.reproduce.types import Claim, Finding, Picture, at_most, shown, verdict

ABOVE = "Phi above its minimum"
NSBO, SOBA, SOBA_FALLING, FSLA, FSLA_FALLING = "NSBO T=1", "SOBA", "SOBA, falling", "FSLA", "FSLA, falling"
SHORT, LONG, SABA, AVERAGE = "AmIGO Q=1", "AmIGO Q=10", "SABA", "MA-SOBA"
AXES = {"inner": (1 / 8, 1 / 2, 2.0, 8.0), "ratio": (0.03, 0.1, 0.3, 1.0)}


def run(size: str) -> Finding:
    """Every method tuned alike, then five runs of each with as many oracle calls."""
    rows, calls = (10_000, 54_000) if size == "small" else (None, 540_000)
    task = real_rows(rows)
    floor, data = task.lowest(np.full(22, -2.0)), task.data(64)
    dtype = task.train[0].dtype

    def start(key):
        return jnp.full(22, -2, dtype), jnp.zeros(22, dtype)

    def measure(state, held):
        return {ABOVE: task.exact(state.x, held[0], 8).loss - held[1]}

    held = (task.train, task.valid), jnp.asarray(floor, dtype)
    setting = Setting(data, start, measure, held, seeds=range(5))
    constant = {
        NSBO: partial(nsbo, extra_steps=1),
        "NSBO T=3": partial(nsbo, extra_steps=3),
        SHORT: partial(amigo, inner_steps=1),
        LONG: partial(amigo, inner_steps=10),
        SOBA: soba,
        SABA: partial(saba, blocks=count_blocks(data)),
        AVERAGE: partial(ma_soba, weight=0.1),
        FSLA: partial(fsla, weight=0.1),
    }
    falls = {SOBA_FALLING: soba, FSLA_FALLING: partial(fsla, weight=power(0.5, scale=0.1))}
    builds = {
        label: lambda inner, ratio, make=make: make(
            task.problem, inner_optimizer=inner, outer_optimizer=inner / ratio
        )
        for label, make in constant.items()
    } | {
        label: lambda inner, ratio, make=make: falling(
            partial(make, task.problem), inner_optimizer=inner, outer_optimizer=inner / ratio
        )
        for label, make in falls.items()
    }
    searches, runs = tune(
        builds, AXES, setting, score=late(ABOVE), calls=calls, seeds=(100, 101), points=10, shown=40
    )
    seconds = {
        search.method: seconds_per_step(builds[search.method](**search.best), setting, calls // 40)
        for search in searches
    }
    return report(runs, seconds, floor, searches)


def real_rows(rows):
    """The problem on random training rows and random test rows of ijcnn1, all when None."""
    source, random = load("ijcnn1"), np.random.default_rng(7)

    def part(features, labels):
        chosen = random.permutation(len(labels))[:rows]
        return features[chosen], np.where(labels[chosen] == 1, 1, -1).astype(features.dtype)

    train = part(source.features, source.labels)
    return ridge(train, part(source.test_features, source.test_labels))


def report(runs, seconds, floor, searches) -> Finding:
    """Numbers, words and figures of the tuned runs."""
    by = {run.label: run for run in runs}
    ends = {label: run.late(ABOVE) for label, run in by.items()}
    soba_end, fsla_end = min(ends[SOBA], ends[SOBA_FALLING]), min(ends[FSLA], ends[FSLA_FALLING])
    # Where each method is after the time that the runs of NSBO take.
    time = seconds[NSBO] * by[NSBO].steps[-1]
    numbers = {
        f"late {ABOVE}, NSBO T=1 over {label}": at_most(ends[NSBO] / end, 1)
        for label, end in {
            "SOBA, its better schedule": soba_end,
            "FSLA, its better schedule": fsla_end,
            **{label: ends[label] for label in (SABA, AVERAGE, SHORT, LONG)},
        }.items()
    } | {f"the same, over {label} as published code runs it": shown(ends[NSBO] / ends[label]) for label in (
        SOBA_FALLING, FSLA_FALLING)}  # fmt: skip
    order = sorted(ends, key=lambda label: ends[label])
    words = f"{ends} {seconds} {floor} {order} {time}"
    return Finding(verdict(numbers), words, numbers, figures_of(runs, seconds), [("x", value_table(runs, ABOVE, [5000, 10000, 20000, 54000], lambda r: r.calls)), ("s", value_table(runs, ABOVE, [1000,3000,6000, 13500], lambda r: r.steps)), ("c", cost_table(runs))], searches)


def figures_of(runs, seconds):
    return []


CLAIM = Claim("nbo-ijcnn1", "t", "p", "s", {}, {}, run, float64=False)
