"""What the runs of the trade-off say: numbers, words, figures."""

import jax.numpy as jnp
import numpy as np

from bilevel.report.tables import Cell, Column, Table
from bilevel_claims.figures import Line, line_figure
from bilevel_claims.types import Finding, Picture, at_least, at_most, near, shown
from bilevel_claims.ufo_blo.bent import STEPS, bent_tasks

SLOPE, COST = "|M'(x)|", 220_000
TOY_STEP = 0.01
INNER_STEPS = (0.00569, 0.00879, 0.01357, 0.02096, 0.03237, 0.05)
BUDGET, GRADIENT = 400_000, "|grad M(x)|"
RECOMPUTED = STEPS * (STEPS + 1) // 2


def toy(inner_step):
    """The second toy: M' of the first-order limit is small, and starts are far away."""
    return bent_tasks((0.5, 1.5), (0.0, 10.0), 400.0, inner_step)


def spent_by(run):
    """(seeds, points) cost of a run: one a gradient and a Hessian product, the path recomputed."""
    return (STEPS + 1) * run.steps + RECOMPUTED * run.values["exact draws"]


def end_of(run):
    """The gradient of each seed, mean over the last fifth of the budget."""
    spent = spent_by(run)
    late = (spent > 0.8 * BUDGET) & (spent <= 1.01 * BUDGET)
    return float(np.mean(np.sum(np.where(late, run.values[GRADIENT], 0), 1) / late.sum(1)))


def report(time_and_variance, chances, quadratics) -> Finding:
    """Numbers, words and figures."""
    curves, costs, searches = time_and_variance
    measured, formula = chances
    runs, tuned, more, floor = quadratics
    cheap, best, exact = (float(run.values[SLOPE][:, -1].mean()) for run in curves)
    problem = toy(TOY_STEP)
    stuck = float(jnp.abs(problem.slopes(jnp.asarray(problem.limits()[0]))[1].mean()))
    tuned_toy = [float(search.scores.min()) for search in searches]
    middle = np.median(measured, axis=0)
    distance = {exponent: float(np.abs(middle - qs).max()) for exponent, qs in formula.items()}
    same_steps, own_steps = ({run.label: end_of(run) for run in kind} for kind in (runs, tuned))
    fixed = [label for label in same_steps if label.startswith("q")]
    adaptive, first_order = "adaptive q", "FO-BLO"
    chosen = float(late_share(runs[-1]))
    numbers = {
        "toy, equal cost: |M'| of q* over that of q = 1": at_most(best / exact, 1),
        "toy, equal cost: |M'| of q = 1 over that of FO-BLO": at_most(exact / cheap, 1),
        "toy: |M'| of FO-BLO against that of its limit": near(cheap / stuck, 1, 0.1),
        "toy: distance of the best q from the formula, exponent 1, largest of six inner steps": at_most(
            distance[1.0], 0.2
        ),
        "the same, exponent 1/2": shown(distance[0.5]),
        "the same, exponent 2": shown(distance[2.0]),
        "toy, steps searched: |M'| of q* over that of q = 1": shown(tuned_toy[1] / tuned_toy[2]),
        "20 tasks: gradient of FO-BLO against that of its limit": near(
            same_steps[first_order] / floor, 1, 0.15
        ),
        "20 tasks: gradient, adaptive q over the best fixed q": at_most(
            same_steps[adaptive] / min(same_steps[label] for label in fixed), 1.4
        ),
        "20 tasks: gradient of FO-BLO over that of the adaptive q": at_least(
            same_steps[first_order] / same_steps[adaptive], 1
        ),
        "20 tasks, steps searched: gradient, adaptive q over the best fixed q": shown(
            own_steps[adaptive] / min(own_steps[label] for label in fixed)
        ),
        "20 tasks, steps searched: gradient of q = 1 over that of q = 0.1": shown(
            own_steps["q = 1"] / own_steps["q = 0.1"]
        ),
        "20 tasks: adaptive q, mean of the second half": shown(chosen),
    }
    least, *_, most = sorted(same_steps[label] for label in fixed)
    searched = ", ".join(f"{own_steps[label]:.4f}" for label in fixed)
    words = (
        f"On the authors' toy, after equal cost, the mean slope |M'| is {best:.4f} with the q of the "
        f"formula, {exact:.4f} with exact gradients alone and {cheap:.3f} with none, whose limit has "
        f"{stuck:.3f}. With the steps c/k searched at that cost the first two are {tuned_toy[1]:.2g} and "
        f"{tuned_toy[2]:.2g}. The q that reaches a given slope at least cost follows the formula within "
        f"{distance[1.0]:.2f} when its exponent is 1; with the two exponents of the code, 1/2 and 2, within "
        f"{distance[0.5]:.2f} and {distance[2.0]:.2f}. On 20 quadratic tasks an adaptive q settles at "
        f"{chosen:.2f}; over the last fifth of the cost its gradient is {same_steps[adaptive]:.3f}, fixed q "
        f"between {least:.3f} and {most:.3f}, FO-BLO at {same_steps[first_order]:.3f}; with searched outer "
        f"steps that of the adaptive q is {own_steps[adaptive]:.4f}, q = 0.1, 0.4 and 1 at {searched}."
    )
    figures = [
        Picture(
            "Slope by cost",
            line_figure(
                "Toy, steps 10/k, alpha = 0.01",
                "cost in gradients",
                f"mean {SLOPE}",
                [
                    Line(run.label, cost[1:], run.values[SLOPE].mean(0)[1:])
                    for run, cost in zip(curves, costs, strict=True)
                ]
                + [Line("limit of FO-BLO", [costs[0][1], costs[0][-1]], [stuck] * 2, guide=True)],
                log="xy",
                limits=(0.01, 20),
            ),
            "Mean over all starts. A draw costs 11 gradients, and 10 Hessian products with an exact "
            "gradient. q* is that of the formula with the exponent 1/2, as in the code of the toy.",
        ),
        Picture(
            "Best q and the formula",
            line_figure(
                "Toy: the q of least cost",
                "inner step alpha",
                "q",
                [
                    Line("measured", INNER_STEPS, measured, marked=True),
                    *[
                        Line(f"formula, exponent {exponent:g}", INNER_STEPS, qs, marked=True)
                        for exponent, qs in formula.items()
                    ],
                ],
                log="x",
                limits=(0, 1.05),
            ),
            "Least cost of the squared slope that q = 0.05 reaches in 100 steps, q from 0.05 to 1; median "
            "and range of three sets of starts.",
        ),
        by_cost("20 tasks, the same steps", runs, floor, "Steps 200/(k + 200) for all."),
        by_cost("20 tasks, steps searched", tuned, floor, "Steps 200 c/(k + 200), c searched for each."),
    ]
    columns = [Column("method", numeric=False), Column("steps"), Column("exact draws a step")]
    columns += [Column("cost in gradients"), Column("gradient")]
    columns += [Column("c searched"), Column("gradient with it")]
    rows = []
    for run, other, search in zip(runs, tuned, more, strict=True):
        last = np.minimum(spent_by(run), BUDGET)[:, -1].mean()
        draws = run.values["exact draws"][:, -1].mean() / run.steps[-1]
        values = (int(run.steps[-1]), float(draws), float(last), end_of(run), search.best["c"], end_of(other))
        rows.append([Cell(run.label), *map(Cell.of, values)])
    columns_q = [Column("alpha"), Column("q measured: median"), Column("least"), Column("greatest")]
    columns_q += [Column(f"formula, exponent {exponent:g}") for exponent in formula]
    by_alpha = zip(INNER_STEPS, middle, measured.min(0), measured.max(0), *formula.values(), strict=True)
    rows_q = [[*map(Cell.of, map(float, values))] for values in by_alpha]
    tables = [("20 tasks", Table(columns, rows)), ("Best q on the toy", Table(columns_q, rows_q))]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=[*searches, *more])


def late_share(run):
    """Exact draws a step in the second half of the budget."""
    spent, shares = spent_by(run), []
    for cost, draws in zip(spent, run.values["exact draws"], strict=True):
        half, end = np.searchsorted(cost, (BUDGET / 2, BUDGET))
        end = min(end, len(cost) - 1)
        shares.append((draws[end] - draws[half]) / (run.steps[end] - run.steps[half]))
    return np.mean(shares)


def by_cost(title, runs, floor, caption):
    """The true gradient of the quadratic tasks by cost."""
    drawn = []
    for run in runs:
        cost = spent_by(run).mean(0)
        kept = (cost > 0) & (cost <= 1.01 * BUDGET)
        drawn.append(Line(run.label, cost[kept] / 1000, run.values[GRADIENT].mean(0)[kept]))
    drawn.append(Line("limit of FO-BLO", [0, BUDGET / 1000], [floor] * 2, guide=True))
    picture = line_figure(title, "cost in 1,000 gradients", f"mean {GRADIENT}", drawn, log="y")
    return Picture(title, picture, f"{caption} Mean of the seeds. An exact draw costs 55 on top of 11.")
