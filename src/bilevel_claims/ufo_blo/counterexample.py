"""First-order steps settle where the gradient is not zero; a coin with an exact gradient undoes that."""

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.report.tables import Cell, Column, Table
from bilevel_claims import references
from bilevel_claims.experiment import Experiment, even_points, trajectory
from bilevel_claims.figures import Line, line_figure
from bilevel_claims.search import grid
from bilevel_claims.tables import cost_table
from bilevel_claims.types import Claim, Finding, Picture, at_least, at_most, shown
from bilevel_claims.ufo_blo.bent import counterexample

LEVEL, SLOPE = 0.06, "|M'(x)|"
METHODS = {"FO-BLO": 0.0, "UFO-BLO, q = 0.1": 0.1, "exact, q = 1": 1.0}
CONSTANTS, OTHER_LEVELS = (1.0, 3.0, 10.0, 30.0, 100.0), (0.01, 1.0)
FIRST, DEBIASED, EXACT = METHODS


def run(size: str) -> Finding:
    """The toy of the authors' code: two tasks, steps c / k, many runs; then other c, and other levels."""
    steps, runs = (10_000, 200) if size == "small" else (100_000, 200)
    toy = counterexample(LEVEL)
    setting = setting_of(toy, steps, runs)
    points = even_points(steps, 50)
    curves = [
        trajectory(label, toy.algorithm(q, falling(10.0)), setting, points) for label, q in METHODS.items()
    ]
    fewer = setting._replace(seeds=range(1000, 1020))
    searches = [
        grid(
            label,
            lambda c, q=q: toy.algorithm(q, falling(c)),
            {"c": CONSTANTS},
            fewer,
            score=SLOPE,
            steps=steps,
        )
        for label, q in METHODS.items()
    ]
    levels = [(LEVEL, *(run.values[SLOPE][:, -1].mean() for run in curves[:2]))]
    for level in OTHER_LEVELS:
        other = counterexample(level)
        here = setting_of(other, steps, 20)
        ends = [trajectory("", other.algorithm(q, falling(10.0)), here, [steps]) for q in (0.0, 0.1)]
        levels.append((level, *(end.values[SLOPE].mean() for end in ends)))
    return report(toy, curves, searches, sorted(levels))


def falling(constant):
    """The steps c / k."""
    return lambda count: constant / (count + 1.0)


def setting_of(toy, steps, runs):
    """Starts from -10 to 30 and the true slope of the objective."""

    def start(key):
        return jax.random.uniform(key, minval=-10.0, maxval=30.0), jnp.zeros(())

    def measure(state, held):
        return {SLOPE: jnp.abs(toy.slopes(state.x)[1].mean()), "x": state.x}

    return Experiment(
        data=toy.data(2 * steps), start=start, measure=measure, seeds=range(runs), seeds_in_sequence=False
    )


def report(toy, curves, searches, levels) -> Finding:
    """Numbers, words and figures; `levels` are the ends of both methods by level."""
    ends = {run.label: run.values[SLOPE][:, -1] for run in curves}
    places = {run.label: run.values["x"][:, -1] for run in curves}
    stuck, best = toy.limits()
    at_stuck = float(jnp.abs(toy.slopes(jnp.asarray(stuck))[1].mean()))
    steady = min(searches[0].scores[1:4])
    numbers = {
        "FO-BLO: mean |M'|, not less": at_least(ends[FIRST].mean(), 0.34),
        "FO-BLO: mean |M'|, not more": at_most(ends[FIRST].mean(), 0.355),
        "FO-BLO: least M'^2 of the runs, over D": at_least(ends[FIRST].min() ** 2 / LEVEL, 1),
        "UFO-BLO: mean |M'|": at_most(ends[DEBIASED].mean(), 0.05),
        "UFO-BLO: distance of its mean x from the minimum": at_most(
            abs(places[DEBIASED].mean() - best), 0.12
        ),
        "FO-BLO: least mean |M'| over steps 3/k, 10/k, 30/k": shown(steady),
        "exact: mean |M'|": shown(ends[EXACT].mean()),
    }
    words = (
        f"After {curves[0].steps[-1]:,} steps of size 10/k the mean slope |M'| of FO-BLO over "
        f"{ends[FIRST].size} runs is {ends[FIRST].mean():.3f}, that of UFO-BLO with q = 0.1 "
        f"{ends[DEBIASED].mean():.3f}. FO-BLO stands at x = {places[FIRST].mean():.2f}, where its own mean "
        f"direction is zero ({stuck:.2f}, and |M'| {at_stuck:.3f}); UFO-BLO stands at "
        f"{places[DEBIASED].mean():.2f}, the minimum at {best:.2f}, but spread by "
        f"{places[DEBIASED].std():.2f}, against {places[EXACT].std():.2f} of the exact gradient (mean |M'| "
        f"{ends[EXACT].mean():.4f}), which is the price of the coin. Other steps c/k, c from 3 to 30, leave "
        f"FO-BLO at {steady:.3f} or more."
    )
    figures = [
        Picture(
            "Slope along the steps",
            line_figure(
                "Two tasks, steps 10/k",
                "outer steps",
                SLOPE,
                [
                    Line(label, run.steps[1:], quartiles(run)[:, 1:])
                    for label, run in zip(METHODS, curves, strict=True)
                ]
                + [Line("sqrt(D)", curves[0].steps[[1, -1]], [LEVEL**0.5] * 2, guide=True)],
                log="",
                limits=(0.0, 1.0),
            ),
            f"Slope of the ten-step objective; median and middle half of {ends[FIRST].size} runs.",
        ),
        Picture(
            "Other step sizes",
            line_figure(
                "Steps c/k: where the runs end",
                "c",
                f"mean {SLOPE}",
                [Line(search.method, CONSTANTS, search.scores, marked=True) for search in searches],
                log="xy",
            ),
            "Means of 20 runs. No step size frees FO-BLO; those too small have not arrived, those too large "
            "are left in the flat zone.",
        ),
    ]
    columns = [Column("D"), Column("sqrt(2 D)"), Column("|M'| of FO-BLO"), Column("|M'| of UFO-BLO, q = 0.1")]
    rows = [[*map(Cell.of, (level, (2 * level) ** 0.5, *pair))] for level, *pair in levels]
    tables = [("Problems for other levels D", Table(columns, rows)), ("What it cost", cost_table(curves))]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


def quartiles(run):
    """The middle half of the runs."""
    return np.quantile(run.values[SLOPE], [0.25, 0.5, 0.75], axis=0)


CLAIM = Claim(
    name="ufo-counterexample",
    title="First-order steps do not converge, debiased ones do",
    paper=references.UFO_BLO,
    statement="There is a rich family of problems on which SGD with first-order gradients does not converge "
    "to a stationary point; debiased by an exact gradient with probability q, it does (abstract). The toy "
    "is that of the authors' code; for any D there is one with M'^2 above D in the end (the theorem as we "
    "remember it).",
    known={
        "problem": "two tasks with curvatures 0.5 and 1.5, quadratic near their centres, D = 0.06 (official "
        "code)",
        "inner steps": "10 of 0.1 (official code)",
        "outer steps": "10,000 of 10/k, one task a step (official code)",
        "q": "0 and 0.1 (official code)",
        "start": "uniform from -10 to 30 (official code)",
        "runs": "5, or 10 in 2020 (official code)",
    },
    ours={
        "problem": "the same, and D = 0.01, 1",
        "inner steps": "the same",
        "outer steps": "the same (size paper: 100,000), and c/k for c from 1 to 100; every other task is one "
        "of a shuffled list of equally many of both, twice as long as a run",
        "q": "the same, and 1",
        "start": "the same",
        "runs": "200, and 20 for other c and D",
        "thresholds": "mean |M'| of FO-BLO from 0.34 to 0.355, of UFO-BLO below 0.05, its mean x within 0.12 "
        "of the minimum",
    },
    run=run,
)
