"""Entry accbio-worstcase: AccBiO and AID-BiO on the instance of the lower bound."""

from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np

from bilevel.algorithms import accbio, accbio_bg, aid_bio
from bilevel.linear import cg
from bilevel.tasks import worst_case
from bilevel_claims import references
from bilevel_claims.experiment import CALLS, Experiment, ends, even_points, log_points, trajectory
from bilevel_claims.figures import Line, picture, picture_of
from bilevel_claims.search import tune
from bilevel_claims.tables import cost_table
from bilevel_claims.types import Claim, Finding, at_least, at_most, near, shown

METHODS = ACC, BG, AID = "AccBiO", "AccBiO-BG", "AID-BiO"
# Entries by mu_x. x* falls by 1/e over 3 / sqrt(mu_x) entries: with fewer, Phi is conditioned better.
ENTRIES = {1e-1: 200, 1e-2: 200, 1e-3: 200, 1e-4: 800}
GAP, LEVEL, DESCENT, ACCURACIES = "relative gap", 1e-8, "gradient descent", (1e-2, 1e-3, 1e-4)
FLOORS = (5, 10, 20, 40)
# Outer steps that are enough for a gap of 1e-8; inner and linear steps.
LENGTHS = {ACC: (100, 400, 400, 1200), BG: (200, 400, 1000, 2500), AID: (200, 1500, 7000, 50_000)}
LOOPS = {ACC: (34, 34), BG: (34, 34), AID: (40, 10)}


def run(size: str) -> Finding:
    """Run all methods with the constants of the instance, then tuned at equal oracle calls."""
    scale = 1 if size == "small" else 2
    tasks = {mu: worst_case(dim=scale * dim, outer_convexity=mu) for mu, dim in ENTRIES.items()}

    def follow(label, mu, steps, loops=None):
        points = even_points(steps, steps) if steps <= 1500 else log_points(steps, 1500)
        return trajectory(label, _method(label, tasks[mu], loops), _experiment(tasks[mu]), points)

    steps = {label: zip(tasks, LENGTHS[label], strict=True) for label in METHODS}
    paths = {label: [follow(label, mu, count) for mu, count in steps[label]] for label in METHODS}
    floors = [replace(follow(ACC, 1e-2, 400, (count, count)), label=f"N = {count}") for count in FLOORS]
    reach = follow(ACC, 1e-2, 80, (3, 3))
    return _report(tasks, paths, floors, reach, *_equal_calls(tasks[1e-3], 20_000), _convex())


def _method(label, task, loops=None, share=1.0, **constants):
    """Return a method with the constants of the instance; `loops` are its inner and linear steps."""
    inner, linear = loops or LOOPS[label]
    rates = {"inner_optimizer": task.inner_step, "outer_optimizer": share * task.outer_step}
    if label == AID:
        return aid_bio(task.problem, **rates, inner_steps=inner, linear_solver=cg(linear))
    rates |= {"inner_condition": task.inner_condition, "outer_condition": task.outer_condition}
    rates |= {"inner_steps": inner, "linear_steps": linear} | constants
    if label == BG:
        return accbio_bg(task.problem, **(rates | {"outer_optimizer": 0.5 * share * task.outer_step}))
    return accbio(task.problem, **rates)


def _experiment(task):
    first = float(task.metrics(task.start(None)[0], None, task.held)["suboptimality"])

    def measure(state, held):
        above = task.metrics(state.x, state.y, held)["suboptimality"]
        reach = jnp.max(jnp.where(jnp.abs(state.x) > 1e-14, jnp.arange(1, state.x.size + 1), 0))
        return {"above": above, GAP: above / first, "entries reached": reach}

    return Experiment(task.data, task.start, measure, held=task.held)


def _equal_calls(task, calls):
    """Return searches and runs with the inner steps and the outer step that need the fewest calls."""

    def build(label, steps, share):
        loops = (steps, max(1, steps // 2) if label == AID else steps)
        return _method(label, task, loops, share, outer_condition=task.outer_condition / share)

    axes = {"steps": (1, 2, 4, 8, 12, 16, 24), "share": (0.5, 1.0, 1.3, 1.9, 2.6, 4.0)}
    builds, trials = {label: partial(build, label) for label in METHODS}, {"seeds": (0,), "points": 400}
    return tune(builds, axes, _experiment(task), score=_spent, calls=calls, shown=400, **trials)


def _spent(values):
    """Share of the calls after which the relative gap stays below 1e-8; diverged: it never does."""
    above = ~jnp.flip(values[GAP] <= LEVEL)
    return jnp.where(above[0], jnp.inf, jnp.where(above.any(), 1 - jnp.argmax(above) / above.size, 0))


def _convex():
    """Return the iterations to each accuracy by method, where Phi is convex and no more."""
    task = worst_case(dim=120, outer_convexity=0.0)
    radius, experiment = float(jnp.sum(task.held[0] ** 2)), _experiment(task)
    descent = trajectory(DESCENT, _method(AID, task), experiment, even_points(300, 300))
    found = {ACC: [], DESCENT: [_first(descent, "above", accuracy) for accuracy in ACCURACIES]}
    for accuracy in ACCURACIES:
        ridge = accuracy / radius
        top = 1 / task.outer_step + ridge
        constants = {"outer_optimizer": 1 / top, "outer_condition": top / ridge, "ridge": ridge}
        run = trajectory(ACC, _method(ACC, task, **constants), experiment, even_points(150, 150))
        found[ACC].append(_first(run, "above", accuracy))
    return found


def _decay(outer_convexity, inner_convexity):
    """Return the ratio of neighbouring entries of x*, from the recurrence of the instance."""
    a, b = (1 - outer_convexity) / 4, (1 - inner_convexity) / 4
    s = a * inner_convexity + 0.5
    bottom = (outer_convexity * b + s) * b
    lam = (2 * outer_convexity * b * inner_convexity + s * inner_convexity + 0.25) / bottom
    tau = outer_convexity * inner_convexity**2 / bottom
    roots = np.roots([1, -(4 + lam), 6 + 2 * lam + tau, -(4 + lam), 1]).real
    return float(roots[roots < 1].max())


def _first(run, quantity, level):
    below = run.values[quantity][0] <= level
    return float(run.steps[np.argmax(below)]) if below.any() else float("inf")


def _settled(run, level):
    above = np.flatnonzero(~(run.values[GAP][0] <= level))
    return float(run.calls[above[-1] + 1]) if above[-1] + 1 < run.calls.size else float("inf")


def _log_slope(x, y):
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _report(tasks, paths, floors, reach, searches, tuned, convex) -> Finding:
    conditions = np.array([round(task.outer_condition) for task in tasks.values()])
    counts = {label: [_first(run, GAP, LEVEL) for run in runs] for label, runs in paths.items()}
    slopes = {label: _log_slope(conditions[:3], counts[label][:3]) for label in METHODS}
    last = {label: _log_slope(conditions[2:], counts[label][2:]) for label in METHODS}
    calls, loose = ({run.label: _settled(run, level) for run in tuned} for level in (LEVEL, 1e-6))
    floor = list(ends(floors, GAP).values())
    falls = [np.log10(floor[i] / floor[i + 1]) / (FLOORS[i + 1] - FLOORS[i]) for i in (0, 1)]
    added = np.diff(reach.values["entries reached"][0]).max()
    rate, best = _decay(1e-2, 0.2), np.abs(np.asarray(tasks[1e-2].held[0]))
    ratio, inverse = float(np.exp(np.log(best[100] / best[60]) / 40)), 1 / np.array(ACCURACIES)
    grown = _log_slope(inverse, convex[ACC]) / _log_slope(inverse, convex[DESCENT])
    ahead = [gd / acc for acc, gd in zip(convex[ACC], convex[DESCENT], strict=True)]
    slope, convex_slope = "slope of iterations against kappa_x", "convex Phi: slope against 1 / accuracy"
    numbers = {
        f"{slope}, AccBiO: not less": at_least(slopes[ACC], 0.35),
        f"{slope}, AccBiO: not more": at_most(slopes[ACC], 0.55),
        f"{slope}, AID-BiO": at_least(slopes[AID], 0.75),
        f"{slope}, AccBiO-BG": shown(slopes[BG]),
        f"{slope}, last decade, AccBiO": shown(last[ACC]),
        f"{slope}, last decade, AID-BiO": shown(last[AID]),
        "tuned: calls to a gap of 1e-8, AccBiO over AID-BiO": at_most(calls[ACC] / calls[AID], 1),
        "tuned: calls to a gap of 1e-8, AccBiO-BG over AID-BiO": shown(calls[BG] / calls[AID]),
        "tuned: calls to a gap of 1e-6, AccBiO over AID-BiO": shown(loose[ACC] / loose[AID]),
        "fall of the floor per inner step, 10 to 20 over 5 to 10": near(falls[1] / falls[0], 1, 0.25),
        "entries that an outer step adds to x, N = 3, most": at_most(added, 7),
        "decay of x* from entry to entry": near(ratio, rate, 1e-3),
        f"{convex_slope}, AccBiO over gradient descent": at_most(grown, 1),
        "convex Phi: advantage at 1e-4 over that at 1e-2": at_least(ahead[-1] / ahead[0], 1),
    }
    words = (
        f"From kappa_x = {conditions[0]} to {conditions[2]:,} the outer iterations to a gap of 1e-8 grow "
        f"like kappa_x^{slopes[ACC]:.2f} for AccBiO, kappa_x^{slopes[BG]:.2f} for AccBiO-BG and "
        f"kappa_x^{slopes[AID]:.2f} for AID-BiO. Tuned at kappa_x = {conditions[2]:,}, a lasting gap of 1e-8 "
        f"costs {calls[ACC]:,.0f}, {calls[BG]:,.0f} and {calls[AID]:,.0f} oracle calls. Too few inner steps "
        f"leave a floor, {floor[0]:.2g} at N = 5 and {floor[1]:.2g} at N = 10."
    )
    instance = "To a gap of 1e-8. At the last point it comes before the linear rate that kappa_x stands for."
    own = "Each method with its own inner and outer steps, kappa_x = 3,241. Gradients and products count 1."
    ridge = "mu_x = 0. AccBiO minimises Phi with a ridge of accuracy / |x*|^2; gradient descent takes 1 / L."
    growth = conditions / conditions[0]
    iterations = [Line(label, conditions, counts[label], marked=True) for label in METHODS]
    iterations += [Line("slopes 1/2 and 1", conditions, counts[ACC][0] * growth**0.5, guide=True)]
    iterations += [Line("", conditions, counts[AID][0] * growth, guide=True)]
    accuracies = [Line(label, inverse, found, marked=True) for label, found in convex.items()]
    y, limits = "outer iterations", (1e-12, 2)
    figures = [
        picture("Iterations against the condition number", "kappa_x", y, iterations, instance, log="xy"),
        picture_of("Gap at equal oracle calls", tuned, GAP, CALLS, own, log="y", limits=limits),
        picture("Convex Phi", "1 / accuracy", y, accuracies, ridge, log="xy"),
    ]
    tables = [("What it cost, tuned", cost_table(tuned))]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


CLAIM = Claim(
    name="accbio-worstcase",
    title="Acceleration takes the root of the outer condition number",
    paper=references.ACCBIO,
    statement="AccBiO and AccBiO-BG need of the order of sqrt(kappa_x) outer iterations, against kappa_x "
    "without acceleration (abstract; algorithms and instance as we remember them, not the paper's word).",
    known={
        "inner and linear steps": "of the order of sqrt(kappa_y) times a logarithm (as we remember)",
        "outer step": "1/L_Phi, AccBiO-BG 1/(2 L_Phi) (as we remember)",
    },
    ours={
        "problem": "smoothness constants 1, mu_y = 0.2, mu_x from 0.1 to 1e-4; 200 entries, 800 at mu_x = "
        "1e-4 (size paper: twice); linear terms of the last unit vector; start at 0",
        "inner and linear steps": "34; AID-BiO 40 and 10; or searched, half as many linear ones in AID-BiO",
        "outer step": "the same, AID-BiO 1/L_Phi; at equal calls a searched multiple of it",
    },
    run=run,
)
