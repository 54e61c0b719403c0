"""MAML with N inner steps trains at a rate that is free of N only if the inner step falls like 1/N."""

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.algorithms import maml
from bilevel.algorithms.maml import smoothness_terms
from bilevel.report.tables import Cell, Column, Table
from bilevel.sampling import full, minibatches
from bilevel.types import Problem
from bilevel_claims import references
from bilevel_claims.experiment import Experiment, even_points, trajectory
from bilevel_claims.figures import Line, line_figure
from bilevel_claims.search import grid, late
from bilevel_claims.tables import cost_table
from bilevel_claims.types import Claim, Finding, Picture, at_least, at_most, shown

COUNTS, FIXED, CAUTION = (1, 5, 10, 20, 50), 0.2, 4.0
SQUARE, LOSS, RATE = "|grad L|^2", "L", "outer step"
FALLING, CONSTANT = "1/(8N)", f"{FIXED}"
AXES = {"outer_optimizer": (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)}

COSINES = Problem(
    lambda x, y, task: jnp.sum(jnp.cos(y + task["query"])),
    lambda x, y, task: jnp.sum(jnp.cos(y + task["support"])),
)


def run(size: str) -> Finding:
    """The step of the theory for both kinds of inner step, then a searched constant step."""
    steps, seeds = (300, 5) if size == "small" else (3000, 20)
    tasks = cosine_tasks()
    runs, searches, tuned, changes = {}, [], {}, {}
    for count in COUNTS:
        for kind, alpha in ((FALLING, 1 / (8 * count)), (CONSTANT, FIXED)):
            setting, rates = setting_of(tasks, count, alpha), {"inner_optimizer": alpha, "inner_steps": count}
            here = setting._replace(seeds=range(seeds))
            theory = maml(COSINES, **rates, outer_optimizer=1.0, smoothness=1.0, caution=CAUTION)
            points = even_points(steps, 100)
            runs[kind, count] = trajectory(f"alpha = {kind}, N = {count}", theory, here, points)

            def build(outer_optimizer, rates=rates):
                return maml(COSINES, **rates, outer_optimizer=outer_optimizer)

            trials = setting._replace(seeds=range(100, 100 + seeds))
            label = f"alpha = {kind}, N = {count}"
            search = grid(label, build, AXES, trials, score=late(SQUARE), steps=steps, points=40)
            searches.append(search)
            tuned[kind, count] = trajectory(label, build(**search.best), here, points)
            changes[kind, count] = largest_change(tasks, count, alpha)
    return report(runs, tuned, changes, searches)


def cosine_tasks():
    """50 tasks in 20 entries, Hessians and their slopes at most 1; queries are shifted supports."""
    rng = np.random.default_rng(0)
    c, e = rng.normal(size=(50, 20)), rng.normal(size=(50, 20))
    return {"support": c, "query": c + 0.3 * e}


def setting_of(tasks, count, alpha):
    """Ten tasks a step; the exact objective, its gradient, and the step that the theory would make."""
    chosen = {"inner_optimizer": alpha, "inner_steps": count}
    whole = jax.tree.map(jnp.asarray, tasks)
    plain = maml(COSINES, **chosen)

    def start(key):
        x = jax.random.uniform(key, (20,), minval=-3.0, maxval=3.0)
        return x, x

    def measure(state, held):
        _, metrics = plain.step(plain.init(state.x, state.x), full(held, None), None)
        base, slope = smoothness_terms(alpha, count, 1.0, 1.0)
        norms = jnp.linalg.norm(jnp.sin(state.x + held["support"]), axis=1)
        rate = 1 / (CAUTION * (base + slope * norms.mean()))
        return {SQUARE: metrics["gradient_norm"] ** 2, LOSS: metrics["outer_loss"], RATE: rate}

    return Experiment(data=minibatches(tasks, None, batch_size=10), start=start, measure=measure, held=whole)


def largest_change(tasks, count, alpha, places=200, shift=1e-4):
    """The largest slope of the meta-gradient along random directions at random points."""
    algorithm = maml(COSINES, inner_optimizer=alpha, outer_optimizer=1.0, inner_steps=count)
    data = full(jax.tree.map(jnp.asarray, tasks), None)
    rng = np.random.default_rng(0)
    points, along = rng.uniform(-3, 3, (places, 20)), rng.normal(size=(places, 20))
    along *= shift / np.linalg.norm(along, axis=1, keepdims=True)

    @jax.jit
    @jax.vmap
    def gradient(x):
        return x - algorithm.step(algorithm.init(x, x), data, None)[0].x

    difference = gradient(points + along) - gradient(points - along)
    return float(jnp.linalg.norm(difference, axis=1).max()) / (2 * shift)


def report(runs, tuned, changes, searches) -> Finding:
    """Numbers, words and figures; the runs by kind of inner step and N."""

    def of(quantity, kind, curves=runs, reduce=np.mean):
        return [float(reduce(curves[kind, count].values[quantity])) for count in COUNTS]

    def end(quantity, kind, curves=runs):
        return [float(curves[kind, count].values[quantity][:, -1].mean()) for count in COUNTS]

    first = float(runs[FALLING, 1].values[SQUARE][:, 0].mean())
    average, late_square = of(SQUARE, FALLING), [runs[FALLING, count].late(SQUARE) for count in COUNTS]
    rates = {kind: of(RATE, kind) for kind in (FALLING, CONSTANT)}
    stalled = [runs[CONSTANT, count].late(SQUARE) for count in COUNTS]
    moves = {kind: [changes[kind, count] for count in COUNTS] for kind in (FALLING, CONSTANT)}
    losses = {kind: end(LOSS, kind, tuned) for kind in (FALLING, CONSTANT)}
    freed = [tuned[CONSTANT, count].late(SQUARE) for count in COUNTS]
    numbers = {
        "alpha = 1/(8N): mean |grad L|^2 along the run, largest over least of all N": at_most(
            max(average) / min(average), 1.2
        ),
        "alpha = 1/(8N): mean outer step, largest over least of all N": at_most(
            max(rates[FALLING]) / min(rates[FALLING]), 1.2
        ),
        "alpha = 1/(8N): late |grad L|^2 over that at the start, largest of all N": at_most(
            max(late_square) / first, 0.1
        ),
        "alpha = 1/(8N): largest change of the gradient, N = 50 over N = 1": at_most(
            moves[FALLING][-1] / moves[FALLING][0], 1.2
        ),
        "alpha = 0.2: mean outer step at N = 1 over that at N = 10": at_least(
            rates[CONSTANT][0] / rates[CONSTANT][2], 100
        ),
        "alpha = 0.2: late |grad L|^2, least of N = 5 to 50, over that of N = 1": at_least(
            min(stalled[1:]) / stalled[0], 10
        ),
        "alpha = 0.2: largest change of the gradient, N = 10 over N = 1": at_least(
            moves[CONSTANT][2] / moves[CONSTANT][0], 3
        ),
        "alpha = 0.2, N = 10, searched constant outer step: late |grad L|^2": shown(freed[2]),
    }
    bound = bounds(CONSTANT)
    words = (
        f"With the step of the theory the mean of |grad L|^2 over {runs[FALLING, 1].steps[-1]:,} steps lies "
        f"between {min(average):.2f} and {max(average):.2f} for N from 1 to 50 when alpha = 1/(8N); at a "
        f"fixed alpha = {FIXED} the outer step goes from {rates[CONSTANT][0]:.2g} at N = 1 to "
        f"{rates[CONSTANT][2]:.1g} at N = 10 and {rates[CONSTANT][-1]:.0e} at N = 50, and the late |grad "
        f"L|^2, median of the seeds, from {stalled[0]:.2g} to {stalled[1]:.2g} at N = 5 and "
        f"{stalled[-1]:.2g} at N = 50. The bound of the smoothness at N = 10 is {bound[2] / bound[0]:.0f} "
        "times that of N = 1, the largest change of the gradient seen "
        f"{moves[CONSTANT][2] / moves[CONSTANT][0]:.1f} times; with a constant outer step, searched, the "
        f"late |grad L|^2 at alpha = {FIXED} is {freed[1]:.2g}, {freed[2]:.2g}, {freed[3]:.2g} and "
        f"{freed[4]:.2g} for N = 5, 10, 20 and 50. With such steps the loss in the end is "
        f"{losses[FALLING][0]:.2f} at N = 1 and {losses[FALLING][-1]:.2f} at N = 50 when alpha = 1/(8N), so "
        f"that all N adapt equally far, and {losses[CONSTANT][0]:.2f} and {losses[CONSTANT][-1]:.2f} when "
        f"alpha = {FIXED}."
    )
    steady = [1, 50]
    figures = [
        Picture(
            "Training with the step of the theory",
            line_figure(
                "The step of the theory",
                "outer steps",
                SQUARE,
                [
                    Line(
                        f"{kind}, N = {count}",
                        runs[kind, count].steps,
                        runs[kind, count].values[SQUARE],
                        colour=k,
                        dash=i,
                    )
                    for i, (kind, counts) in enumerate(((FALLING, steady), (CONSTANT, [1, 5, 10, 20])))
                    for k, count in ((COUNTS.index(count), count) for count in counts)
                ],
                log="y",
                height=4.2,
            ),
            "Squared gradient of the true objective, median and range of the seeds. Solid: alpha = 1/(8N), "
            "the curves lie upon each other. Dashed: alpha = 0.2; N = 50, whose steps move nothing, is "
            "left out.",
        ),
        Picture(
            "Outer step",
            line_figure(
                "The outer step that the theory allows",
                "inner steps N",
                "mean outer step",
                [Line(f"alpha = {kind}", COUNTS, rates[kind], marked=True) for kind in rates],
                log="xy",
            ),
            "1 / (4 x local smoothness), mean along the runs.",
        ),
        Picture(
            "Smoothness",
            line_figure(
                "Smoothness of the objective: bound and truth",
                "inner steps N",
                "constant",
                [
                    Line(f"{name}, alpha = {kind}", COUNTS, values, colour=k, dash=dash, marked=True)
                    for k, kind in enumerate((FALLING, CONSTANT))
                    for name, values, dash in (
                        ("bound", bounds(kind), 1),
                        ("largest seen", moves[kind], 0),
                    )
                ],
                log="xy",
            ),
            "Bound: (1 + alpha L)^(2N) L + C_L with a gradient of norm 1. Largest seen: change of the "
            "meta-gradient along 200 random directions at random points.",
        ),
        Picture(
            "Loss with a searched outer step",
            line_figure(
                "Constant outer step, searched",
                "inner steps N",
                "L at the end",
                [Line(f"alpha = {kind}", COUNTS, losses[kind], marked=True) for kind in losses],
                log="x",
            ),
            "Query loss after N steps. At alpha = 1/(8N) all N adapt equally far.",
        ),
    ]
    columns = [Column("inner step", numeric=False), Column("N"), Column("(1 + alpha L)^(2N)"), Column("C_L")]
    columns += [Column("largest change"), Column("mean outer step"), Column("mean |grad L|^2")]
    columns += [Column("last |grad L|^2, mean of seeds"), Column("late |grad L|^2, median of seeds")]
    columns += [Column("searched outer step"), Column("late |grad L|^2 with it")]
    rows = []
    for (kind, count), search in zip(runs, searches, strict=True):
        values = [*smoothness_terms(alpha_of(kind, count), count, 1.0, 1.0), changes[kind, count]]
        values += [runs[kind, count].values[name].mean() for name in (RATE, SQUARE)]
        values += [runs[kind, count].values[SQUARE][:, -1].mean(), runs[kind, count].late(SQUARE)]
        values += [search.best["outer_optimizer"], tuned[kind, count].late(SQUARE)]
        rows.append([Cell(kind), Cell.of(count), *map(Cell.of, map(float, values))])
    tables = [("Theory and runs", Table(columns, rows)), ("What it cost", cost_table(list(runs.values())))]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


def alpha_of(kind, count):
    """The inner step."""
    return 1 / (8 * count) if kind == FALLING else FIXED


def bounds(kind):
    """The bound of the smoothness at a gradient of norm 1, by N."""
    return [sum(smoothness_terms(alpha_of(kind, count), count, 1.0, 1.0)) for count in COUNTS]


CLAIM = Claim(
    name="maml-steps",
    title="MAML needs an inner step of order 1/N to be sure to converge",
    paper=references.MAML,
    statement="The inner step must be inversely proportional to N for N-step MAML to be sure to converge "
    "(abstract). The adaptive outer step and the constants are as we remember them, not the paper's word.",
    known={
        "experiment": "not known",
        "inner step": "1/(8 N L) (as we remember)",
        "outer step": "1 / (C_beta x local smoothness), C_beta not known (as we remember)",
    },
    ours={
        "experiment": "50 tasks, sums of 20 cosines, L = rho = 1, query shifted from support; finite sums",
        "inner step": "the same, against 0.2 for all N from 1 to 50",
        "outer step": "C_beta = 4, smoothness from ten other tasks; then constant, searched",
        "tasks a step": "10",
        "outer steps": "300 (size paper: 3,000)",
        "start": "uniform from -3 to 3",
        "seeds": "5 (size paper: 20); others for the search",
        "thresholds": "1/(8N): all N within 1.2 times each other, late |grad L|^2 below a tenth of the "
        "first; 0.2: the outer step falls 100 times to N = 10, |grad L|^2 stays 10 times as high from N = "
        "5 on",
    },
    run=run,
)
