"""Entry ufo-counterexample: two tasks on which first-order steps settle off the minimum."""

from functools import partial
from typing import Any

import numpy as np

from bilevel_claims import references
from bilevel_claims.experiment import STEPS, even_points, trajectory
from bilevel_claims.figures import Line, picture, picture_of
from bilevel_claims.search import grid
from bilevel_claims.tables import cost_table, table
from bilevel_claims.types import Claim, Finding, at_least, at_most, cited, shown
from bilevel_claims.ufo_blo.bent import SLOPE, counterexample

LEVEL, OTHER_LEVELS = 0.06, (0.01, 1.0)
METHODS = {"FO-BLO": 0.0, "UFO-BLO, q = 0.1": 0.1, "exact, q = 1": 1.0}
CONSTANTS = (1.0, 3.0, 10.0, 30.0, 100.0)


def run(size: str) -> Finding:
    """Run two tasks with steps 10/k and many starts, then with other c/k and at other levels."""
    steps = 10_000 if size == "small" else 100_000
    toy = counterexample(LEVEL)
    experiment = toy.experiment(-10.0, 30.0, 2 * steps, range(200))
    trials = experiment._replace(seeds=range(1000, 1020))
    runs, searches = [], []
    for label, q in METHODS.items():
        build = partial(toy.algorithm, q)
        runs.append(trajectory(label, build(10.0), experiment, even_points(steps, 50)))
        searches.append(grid(label, build, {"c": CONSTANTS}, trials, score=SLOPE, steps=steps))
    levels = [(LEVEL, *(run.values[SLOPE][:, -1].mean() for run in runs[:2]))]
    for level in OTHER_LEVELS:
        other = counterexample(level)
        few = other.experiment(-10.0, 30.0, 2 * steps, range(20))
        last = [trajectory("", other.algorithm(q, 10.0), few, [steps]) for q in (0.0, 0.1)]
        levels.append((level, *(run.values[SLOPE].mean() for run in last)))
    return report(toy, runs, searches, sorted(levels))


def report(toy, runs, searches, levels) -> Finding:
    """Return the finding; `levels` holds D and the mean last |M'| of FO-BLO and UFO-BLO."""
    first, debiased, exact = (run.values[SLOPE][:, -1] for run in runs)
    first_x, debiased_x, exact_x = (run.values["x"][:, -1] for run in runs)
    settled, best = toy.limits()
    least = min(searches[0].scores[1:4])
    numbers = {
        "FO-BLO: mean |M'|, lower limit": at_least(first.mean(), 0.34),
        "FO-BLO: mean |M'|, upper limit": at_most(first.mean(), 0.355),
        "FO-BLO: least M'^2 of the runs, over D": at_least(first.min() ** 2 / LEVEL, 1),
        "UFO-BLO: mean |M'|": at_most(debiased.mean(), 0.05),
        "UFO-BLO: distance of mean x from the minimum": at_most(abs(debiased_x.mean() - best), 0.12),
        "FO-BLO: least mean |M'| over steps 3/k, 10/k, 30/k": shown(least),
        "exact: mean |M'|": shown(exact.mean()),
    }
    words = (
        f"After {runs[0].steps[-1]:,} steps of size 10/k the mean slope |M'| over {first.size} runs is "
        f"{first.mean():.3f} with FO-BLO and {debiased.mean():.3f} with UFO-BLO, q = 0.1. FO-BLO ends at x = "
        f"{first_x.mean():.2f}, where its mean direction is zero ({settled:.2f}); UFO-BLO ends at "
        f"{debiased_x.mean():.2f}, with the minimum at {best:.2f}. The coin spreads the ends of UFO-BLO by "
        f"{debiased_x.std():.2f}, exact gradients by {exact_x.std():.2f}."
    )
    slope = f"Slope of the ten-step objective with steps 10/k; median and middle half of {first.size} runs."
    other = "Means of 20 runs. Small steps have not arrived in the end, large ones stay in the flat zone."
    guide = Line("sqrt(D)", runs[0].steps[[0, -1]], [LEVEL**0.5] * 2, guide=True)
    looks: Any = {"value": _quartiles, "more": [guide], "log": "", "limits": (0.0, 1.0)}
    last = [Line(search.method, CONSTANTS, search.scores, marked=True) for search in searches]
    figures = [
        picture_of("Slope along the steps", runs, SLOPE, STEPS, slope, **looks),
        picture("Other step sizes", "c of the steps c/k", f"mean {SLOPE}", last, other, log="xy"),
    ]
    titles = ["D", "sqrt(2 D)", "|M'| of FO-BLO", "|M'| of UFO-BLO, q = 0.1"]
    rows = [[level, (2 * level) ** 0.5, *slopes] for level, *slopes in levels]
    tables = [("Problems for other levels D", table(titles, rows)), ("What it cost", cost_table(runs))]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


def _quartiles(values):
    # An interpolation between two infinite values would not be a number.
    return np.quantile(values, [0.25, 0.5, 0.75], axis=0, method="nearest")


CLAIM = Claim(
    name="ufo-counterexample",
    title="First-order steps do not converge, debiased ones do",
    paper=references.UFO_BLO,
    statement="There is a rich family of problems on which SGD with first-order gradients does not converge "
    "to a stationary point; debiased by an exact gradient with probability q, it does (abstract). The toy "
    "problem comes from the authors' code. For any D there is a problem that ends with M'^2 above D (the "
    "theorem as we remember it).",
    known=cited(
        "official code",
        {
            "problem": "two tasks of curvatures 0.5 and 1.5, quadratic near their centres, D = 0.06",
            "inner steps": "10 of 0.1",
            "outer steps": "10,000 of 10/k, one task a step",
            "q": "0 and 0.1",
            "start": "uniform from -10 to 30",
            "runs": "5, or 10 in 2020",
        },
    ),
    ours={
        "problem": "the same, and D = 0.01 and 1",
        "inner steps": "the same",
        "outer steps": "the same (size paper: 100,000), and c/k for c from 1 to 100; tasks from a shuffled "
        "list of equally many of both, twice as long as a run",
        "q": "the same, and 1",
        "start": "the same",
        "runs": "200, and 20 for other c and D",
    },
    run=run,
)
