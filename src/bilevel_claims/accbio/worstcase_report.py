"""What the runs on the worst case say: numbers, words, figures."""

import numpy as np

from bilevel.report.tables import Cell, Column, Table
from bilevel_claims.figures import Line, line_figure
from bilevel_claims.tables import cost_table
from bilevel_claims.types import Finding, Picture, at_least, at_most, near, shown

GAP = "relative gap"
METHODS = ("AccBiO", "AccBiO-BG", "AID-BiO")
ACC, BG, AID = METHODS
SHORT, FLOORS, ACCURACIES, LEVEL = 3, (5, 10, 20, 40), (1e-2, 1e-3, 1e-4), 1e-8


def report(tasks, paths, floors, reach, tuned, convex) -> Finding:
    """Numbers, words and figures."""
    conditions = [round(task.outer_condition) for task in tasks.values()]
    counts = {label: [first(run, GAP, LEVEL) for run in runs] for label, runs in paths.items()}
    slopes = {label: slope(conditions[:3], counts[label][:3]) for label in METHODS}
    last = {label: slope(conditions[2:], counts[label][2:]) for label in METHODS}
    searches, curves = tuned
    calls, loose = ({run.label: settled(run, level) for run in curves} for level in (LEVEL, 1e-6))
    ends = [run.last(GAP) for run in floors]
    falls = [np.log10(ends[i] / ends[i + 1]) / (FLOORS[i + 1] - FLOORS[i]) for i in (0, 1)]
    steps = np.diff(reach.values["entries reached"][0])
    rate, best = decay(1e-2, 0.2), np.abs(np.asarray(tasks[1e-2].held[0]))
    ratio = float(np.exp(np.log(best[100] / best[60]) / 40))
    grown = {label: slope(1 / np.array(ACCURACIES), found) for label, found in convex.items()}
    ahead = [gd / acc for acc, gd in zip(convex[ACC], convex["gradient descent"], strict=True)]
    numbers = {
        "slope of iterations against kappa_x, AccBiO: not less": at_least(slopes[ACC], 0.35),
        "slope of iterations against kappa_x, AccBiO: not more": at_most(slopes[ACC], 0.55),
        "slope of iterations against kappa_x, AID-BiO": at_least(slopes[AID], 0.75),
        "slope of iterations against kappa_x, AccBiO-BG": shown(slopes[BG]),
        "the same over the last decade, AccBiO": shown(last[ACC]),
        "the same over the last decade, AID-BiO": shown(last[AID]),
        "calls to a gap of 1e-8, all tuned, AccBiO over AID-BiO": at_most(calls[ACC] / calls[AID], 1),
        "calls to a gap of 1e-8, all tuned, AccBiO-BG over AID-BiO": shown(calls[BG] / calls[AID]),
        "calls to a gap of 1e-6, same runs, AccBiO over AID-BiO": shown(loose[ACC] / loose[AID]),
        "decades that the floor falls per inner step, 10 to 20 over 5 to 10": near(
            falls[1] / falls[0], 1, 0.25
        ),
        "entries that an outer step adds to x, N = 3, most": at_most(steps.max(), 7),
        "decay of x* from entry to entry": near(ratio, rate, 1e-3),
        "convex Phi: slope of iterations against 1 / accuracy, AccBiO over gradient descent": at_most(
            grown[ACC] / grown["gradient descent"], 1
        ),
        "convex Phi: advantage at 1e-4 over that at 1e-2": at_least(ahead[-1] / ahead[0], 1),
    }
    words = (
        f"From kappa_x = {conditions[0]:.0f} to {conditions[2]:,.0f} the outer iterations to a gap of 1e-8 "
        f"grow like kappa_x^{slopes[ACC]:.2f} for AccBiO, kappa_x^{slopes[BG]:.2f} for AccBiO-BG and "
        f"kappa_x^{slopes[AID]:.2f} for AID-BiO. At {conditions[3]:,.0f} they need {counts[ACC][3]:,.0f}, "
        f"{counts[BG][3]:,.0f} and {counts[AID][3]:,.0f}. With the steps inside and outside tuned for each "
        f"at kappa_x = {conditions[2]:,.0f}, a gap of 1e-8 for good costs {calls[ACC]:,.0f}, "
        f"{calls[BG]:,.0f} and {calls[AID]:,.0f} oracle calls, one of 1e-6 on the same runs "
        f"{loose[ACC]:,.0f}, {loose[BG]:,.0f} and {loose[AID]:,.0f}; the best number of inner steps is "
        f"{searches[2].best['steps']} for AID-BiO, warm, and {searches[0].best['steps']} for AccBiO, cold. "
        f"Too few of them leave a floor, {ends[0]:.2g} at N = 5 and {ends[1]:.2g} at N = 10. An outer step "
        f"with N = 3 shows x at most {steps.max():.0f} more entries, which is what the lower bound rests on. "
        f"Where Phi is convex alone, gradient descent needs {ahead[0]:.1f} times the steps of AccBiO for an "
        f"accuracy of 1e-2 and {ahead[-1]:.1f} times for 1e-4."
    )
    entries = np.arange(1, 201)
    figures = [
        Picture(
            "Iterations against the condition number",
            line_figure(
                "To a relative gap of 1e-8",
                "condition number of Phi",
                "outer iterations",
                [Line(label, conditions, counts[label], marked=True) for label in METHODS]
                + [
                    Line("slopes 1/2 and 1", conditions, counts[ACC][0] * root(conditions, 0.5), guide=True),
                    Line("", conditions, counts[AID][0] * root(conditions, 1), guide=True),
                ],
                log="xy",
            ),
            "Constants of the instance for all; N = M = 34, AID-BiO 40 inner steps and 10 of conjugate "
            "gradients. The last point has 800 entries, the others 200; "
            "there a gap of 1e-8 comes before the linear rate that the condition number stands for.",
        ),
        Picture(
            "Gap along the outer iterations",
            line_figure(
                "kappa_x = 325 (solid) and 3,241 (dashed)",
                "outer iterations",
                GAP,
                [
                    Line(label if i == 1 else "", run.steps, run.values[GAP], colour=k, dash=i - 1)
                    for k, (label, runs) in enumerate(paths.items())
                    for i, run in enumerate(runs)
                    if i in (1, 2)
                ],
                log="xy",
                limits=(1e-12, 2),
            ),
            "Phi above its minimum, over what it was at the start.",
        ),
        Picture(
            "Gap at equal oracle calls",
            line_figure(
                f"Tuned for the fewest calls, kappa_x = {conditions[2]:,.0f}",
                "oracle calls",
                GAP,
                [Line(run.label, run.calls, run.values[GAP]) for run in curves],
                log="y",
                limits=(1e-12, 2),
            ),
            "Every method with its own number of inner steps and its own outer step; gradients, Hessian and "
            "cross products count one each.",
        ),
        Picture(
            "The floor of too few inner steps",
            line_figure(
                "AccBiO, N inner and N linear steps",
                "outer iterations",
                GAP,
                [Line(run.label, run.steps, run.values[GAP]) for run in floors],
                log="y",
            ),
            "kappa_x = 325, kappa_y = 5, inner solves from 0.",
        ),
        Picture(
            "How far x reaches",
            line_figure(
                "AccBiO with N = 3: entries of x",
                "entry",
                "absolute value",
                [Line(f"step {k}", entries, np.abs(reach.values["x"][0, k])) for k in (2, 10, 40)]
                + [Line("x*", entries, best)]
                + [Line(f"{rate:.4f}^i", entries, best[60] * rate ** (entries - 61), guide=True)],
                log="y",
                limits=(1e-8, 3),
            ),
            "kappa_x = 325. Entries to the right of a curve are zero still, or below the axis. The "
            "minimiser falls by a constant factor from entry to entry, so that a small gap needs many of "
            "them.",
        ),
        Picture(
            "Convex Phi",
            line_figure(
                "Convex Phi: iterations to an accuracy",
                "1 / accuracy",
                "outer iterations",
                [
                    Line(label, 1 / np.array(ACCURACIES), found, marked=True)
                    for label, found in convex.items()
                ],
                log="xy",
            ),
            "mu_x = 0. AccBiO minimises Phi with a ridge of accuracy / |x*|^2; gradient descent takes 1/L.",
        ),
    ]
    columns = [Column("method", numeric=False), *[Column(f"kappa_x = {c:,.0f}") for c in conditions]]
    table = Table(columns, [[Cell(label), *map(Cell.of, counts[label])] for label in METHODS])
    costs = cost_table([runs[1] for runs in paths.values()])
    tables = [("Outer iterations to a gap of 1e-8", table), ("What it cost, kappa_x = 325", costs)]
    tables += [("What it cost, tuned", cost_table(curves))]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


def root(x, power):
    """A power law that begins at 1."""
    return (np.array(x) / x[0]) ** power


def decay(outer_convexity, inner_convexity):
    """Ratio of neighbouring entries of x*, from the recurrence of the instance."""
    a, b = (1 - outer_convexity) / 4, (1 - inner_convexity) / 4
    s = a * inner_convexity + 0.5
    bottom = (outer_convexity * b + s) * b
    lam = (2 * outer_convexity * b * inner_convexity + s * inner_convexity + 0.25) / bottom
    tau = outer_convexity * inner_convexity**2 / bottom
    roots = np.roots([1, -(4 + lam), 6 + 2 * lam + tau, -(4 + lam), 1]).real
    return float(roots[roots < 1].max())


def first(run, quantity, level):
    """The first measured step at which a curve is at a level or below, inf when it never is."""
    below = run.values[quantity][0] <= level
    return float(run.steps[np.argmax(below)]) if below.any() else float("inf")


def settled(run, level):
    """The calls after which the gap of a curve stays below a level, inf when it does not."""
    above = np.flatnonzero(~(run.values[GAP][0] <= level))
    return float(run.calls[above[-1] + 1]) if above[-1] + 1 < run.calls.size else float("inf")


def slope(x, y):
    """Of a line through points in logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
