"""What the entries on PZOBO share: its official directions, HOZOG, and all that it is compared with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.linear import cg, richardson
from bilevel.response import first_order, implicit, unrolled, zeroth_order
from bilevel.types import Algorithm, Batch, Problem
from bilevel_claims.experiment import Experiment, Trajectory, even_points, trajectory
from bilevel_claims.figures import Line
from bilevel_claims.pzobo.hozog import hozog
from bilevel_claims.pzobo.laws import one_draw, unit_tensors
from bilevel_claims.search import tune
from bilevel_claims.types import Search

tree = optax.tree

DIRECT, CODE, ONE, HOZOG = "direct term only", "PZOBO, official code", "PZOBO, Q = 1", "HOZOG"
AID_FP, AID_CG, ITD = "AID-FP", "AID-CG", "ITD"
INNER_STEP = 1e-3


class Contest(NamedTuple):
    """All methods on one problem.

    Attributes:
      given: curves with the steps of the official code, at equal outer steps.
      searches, tuned: each method tuned at equal oracle calls, and its curve.
    """

    given: list[Trajectory]
    searches: list[Search]
    tuned: list[Trajectory]


def run_contest(
    problem: Problem,
    data: Batch,
    start: Callable,
    *,
    inner_steps: int,
    steps: int,
    smoothing: float,
    counts: Sequence[int],
    rates: Mapping[str, float],
    grid: Sequence[float],
    trials: Sequence[int],
    cg_steps: int | None = None,
) -> Contest:
    """Methods with inner steps of 0.001 and Adam outside, every inner solve from the first y.

    Args:
      problem, data, start: as in `Experiment`.
      inner_steps: of every inner solve.
      steps: outer steps.
      smoothing: length of the perturbations.
      counts: of the directions of PZOBO; the last is left out where all make equal oracle calls,
        for it would make only a few steps.
      rates: of Adam by method, and of all others under "".
      grid: rates to try at equal oracle calls, those of `steps` steps of AID-FP.
      trials: seeds of the search, many enough to see a step that diverges now and then.
      cg_steps: inner steps and steps of conjugate gradients of AID-CG where it has the code's settings.
    """
    common = {"smoothing": smoothing, "counts": counts}
    builds = contestants(problem, inner_steps, **common)
    plain = contestants(problem, inner_steps, **common, cg_steps=cg_steps, optimizer=optax.sgd)
    setting = Experiment(data=data, start=start, measure=lambda state, held: {}, held=data, seeds=range(5))

    def loss(length):
        solver = descend(problem, INNER_STEP, length)
        return lambda state, held: problem.outer(
            state.x, solver.solve(state.x, state.start, held), held.outer[0]
        )

    def along(label, build):
        length = cg_steps if cg_steps and label == AID_CG else inner_steps

        def measure(state, held):
            angle = cosine(state, held, build, plain[ITD])
            return {"f": loss(length)(state, held), "cosine": angle}

        made = contestants(problem, inner_steps, **common, cg_steps=cg_steps)[label]
        points = np.union1d(even_points(steps - 1, 33), [10, 50])
        return trajectory(label, made(rates.get(label, rates[""])), setting._replace(measure=measure), points)

    given = [along(label, build) for label, build in plain.items()]
    affordable = {label: build for label, build in builds.items() if label != named(counts[-1])}
    calls = builds[AID_FP](0.1).cost.total * steps
    fair = setting._replace(measure=lambda state, held: {"f": loss(inner_steps)(state, held)})
    axes = {"outer_optimizer": grid}
    return Contest(given, *tune(affordable, axes, fair, score="f", calls=calls, seeds=trials))


def contestants(
    problem: Problem,
    inner_steps: int,
    *,
    smoothing: float,
    counts: Sequence[int],
    cg_steps: int | None = None,
    optimizer: Callable[[Any], Any] = optax.adam,
) -> dict[str, Callable[..., Algorithm]]:
    """By label, `(outer_optimizer=step size) -> Algorithm`; arguments as in `run_contest`."""
    solver, cg_steps = descend(problem, INNER_STEP, inner_steps), cg_steps or inner_steps
    estimated = {
        named(count): zeroth_order(solver, count, smoothing=smoothing, law=one_draw) for count in counts
    }
    responses = {
        DIRECT: first_order(solver),
        CODE: zeroth_order(solver, 1, smoothing=smoothing, law=unit_tensors),
        ITD: unrolled(solver),
        AID_FP: implicit(problem, solver, richardson(inner_steps, INNER_STEP), warm=False),
        AID_CG: implicit(problem, descend(problem, INNER_STEP, cg_steps), cg(cg_steps), warm=False),
        **estimated,
    }

    def builder(response):
        return lambda outer_optimizer: nested(problem, response, optimizer(outer_optimizer), warm=False)

    def differences(outer_optimizer):
        rates = {"inner_optimizer": INNER_STEP, "outer_optimizer": optimizer(outer_optimizer)}
        return hozog(problem, **rates, inner_steps=inner_steps, smoothing=smoothing, warm=False)

    return {label: builder(response) for label, response in responses.items()} | {HOZOG: differences}


def named(count: int) -> str:
    """Label of PZOBO as it is written, with so many directions."""
    return f"PZOBO, Q = {count}"


def cosine(state: Any, data: Batch, *builds: Callable[..., Algorithm]) -> Any:
    """Between the directions of two methods at the x of a state, all their inner solves cold.

    Both must move x by plain descent: a direction is then what a step of size 1 takes off x.
    """
    key = jax.random.fold_in(jax.random.key(0), state.optimizer[0].count)

    def direction(build):
        algorithm = build(outer_optimizer=1.0)
        return tree.sub(state.x, algorithm.step(algorithm.init(state.x, state.start), data, key)[0].x)

    a, b = map(direction, builds)
    return tree.vdot(a, b) / (tree.norm(a) * tree.norm(b))


def line(run: Trajectory, x: Any, quantity: str) -> Line:
    """The curve of a run, each method in its own colour in all figures.

    The official code's is dashed, since that of the direct term lies below it.
    """
    places = {label: place for place, label in enumerate((DIRECT, ITD, AID_FP, AID_CG, ONE, HOZOG, CODE))}
    family = ONE if run.label not in places else run.label
    dash = 1 if run.label in (CODE, named(10)) else 2 if run.label not in places else 0
    return Line(run.label, x, run.values[quantity], colour=places[family], dash=dash)


def calls_shown(runs: Sequence[Trajectory]) -> list[int]:
    """A quarter, half and all of the calls that every method made."""
    last = min(int(run.calls[-1]) for run in runs)
    return [last // 4, last // 2, last]
