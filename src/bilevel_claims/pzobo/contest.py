"""Methods of the PZOBO entries, and a contest of all of them on one problem."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.combinators import nested
from bilevel.inner import InnerSolver, descend
from bilevel.linear import cg, richardson
from bilevel.many_tasks import nested_over_tasks
from bilevel.response import first_order, implicit, unrolled, zeroth_order
from bilevel.sampling import full
from bilevel.types import Batch, Problem
from bilevel_claims.experiment import CALLS, STEPS, Experiment, Trajectory, ends, even_points, trajectory
from bilevel_claims.figures import picture_of
from bilevel_claims.pzobo.hozog import hozog
from bilevel_claims.pzobo.laws import one_draw, unit_tensors
from bilevel_claims.search import tune
from bilevel_claims.tables import cost_table, value_table
from bilevel_claims.types import Finding, Search, at_most, cited, shown

tree = optax.tree

DIRECT, CODE, ONE, HOZOG = "direct term only", "PZOBO, official code", "PZOBO, Q = 1", "HOZOG"
AID_FP, AID_CG, ITD, AID = "AID-FP", "AID-CG", "ITD", "the better AID"
INNER_STEP = 1e-3


def named(count: int) -> str:
    """Return the label of PZOBO with `count` standard normal directions."""
    return f"PZOBO, Q = {count}"


# One colour a method in all figures. The official code is dashed, since the direct term may lie below it.
_LABELS = (DIRECT, ITD, AID_FP, AID_CG, ONE, HOZOG, CODE)
STYLES = {label: {"colour": i, "dash": int(label == CODE)} for i, label in enumerate(_LABELS)}
STYLES |= {named(count): {"colour": 4, "dash": dash} for count, dash in ((10, 1), (20, 2), (50, 2))}

KNOWN = cited("official code", {"directions": "Q = 1, each tensor scaled to length 1, no factor p"})
OURS = {
    "directions": "the same: for a tensor of p entries 1/p of the indirect term in the mean; and normal ones",
    "baseline": "the direct term f_x alone, which the code does not show",
}


def representation(
    sizes: Sequence[int], rows: int, penalty: float, targets: Callable, predict: Callable
) -> tuple[Problem, Batch, Callable]:
    """Return problem, data and start of layers x before a linear model y, as in the official code.

    The sizes are those of the inputs and each layer; |y|^2 has the factor `penalty` in the inner loss.
    `targets` and `predict` are `(layers, y, table) -> (rows,)`, in NumPy for the data, and in JAX.
    """
    rng, shapes = np.random.default_rng(0), [*pairwise(sizes), (sizes[-1],)]
    *layers, head = (rng.normal(size=shape) for shape in shapes)
    tables = [rng.normal(size=(rows, sizes[0])) for _ in range(2)]
    parts = [(table, targets(layers, head, table) + 0.1 * rng.normal(size=rows)) for table in tables]
    train, valid = jax.tree.map(jnp.asarray, parts)

    def outer(x, y, batch):
        return 0.5 * jnp.mean((predict(x, y, batch[0]) - batch[1]) ** 2)

    def inner(x, y, batch):
        return outer(x, y, batch) + penalty * jnp.sum(y**2)

    def start(key):
        # One x and one start of y for all seeds, as in the official code: a seed draws the directions.
        keys = jax.random.split(jax.random.key(0), len(shapes))
        *x, y = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
        return x, y

    return Problem(outer, inner), full(valid, train), start


def run_contest(
    problem: Problem,
    data: Batch,
    start: Callable,
    *,
    inner_steps: int,
    cg_steps: int,
    steps: int,
    smoothing: float,
    counts: Sequence[int],
    rates: Mapping[str, float],
    grid: Sequence[float],
    trials: Sequence[int],
) -> tuple[list[Trajectory], list[Search], list[Trajectory]]:
    """Return runs with given steps, searches and tuned runs, with Adam and inner steps of 0.001.

    All measure "f" after an inner solve from the first y; given runs the "cosine" with ITD's step, too.

    Args:
      problem, data, start: from `representation`.
      inner_steps, cg_steps: of every inner solve; in given runs of AID-CG `cg_steps`, and as many of CG.
      steps: outer steps of given runs; tuned runs make the oracle calls of AID-FP in them.
      smoothing, counts: length of the perturbations; directions of PZOBO, the last for given runs only.
      rates, grid: given steps of Adam by method, of all others under ""; those to search.
      trials: seeds of the search, enough of them to meet steps that diverge only now and then.
    """
    methods = partial(_methods, problem, inner_steps, smoothing, counts)
    plain, builds = methods(optax.sgd, cg_steps), methods(optax.adam, inner_steps)
    points = np.union1d(even_points(steps - 1, 33), [10, 50])

    def loss(state, held, length):
        y = descend(problem, INNER_STEP, length).solve(state.x, state.start, held)
        return problem.outer(state.x, y, held.outer[0])

    def along(label, build):
        def direction(state, held, method):
            # Plain descent: the direction is what a step of size 1 takes off x.
            key = jax.random.fold_in(jax.random.key(0), state.optimizer[0].count)
            algorithm = method(outer_optimizer=1.0)
            return tree.sub(state.x, algorithm.step(algorithm.init(state.x, state.start), held, key)[0].x)

        def measure(state, held):
            a, b = (direction(state, held, plain[name]) for name in (label, ITD))
            cosine = tree.vdot(a, b) / (tree.norm(a) * tree.norm(b))
            return {"f": loss(state, held, cg_steps if label == AID_CG else inner_steps), "cosine": cosine}

        experiment = Experiment(data, start, measure, held=data, seeds=range(5))
        return trajectory(label, build(rates.get(label, rates[""])), experiment, points)

    def measure(state, held):
        return {"f": loss(state, held, inner_steps)}

    given = [along(label, build) for label, build in methods(optax.adam, cg_steps).items()]
    del builds[named(counts[-1])]
    calls, axes = builds[AID_FP](0.1).cost.total * steps, {"outer_optimizer": grid}
    experiment = Experiment(data, start, measure, held=data, seeds=range(5))
    return given, *tune(builds, axes, experiment, score="f", calls=calls, seeds=trials)


def report(
    problem: str, aid: str, limits: Mapping[str, float], more: Mapping, runs: tuple, without: tuple = ((), ())
) -> Finding:
    """Return the finding of a contest on a named problem.

    Args:
      aid: the AID to name (may be `AID`).
      limits: greatest ratio of the last f of the official PZOBO to the last f of each method.
      more, without: further numbers; methods that the two figures leave out.
      runs: from `run_contest`.
    """
    given, searches, tuned = runs
    end, best = (ends(runs, "f") for runs in (given, tuned))
    for found in (end, best):
        found[AID] = min(found[AID_FP], found[AID_CG])
    means = {run.label: run.values["cosine"].mean() for run in given}
    code, paper = "the code's settings: last f, official PZOBO", "tuned, equal calls: last f, PZOBO, Q = 1,"
    numbers = {
        **{f"{code} over {label}": at_most(end[CODE] / end[label], limit) for label, limit in limits.items()},
        **{f"{paper} over {label}": at_most(best[ONE] / best[label], 1) for label in (HOZOG, aid)},
        **more,
        **{f"cosine with ITD's gradient, {label}": shown(means[label]) for label in (DIRECT, CODE, ONE)},
    }
    words = (
        f"With the official code's settings f ends at {end[CODE]:.3g} with its PZOBO, {end[DIRECT]:.3g} with "
        f"the direct term alone, {end[aid]:.3g} with {aid} and {end[HOZOG]:.3g} with HOZOG. Tuned, at equal "
        f"calls, PZOBO as in the paper (Q = 1) ends at {best[ONE]:.3g}, the code's at {best[CODE]:.3g}, the "
        f"direct term at {best[DIRECT]:.3g}, {aid} at {best[aid]:.3g} and HOZOG at {best[HOZOG]:.3g}."
    )
    path = "Outer loss after the inner steps, along the path, with the code's steps of Adam; five seeds."
    own = "Each method with its best step of Adam, chosen with other draws of the directions; five seeds."
    title, other = "The official curve and its direct term", "All tuned at equal oracle calls"
    looks: Any = {"y": "outer loss f", "styles": STYLES, "log": "y"}
    few = [run for run in given if run.label not in without[0]]
    fewer = [run for run in tuned if run.label not in without[1]]
    figures = [
        picture_of(title, few, "f", STEPS, path, heading=f"{problem}, the code's settings", **looks),
        picture_of(other, fewer, "f", CALLS, own, heading=f"{problem}, each tuned", **looks),
    ]
    steps, calls = int(given[0].steps[-1]), min(int(run.calls[-1]) for run in tuned)
    by_calls = value_table(tuned, "f", [calls // 4, calls // 2, calls], CALLS)
    tables = [
        ("f by outer steps, the code's settings", value_table(given, "f", [0, 10, 50, steps], STEPS)),
        ("f by oracle calls, tuned", by_calls),
        ("What it cost, the code's settings", cost_table(given)),
    ]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


def _methods(problem, inner_steps, smoothing, counts, optimizer, cg_steps) -> dict[str, Callable]:
    solver = descend(problem, INNER_STEP, inner_steps)

    def estimated(count, law):
        return zeroth_order(solver, count, smoothing=smoothing, law=law)

    responses = {
        DIRECT: first_order(solver),
        CODE: estimated(1, unit_tensors),
        ITD: unrolled(solver),
        AID_FP: implicit(problem, solver, richardson(inner_steps, INNER_STEP), warm=False),
        AID_CG: implicit(problem, descend(problem, INNER_STEP, cg_steps), cg(cg_steps), warm=False),
        **{named(count): estimated(count, one_draw) for count in counts},
    }

    def builder(response):
        return lambda outer_optimizer: nested(problem, response, optimizer(outer_optimizer), warm=False)

    def differences(outer_optimizer):
        rates = {"inner_optimizer": INNER_STEP, "outer_optimizer": optimizer(outer_optimizer)}
        return hozog(problem, **rates, inner_steps=inner_steps, smoothing=smoothing, warm=False)

    return {label: builder(response) for label, response in responses.items()} | {HOZOG: differences}


def over_tasks(problem: Problem, solver: InnerSolver, labels: Sequence[str]) -> dict[str, Callable]:
    """Return `optimizer -> Algorithm` by label, where y has one head a task."""
    responses = {
        DIRECT: first_order(solver),
        CODE: zeroth_order(solver, 1, smoothing=0.1, law=unit_tensors),
        # Normal directions are as long as the root of the parameters: 0.1 would move x by its own length.
        ONE: zeroth_order(solver, 1, smoothing=0.01, law=one_draw),
        named(10): zeroth_order(solver, 10, smoothing=0.01, law=one_draw),
        ITD: unrolled(solver),
        AID_CG: implicit(problem, solver, cg(10), warm=False),
    }
    return {label: partial(nested_over_tasks, problem, responses[label], name=label) for label in labels}
