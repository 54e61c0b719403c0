"""Entry nbo-ijcnn1: NSBO-SGD, single loops and AmIGO on ijcnn1, at equal oracle calls."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from bilevel.algorithms import amigo, fsla, ma_soba, nsbo, saba, soba
from bilevel.combinators import power
from bilevel.datasets import load
from bilevel_claims import references
from bilevel_claims.experiment import CALLS, STEPS, Axis, Experiment, seconds_per_step
from bilevel_claims.figures import picture_of
from bilevel_claims.problems.ridge import ridge
from bilevel_claims.schedules import by_ratio, falling
from bilevel_claims.search import late, tune
from bilevel_claims.tables import cost_table, table, value_table
from bilevel_claims.types import Claim, Finding, at_most, cited, shown

PHI = "Phi"
NSBO, THREE, SOBA, FSLA, SABA = "NSBO T=1", "NSBO T=3", "SOBA", "FSLA", "SABA"
SHORT, LONG, AVERAGE = "AmIGO Q=1", "AmIGO Q=10", "MA-SOBA"
SOBA_FALLING, FSLA_FALLING = FALLING = "SOBA, falling", "FSLA, falling"
METHODS = {
    NSBO: partial(nsbo, extra_steps=1),
    THREE: partial(nsbo, extra_steps=3),
    SHORT: partial(amigo, inner_steps=1),
    LONG: partial(amigo, inner_steps=10),
    SOBA: soba,
    SABA: saba,
    AVERAGE: partial(ma_soba, weight=0.1),
    FSLA: partial(fsla, weight=0.1),
    SOBA_FALLING: soba,
    FSLA_FALLING: partial(fsla, weight=power(0.5, scale=0.1)),
}
# One colour a family.
COLOURS = {NSBO: 0, THREE: 0, SHORT: 1, LONG: 1, SABA: 2, FSLA: 3, FSLA_FALLING: 3, SOBA: 4, SOBA_FALLING: 4}
COLOURS |= {AVERAGE: 6}
DASHED = (THREE, LONG, *FALLING)
STYLES = {label: {"colour": COLOURS[label], "dash": int(label in DASHED)} for label in METHODS}
AXES = {"inner": (1.0, 2.0, 4.0, 8.0, 16.0), "ratio": (0.03, 0.1, 0.3, 1.0, 3.0)}


def run(size: str) -> Finding:
    """Tune every method alike, then run each with five seeds and as many oracle calls."""
    rows, calls = (10_000, 54_000) if size == "small" else (None, 540_000)
    task = _real_rows(rows)
    dtype = task.train[0].dtype

    def start(key):
        return jnp.full(22, -2, dtype), jnp.zeros(22, dtype)

    def measure(state, held):
        return {PHI: task.exact(state.x, held, 6).loss}

    held = task.train, task.valid
    experiment = Experiment(task.data(64), start, measure, held=held, seeds=range(5))
    fixed = {label: partial(make, task.problem) for label, make in METHODS.items()}
    builds = {
        label: by_ratio(partial(falling, make) if label in FALLING else make) for label, make in fixed.items()
    }
    searches, runs = tune(
        builds, AXES, experiment, score=late(PHI), calls=calls, seeds=range(100, 106), points=4, shown=40
    )
    seconds = {
        search.method: seconds_per_step(builds[search.method](**search.best), experiment, calls // 40)
        for search in searches
    }
    return report(runs, seconds, searches)


def _real_rows(rows):
    """Return the problem on random training and test rows of ijcnn1; None means all."""
    source, random = load("ijcnn1"), np.random.default_rng(7)

    def part(features, labels):
        chosen = random.permutation(len(labels))[:rows]
        return features[chosen], np.where(labels[chosen] == 1, 1, -1).astype(features.dtype)

    train = part(source.features, source.labels)
    return ridge(train, part(source.test_features, source.test_labels))


def _at(run, along, place):
    """Return the median Phi where the axis `along` reaches a place, or the last before."""
    return float(run.median(PHI)[np.searchsorted(along, place, side="right") - 1])


def report(runs, seconds, searches) -> Finding:
    """Return the finding from the tuned runs."""
    by = {run.label: run for run in runs}
    means = {label: run.late(PHI) for label, run in by.items()}
    rivals = {
        "SOBA (better schedule)": min(means[SOBA], means[SOBA_FALLING]),
        "FSLA (better schedule)": min(means[FSLA], means[FSLA_FALLING]),
        **{label: means[label] for label in (SABA, AVERAGE, SHORT, LONG)},
    }
    time = Axis("seconds", lambda run: seconds[run.label] * run.steps)
    at_steps = {run.label: _at(run, run.steps, 6000) for run in runs}
    at_time = {run.label: _at(run, time.of(run), time.of(by[NSBO])[-1]) for run in runs}
    soonest = min(value for label, value in at_time.items() if not label.startswith("NSBO"))
    ahead = [label for label, value in rivals.items() if value < means[NSBO]]
    amigos = sum("AmIGO" in label for label in ahead)
    differences = {label: means[NSBO] - value for label, value in rivals.items()}
    differences |= {f"{label}, as in published code": means[NSBO] - means[label] for label in FALLING}
    numbers = {
        "late Phi: number of SOBA, SABA, MA-SOBA, FSLA below NSBO T=1": at_most(len(ahead) - amigos, 0),
        "late Phi: number of AmIGO Q=1, Q=10 below NSBO T=1": at_most(amigos, 0),
        **{f"late Phi: NSBO T=1 less {k}": shown(v) for k, v in differences.items() if np.isfinite(v)},
        "Phi in the seconds of NSBO T=1: NSBO T=1 less the least other": shown(at_time[NSBO] - soonest),
    }
    ranked = ", ".join(
        f"{label} {value:.4f}" for value, label in sorted(zip(means.values(), means, strict=True))
    )
    words = (
        f"With {by[NSBO].calls[-1]:,} oracle calls each, the mean Phi of the second half is "
        f"{means[NSBO]:.4f} for NSBO T=1, and lower for {', '.join(ahead) or 'no other'}. In order: "
        f"{ranked}. In the time that NSBO T=1 takes, SOBA comes to {at_time[SOBA]:.4f}, SABA to "
        f"{at_time[SABA]:.4f} and AmIGO Q=1 to {at_time[SHORT]:.4f}."
    )
    spread = "Median and range of five runs, without those that diverged."
    counted = f"Gradients, Hessian and cross products together, each on 64 rows. {spread}"
    costs = "The same runs; a step of NSBO T=1 costs 9 calls, of SOBA, SABA and AmIGO Q=1 4."
    alone = "The same runs; seconds of one run alone, compiled, measuring left out."
    falls = f"Falling: all steps as 1/sqrt(k), the weight of FSLA's momentum too. {spread}"
    constant = [run for run in runs if run.label not in FALLING]
    early = [
        run._replace(values={PHI: run.values[PHI][:, run.steps <= 6000]}, steps=run.steps[run.steps <= 6000])
        for run in constant
    ]
    pairs = [by[label] for label in (NSBO, SOBA, SOBA_FALLING, FSLA, FSLA_FALLING)]
    figures = [
        picture_of(title, some, PHI, along, caption, styles=STYLES, limits=(0.2, 0.32), log="")
        for title, some, along, caption in (
            ("By oracle calls", constant, CALLS, counted),
            ("By outer steps", early, STEPS, costs),
            ("By seconds", constant, time, alone),
            ("Constant and falling steps", pairs, CALLS, falls),
        )
    ]
    titles = ["method", "late, equal calls", "at 6,000 steps or the last before", "microseconds a step"]
    titles += ["at the seconds of NSBO T=1", "runs that diverged"]
    lost = {run.label: int((~np.isfinite(run.values[PHI]).all(1)).sum()) for run in runs}
    rows = [[k, means[k], at_steps[k], 1e6 * seconds[k], at_time[k], lost[k]] for k in by]
    last = int(max(run.calls[-1] for run in runs))
    places = [last // 20, last // 5, last // 2, last]
    tables = [
        (PHI, table(titles, rows)),
        (f"{PHI} by oracle calls", value_table(runs, PHI, places, CALLS)),
        ("What it cost", cost_table(runs)),
    ]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


CLAIM = Claim(
    name="nbo-ijcnn1",
    title="NSBO-SGD is faster than single loops and AmIGO on ijcnn1",
    paper=references.NBO,
    statement="On ijcnn1, one L2 strength a feature, NSBO-SGD is faster than SOBA, SABA, stocBiO, AmIGO, "
    "SHINE, F2SA and MA-SABA. (From published summaries; not the paper's word.)",
    known=cited(
        "code of the SOBA authors",
        {
            "rows": "49,990 training and 91,701 test rows, 22 features",
            "inner loss": "mean logistic + 1/2 sum of exp(x_j) y_j^2",
            "batch": "64",
            "start": "y normal, x the log of uniform numbers",
            "steps": "SOBA's and FSLA's fall as 1/sqrt(k + 1), the others' are constant",
        },
    )
    | {"methods": "seven others (summaries)"},
    ours={
        "rows": "10,000 of each, at random (size paper: all)",
        "inner loss": "the same",
        "batch": "the same",
        "start": "x = -2, y = 0: from the known start constant steps mostly diverge",
        "steps": "searched, the same grid for all; SOBA and FSLA with constant and with falling steps",
        "methods": "NSBO-SGD T=1 and 3; AmIGO Q=1 and 10, SOBA, SABA, MA-SOBA, FSLA (weights 0.1)",
        "faster": "lower Phi in the second half of the run at equal oracle calls, against each",
        "budget": "54,000 oracle calls, as 6,000 steps of NSBO T=1 (size paper: ten times that)",
        "seeds": "5; 6 others for the search",
    },
    run=run,
    float64=False,
)
