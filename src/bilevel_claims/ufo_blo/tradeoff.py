"""Entry ufo-tradeoff: how often to pay for an exact gradient."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel.algorithms import fo_blo, ufo_blo
from bilevel.response import optimal_probability
from bilevel.sampling import minibatches
from bilevel.types import Problem
from bilevel_claims import references
from bilevel_claims.experiment import Axis, Experiment, each_seed, even_points, log_points, trajectory
from bilevel_claims.figures import Line, picture, picture_of
from bilevel_claims.search import grid
from bilevel_claims.tables import table
from bilevel_claims.types import Claim, Finding, at_least, at_most, cited, near, shown
from bilevel_claims.ufo_blo.bent import DRAWS, PATH, SLOPE, STEPS, bent_tasks, exact_draws

FIRST, ADAPTIVE = "FO-BLO", "adaptive q"
PROBABILITIES, EXPONENTS = np.linspace(0.05, 1, 20), (0.5, 1.0, 2.0)
TOY_STEP, INNER_STEPS = 0.01, (0.00569, 0.00879, 0.01357, 0.02096, 0.03237, 0.05)
TOY_BUDGET, BUDGET, GRADIENT = 220_000, 400_000, "|grad M(x)|"
# An exact gradient keeps its path on the toys, and recomputes it on the 20 tasks.
KEPT, RECOMPUTED = STEPS, STEPS * (STEPS + 1) // 2
TOY_COST = Axis("cost in gradients", lambda run: _cost(run, KEPT).mean(0))


def run(size: str) -> Finding:
    """Run the authors' two toys, and 20 quadratic tasks with fixed and with adaptive q."""
    starts, seeds = (1000, 8) if size == "small" else (2000, 20)
    return _report(*run_toy(starts), best_probabilities(starts), *run_quadratics(seeds))


def _toy(inner_step):
    return bent_tasks((0.5, 1.5), (0.0, 10.0), 400.0, inner_step)


def formula(inner_step, exponents):
    """Return the q of the formula on the toy, by exponent."""
    moments = _toy(inner_step).moments(np.linspace(-50, 50, 10_001))
    return [float(optimal_probability(*moments, STEPS + 1, STEPS, exponent)) for exponent in exponents]


def run_toy(starts):
    """Return runs with steps 10/k for q = 0, the formula's q and 1, and a search of c/k for each."""
    problem, (best,) = _toy(TOY_STEP), formula(TOY_STEP, (0.5,))
    experiment = problem.experiment(-50.0, 50.0, 40_000, range(starts))
    trials, axes = experiment._replace(seeds=range(10_000, 10_050)), {"c": (1.0, 3.0, 10.0, 30.0, 100.0)}
    runs, searches, budget = [], [], f"a cost of {TOY_BUDGET:,} gradients"
    for label, q in {FIRST: 0.0, f"q* = {best:.2f}": best, "q = 1": 1.0}.items():
        steps, build = int(TOY_BUDGET / (STEPS + 1 + q * KEPT)), partial(problem.algorithm, q)
        points = np.unique([*log_points(steps, 40), 100, 1000, 5000, 10_000])
        runs.append(trajectory(label, build(10.0), experiment, points))
        search = grid(f"toy, {label}", build, axes, trials, score=SLOPE, steps=steps)
        searches.append(search._replace(budget=budget))
    return runs, searches


def best_probabilities(starts):
    """Return the best q of each inner step, (3, inner steps), from three sets of starts."""

    def path(seed, inner_step, q):
        problem = _toy(inner_step)
        experiment = problem.experiment(-50.0, 50.0, 20_000, seed.astype(int) + jnp.arange(starts))
        traces = each_seed(problem.algorithm(q, 10.0), experiment, np.arange(101))
        return jnp.mean(traces(experiment.data, None)[SLOPE][:, 1:] ** 2, axis=0)

    axes = np.meshgrid([0.0, 1e4, 2e4], INNER_STEPS, PROBABILITIES, indexing="ij")
    rows = jnp.asarray(np.stack([axis.ravel() for axis in axes], axis=1))
    run = jax.jit(lambda rows: lax.map(lambda row: path(row[0], row[1], row[2]), rows, batch_size=10))
    squares = np.asarray(run(rows)).reshape(3, len(INNER_STEPS), len(PROBABILITIES), 100)
    # The least square that q = 0.05 reaches, and the first step at which each q is there.
    reached = squares <= squares[:, :, :1].min(-1, keepdims=True)
    first = np.where(reached.any(-1), reached.argmax(-1) + 1, np.inf)
    return PROBABILITIES[np.argmin(first * (STEPS + 1 + PROBABILITIES * KEPT), axis=-1)]


def run_quadratics(seeds):
    """Return runs with equal and with searched steps, the searches, and the limit of FO-BLO."""
    (A, centres), alpha = quadratic_tasks(np.random.default_rng(0)), 0.05
    P = np.stack([np.linalg.matrix_power(np.eye(10) - alpha * a, STEPS) for a in A])
    first, exact = A @ P, P @ A @ P
    settled = np.linalg.solve(first.sum(0), np.einsum("nij,nj->i", first, centres))
    held = jax.tree.map(jnp.asarray, (exact.mean(0), np.einsum("nij,nj->i", exact, centres) / len(A)))
    limit = float(np.linalg.norm(held[0] @ settled - held[1]))
    tasks = {"A": np.resize(A, (80_000, 10, 10)), "c": np.resize(centres, (80_000, 10))}

    def loss(x, y, task):
        return 0.5 * (y - task["c"]) @ task["A"] @ (y - task["c"])

    def measure(state, held):
        return {GRADIENT: jnp.linalg.norm(held[0] @ state.x - held[1]), DRAWS: exact_draws(state)}

    def build(c, q):
        settings = PATH | {"inner_optimizer": alpha, "outer_optimizer": lambda k: c * 200 / (k + 200.0)}
        if q == 0:
            return fo_blo(Problem(loss, loss), **settings)
        return ufo_blo(Problem(loss, loss), **settings, probability=q, recompute=True)

    start, data = (jnp.full(10, 5.0), jnp.zeros(10)), minibatches(tasks, None, batch_size=1)
    shared = {"held": held, "seeds": range(seeds), "seeds_in_sequence": False}
    experiment = Experiment(data, lambda key: start, measure, **shared)
    trials, axes = experiment._replace(seeds=range(1000, 1003)), {"c": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)}
    texts = {"budget": f"a cost of {BUDGET:,} gradients", "score": f"{GRADIENT}, last fifth of the cost"}
    equal, tuned, searches = [], [], []
    for label, q in {FIRST: 0.0, "q = 0.1": 0.1, "q = 0.4": 0.4, "q = 1": 1.0, ADAPTIVE: None}.items():
        # An adaptive q is at least 0.05, at which a budget lasts longest.
        steps = int(BUDGET / (STEPS + 1 + RECOMPUTED * (0.05 if q is None else q)))
        made, points = partial(build, q=q), even_points(steps, 50)
        search = grid(label, made, axes, trials, score=partial(_late_score, steps), steps=steps, points=50)
        searches.append(search._replace(**texts))
        equal.append(trajectory(label, made(1.0), experiment, points))
        best = search.best["c"]
        tuned.append(equal[-1] if best == 1.0 else trajectory(label, made(best), experiment, points))
    return equal, tuned, searches, limit


def quadratic_tasks(rng):
    """Return `(A, centres)`: half of the tasks flat around -t, half steep around t, turned at random."""
    away = 2 / np.sqrt(10) * np.ones(10)
    A, centres = [], []
    for i in range(20):
        turn = np.linalg.qr(rng.normal(size=(10, 10)))[0]
        top = rng.uniform(0.2, 0.5, 10) if i % 2 == 0 else rng.uniform(1, 1.5, 10)
        A.append(turn * top @ turn.T)
        centres.append((away if i % 2 else -away) + 0.5 * rng.normal(size=10))
    return np.stack(A), np.stack(centres)


def _late_score(steps, values):
    slope, draws = values[GRADIENT], values[DRAWS]
    spent = (STEPS + 1) * steps * (jnp.arange(slope.size) + 1) / slope.size + RECOMPUTED * draws
    return _late_mean(slope, spent, jnp)


def _late_mean(values, spent, xp=np):
    """Return the mean of values (..., points) over the last fifth of the budget."""
    late = (spent > 0.8 * BUDGET) & (spent <= 1.01 * BUDGET)
    return xp.where(late, values, 0).sum(-1) / xp.maximum(late.sum(-1), 1)


def _cost(run, exact=RECOMPUTED):
    """Return the cost in gradients, (seeds, points); an exact gradient costs `exact` more."""
    return (STEPS + 1) * run.steps + exact * run.values[DRAWS]


def _late(run):
    return float(_late_mean(run.values[GRADIENT], _cost(run)).mean())


def _late_share(run):
    """Return the exact draws a step in the second half of the budget, the mean of the seeds."""
    shares = []
    for cost, draws in zip(_cost(run), run.values[DRAWS], strict=True):
        half, end = np.minimum(np.searchsorted(cost, (BUDGET / 2, BUDGET)), len(cost) - 1)
        shares.append((draws[end] - draws[half]) / (run.steps[end] - run.steps[half]))
    return float(np.mean(shares))


def _report(runs, toy_searches, measured, equal, tuned, searches, limit) -> Finding:
    cheap, best, exact = (float(run.values[SLOPE][:, -1].mean()) for run in runs)
    settled = float(jnp.abs(_toy(TOY_STEP).slopes(jnp.asarray(_toy(TOY_STEP).limits()[0]))[1].mean()))
    _, best_tuned, exact_tuned = (float(search.scores.min()) for search in toy_searches)
    median, by_step = np.median(measured, axis=0), [formula(step, EXPONENTS) for step in INNER_STEPS]
    formulas = dict(zip(EXPONENTS, zip(*by_step, strict=True), strict=True))
    distance = {exponent: float(np.abs(median - qs).max()) for exponent, qs in formulas.items()}
    gradients, own = ({run.label: _late(run) for run in kind} for kind in (equal, tuned))
    fixed, own_fixed = ([last[f"q = {q}"] for q in (0.1, 0.4, 1)] for last in (gradients, own))
    share = _late_share(equal[-1])
    numbers = {
        "toy, equal cost: |M'| with q*, relative to q = 1": at_most(best / exact, 1),
        "toy, equal cost: |M'| with q = 1, relative to FO-BLO": at_most(exact / cheap, 1),
        "toy: |M'| with FO-BLO, relative to its limit": near(cheap / settled, 1, 0.1),
        "toy: largest distance of the best q from the formula, exponent 1": at_most(distance[1.0], 0.2),
        "toy: largest distance of the best q from the formula, exponent 1/2": shown(distance[0.5]),
        "toy: largest distance of the best q from the formula, exponent 2": shown(distance[2.0]),
        "toy, steps searched: |M'| with q*, relative to q = 1": shown(best_tuned / exact_tuned),
        "20 tasks: gradient of FO-BLO, relative to its limit": near(gradients[FIRST] / limit, 1, 0.15),
        "20 tasks: gradient of adaptive q over best fixed q": at_most(gradients[ADAPTIVE] / min(fixed), 1.4),
        "20 tasks: gradient of FO-BLO over adaptive q": at_least(gradients[FIRST] / gradients[ADAPTIVE], 1),
        "20 tasks, steps searched: adaptive q over best fixed q": shown(own[ADAPTIVE] / min(own_fixed)),
        "20 tasks, steps searched: q = 1 over q = 0.1": shown(own_fixed[2] / own_fixed[0]),
        "20 tasks: adaptive q, mean of the second half": shown(share),
    }
    words = (
        f"On the authors' toy, at equal cost, the mean slope |M'| is {best:.4f} with the q of the formula, "
        f"{exact:.4f} with exact gradients alone and {cheap:.3f} with first-order ones, whose limit has "
        f"{settled:.3f}. On 20 quadratic tasks the adaptive q settles at {share:.2f}; late in the budget its "
        f"gradient is {gradients[ADAPTIVE]:.3f}; it is {min(fixed):.3f} to {max(fixed):.3f} with a fixed q, "
        f"and {gradients[FIRST]:.3f} with FO-BLO."
    )
    slope = "Mean over all starts, steps 10/k. A draw costs 11 gradients, an exact one 10 products more."
    q = "Least cost to the squared slope that q = 0.05 reaches in 100 steps; range of three sets of starts."
    guide = Line("limit of FO-BLO", TOY_COST.of(runs[0])[[1, -1]], [settled] * 2, guide=True)
    lines = [Line("measured", INNER_STEPS, measured, marked=True)]
    lines += [Line(f"formula, exponent {e:g}", INNER_STEPS, qs, marked=True) for e, qs in formulas.items()]
    looks: Any = {"y": f"mean {SLOPE}", "value": lambda slopes: slopes.mean(0), "more": [guide], "log": "xy"}
    figures = [picture_of("Slope by cost", runs, SLOPE, TOY_COST, slope, **looks)]
    figures += [picture("Best q and the formula", "alpha", "q", lines, q, log="x", limits=(0, 1.05))]
    titles = ["method", "steps", "exact draws a step", "gradient", "c searched", "gradient with it"]
    rows = []
    for run, other, search in zip(equal, tuned, searches, strict=True):
        draws = run.values[DRAWS][:, -1].mean() / run.steps[-1]
        rows.append([run.label, int(run.steps[-1]), draws, _late(run), search.best["c"], _late(other)])
    tables = [("20 tasks", table(titles, rows))]
    searches = [*toy_searches, *searches]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


CLAIM = Claim(
    name="ufo-tradeoff",
    title="There is a best share of exact gradients, and it can be learnt",
    paper=references.UFO_BLO,
    statement="The probability q of an exact gradient trades time against variance; each problem has an "
    "optimal q, and an adaptive scheme finds it (abstract). Toys and formula of q: the authors' code.",
    known=cited(
        "official code",
        {
            "toy": "two tasks far apart, radius 400, alpha = 0.01; six (ten) alphas up to 0.05",
            "starts": "1,000 of 20,000 steps 10/k; 2,000 of 100 steps",
            "exponent in the formula": "1/2 in the toy, 2 in the few-shot code",
            "adaptive q": "|gradient - e|^2 over 10, which depends on the coin",
        },
    ),
    ours={
        "toy": "the same, without four alphas at which the least q is best",
        "starts": "1,000 (2,000) to a cost of 220,000, c = 10 or searched; three times 1,000 (2,000)",
        "exponent in the formula": "1 to judge and in the adaptive scheme, 1/2 for q* of the first figure",
        "adaptive q": "|e - o|^2, means with decay 0.99, least q 0.05",
        "20 quadratic tasks": "ten entries; curvatures 0.2 to 0.5 or 1 to 1.5, centres apart by 4; alpha = "
        "0.05, 10 inner steps; outer steps 200 c/(k + 200), c = 1 or searched; cost 400,000; 8 (20) seeds",
    },
    run=run,
)
