"""Entry maml-steps: N-step MAML with a fixed inner step, and with one that falls like 1/N."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.algorithms import maml
from bilevel.algorithms.maml import smoothness_terms
from bilevel.sampling import full, minibatches
from bilevel.types import Problem
from bilevel_claims import references
from bilevel_claims.experiment import STEPS, Experiment, even_points, trajectory
from bilevel_claims.figures import Line, picture, picture_of
from bilevel_claims.search import grid, late
from bilevel_claims.tables import cost_table, table
from bilevel_claims.types import Claim, Finding, at_least, at_most, cited, shown

N, COUNTS, CAUTION = "inner steps N", (1, 5, 10, 20, 50), 4.0
SQUARE, LOSS, RATE = "|grad L|^2", "L", "outer step"
FALLING, CONSTANT = KINDS = "1/(8N)", "0.2"
ALPHAS = {(kind, n): 1 / (8 * n) if kind == FALLING else 0.2 for n in COUNTS for kind in KINDS}
AXES = {"outer_optimizer": (1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0)}

COSINES = Problem(
    lambda x, y, task: jnp.sum(jnp.cos(y + task["query"])),
    lambda x, y, task: jnp.sum(jnp.cos(y + task["support"])),
)


def run(size: str) -> Finding:
    """Run the outer step of the theory for both kinds of inner step, then a searched constant one."""
    steps, seeds = (300, 5) if size == "small" else (3000, 20)
    tasks, points = cosine_tasks(), even_points(steps, 100)
    runs, tuned, changes, searches = {}, {}, {}, []
    for (kind, n), alpha in ALPHAS.items():
        build: Any = partial(maml, COSINES, inner_optimizer=alpha, inner_steps=n)
        experiment = experiment_of(build(), tasks, alpha, n)._replace(seeds=range(seeds))
        trials = experiment._replace(seeds=range(100, 100 + seeds))
        theory = build(outer_optimizer=1.0, smoothness=1.0, caution=CAUTION)
        label = f"alpha = {kind}, N = {n}"
        runs[kind, n] = trajectory(label, theory, experiment, points)
        searches += [grid(label, build, AXES, trials, score=late(SQUARE), steps=steps, points=40)]
        tuned[kind, n] = trajectory(label, build(**searches[-1].best), experiment, points)
        changes[kind, n] = largest_change(build(outer_optimizer=1.0), tasks)
    return report(runs, tuned, changes, searches)


def cosine_tasks():
    """Return 50 tasks in 20 entries, L = rho = 1; queries are shifted supports."""
    rng = np.random.default_rng(0)
    c, e = rng.normal(size=(50, 20)), rng.normal(size=(50, 20))
    return {"support": c, "query": c + 0.3 * e}


def experiment_of(algorithm, tasks, alpha, n):
    """Return an experiment that measures the exact objective, its gradient and the step of the theory."""

    def start(key):
        x = jax.random.uniform(key, (20,), minval=-3.0, maxval=3.0)
        return x, x

    def measure(state, held):
        _, metrics = algorithm.step(algorithm.init(state.x, state.x), full(held, None), None)
        base, slope = smoothness_terms(alpha, n, 1.0, 1.0)
        norms = jnp.linalg.norm(jnp.sin(state.x + held["support"]), axis=1)
        rate = 1 / (CAUTION * (base + slope * norms.mean()))
        return {SQUARE: metrics["gradient_norm"] ** 2, LOSS: metrics["outer_loss"], RATE: rate}

    held = jax.tree.map(jnp.asarray, tasks)
    return Experiment(minibatches(tasks, None, batch_size=10), start, measure, held=held)


def largest_change(algorithm, tasks, places=200, shift=1e-4):
    """Return the largest slope of the meta-gradient along random directions at random points."""
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
    """Return the finding from runs and changes by kind of inner step and N."""

    def by_kind(value):
        return {kind: [float(value((kind, n))) for n in COUNTS] for kind in KINDS}

    rates = by_kind(lambda key: runs[key].values[RATE].mean())
    means = by_kind(lambda key: runs[key].values[SQUARE].mean())
    lates, freed = (by_kind(lambda key, kept=kept: kept[key].late(SQUARE)) for kept in (runs, tuned))
    losses = by_kind(lambda key: tuned[key].values[LOSS][:, -1].mean())
    terms = {key: smoothness_terms(alpha, key[1], 1.0, 1.0) for key, alpha in ALPHAS.items()}
    bounds, moves = by_kind(lambda key: sum(terms[key])), by_kind(lambda key: changes[key])
    mean, late_mean, rate, moved = (values[FALLING] for values in (means, lates, rates, moves))
    stalled, fixed_rate, change = (values[CONSTANT] for values in (lates, rates, moves))
    first, fall = runs[FALLING, 1].values[SQUARE][:, 0].mean(), fixed_rate[0] / fixed_rate[2]
    numbers = {
        "1/(8N): mean |grad L|^2, largest over least of all N": at_most(max(mean) / min(mean), 1.2),
        "1/(8N): mean outer step, largest over least of all N": at_most(max(rate) / min(rate), 1.2),
        "1/(8N): late |grad L|^2 over the first, largest of all N": at_most(max(late_mean) / first, 0.1),
        "1/(8N): largest change of the gradient, N = 50 over N = 1": at_most(moved[-1] / moved[0], 1.2),
        "0.2: mean outer step, N = 1 over N = 10": at_least(fall, 100),
        "0.2: late |grad L|^2, least of N = 5 to 50 over N = 1": at_least(min(stalled[1:]) / stalled[0], 10),
        "0.2: largest change of the gradient, N = 10 over N = 1": at_least(change[2] / change[0], 3),
        "0.2, N = 10, searched constant outer step: late |grad L|^2": shown(freed[CONSTANT][2]),
    }
    words = (
        f"With the step of the theory the mean of |grad L|^2 over {runs[FALLING, 1].steps[-1]:,} steps lies "
        f"between {min(mean):.2f} and {max(mean):.2f} for N from 1 to 50 when alpha = 1/(8N). At alpha = 0.2 "
        f"the mean outer step is {fixed_rate[0]:.2g} at N = 1, {fixed_rate[2]:.1g} at N = 10 and "
        f"{fixed_rate[-1]:.0e} at N = 50, the late |grad L|^2 {stalled[0]:.2g}, {stalled[2]:.2g} and "
        f"{stalled[-1]:.2g}; with a searched constant outer step {freed[CONSTANT][2]:.2g} at N = 10 and "
        f"{freed[CONSTANT][-1]:.2g} at N = 50."
    )
    theory = "Squared gradient of the true objective; without alpha = 0.2, N = 50, whose steps move nothing."
    smoothness = "Bound of the theory; largest change of the meta-gradient along random directions."
    allowed, searched = "1 / (4 x local smoothness), mean along the runs.", "Query loss after N steps."
    drawn = [(FALLING, 1), (FALLING, 50), *((CONSTANT, n) for n in COUNTS[:-1])]
    styles = {runs[key].label: {"colour": COUNTS.index(key[1]), "dash": KINDS.index(key[0])} for key in drawn}
    constants = [*_lines(moves, "largest seen, ", dash=0), *_lines(bounds, "bound, ", dash=1)]
    chosen, title = [runs[key] for key in drawn], "Training with the step of the theory"
    figures = [
        picture_of(title, chosen, SQUARE, STEPS, theory, styles=styles, log="y", height=4.2),
        picture("Outer step", N, "mean outer step", _lines(rates), allowed, log="xy"),
        picture("Smoothness", N, "constant", constants, smoothness, log="xy"),
        picture("Loss with a searched outer step", N, "L at the end", _lines(losses), searched, log="x"),
    ]
    titles = ["inner step", "N", "(1 + alpha L)^(2N)", "C_L", "largest change", "mean outer step"]
    titles += ["mean |grad L|^2", "last |grad L|^2, mean of seeds", "late |grad L|^2, median of seeds"]
    titles += ["searched outer step", "late |grad L|^2 with it", "last L with it"]
    rows = []
    for (key, own), search, best in zip(runs.items(), searches, tuned.values(), strict=True):
        square = own.values[SQUARE]
        row = [*key, *terms[key], changes[key], own.values[RATE].mean(), square.mean(), square[:, -1].mean()]
        row += [own.late(SQUARE), search.best["outer_optimizer"], best.late(SQUARE)]
        rows.append([*row, best.values[LOSS][:, -1].mean()])
    tables = [("Theory and runs", table(titles, rows)), ("What it cost", cost_table(list(runs.values())))]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


def _lines(values, name="", dash=None):
    """Return a line of each kind of inner step by N."""
    labels = {kind: f"{name}alpha = {kind}" for kind in KINDS}
    return [Line(labels[k], COUNTS, values[k], colour=i, dash=dash, marked=True) for i, k in enumerate(KINDS)]


KNOWN = {"inner step": "1/(8 N L)", "outer step": "1 / (C_beta x local smoothness), C_beta not known"}
CLAIM = Claim(
    name="maml-steps",
    title="MAML needs an inner step of order 1/N to be sure to converge",
    paper=references.MAML,
    statement="The inner step must be inversely proportional to N for N-step MAML to be sure to converge "
    "(abstract). The adaptive outer step and the constants are as we remember them, not the paper's word.",
    known=cited("as we remember", KNOWN),
    ours={
        "inner step": "the same, against 0.2",
        "outer step": "C_beta = 4, smoothness from ten other tasks; then constant, searched",
        "experiment": "50 tasks, sums of 20 cosines, L = rho = 1, query shifted from support; finite sums",
        "outer steps": "300 of 10 tasks (size paper: 3,000), from a uniform start between -3 and 3",
        "seeds": "5 (size paper: 20); others for the search",
    },
    run=run,
)
