"""What the entries on PZOBO share: its official directions, HOZOG, and all that it is compared with."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.combinators import NestedState, move, nested
from bilevel.hypergradient import as_variables, measures
from bilevel.inner import as_optimizer, descend
from bilevel.linear import cg, richardson
from bilevel.response import first_order, implicit, unrolled, zeroth_order
from bilevel.types import Algorithm, Batch, Cost, Draws, Problem, PyTree
from bilevel_claims.curves import Curve, Setting, curve, even_points
from bilevel_claims.figures import Line
from bilevel_claims.search import tune
from bilevel_claims.types import Search

tree = optax.tree

DIRECT, CODE, ONE, HOZOG = "direct term only", "PZOBO, official code", "PZOBO, Q = 1", "HOZOG"
AID_FP, AID_CG, ITD = "AID-FP", "AID-CG", "ITD"
INNER_STEP = 1e-3


class Comparison(NamedTuple):
    """All methods on one problem.

    Attributes:
      given: curves with the steps of the official code, at equal outer steps.
      searches, tuned: each method tuned at equal oracle calls, and its curve.
    """

    given: list[Curve]
    searches: list[Search]
    tuned: list[Curve]


def compare(
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
) -> Comparison:
    """Methods with inner steps of 0.001 and Adam outside, every inner solve from the first y.

    Args:
      problem, data, start: as in `Setting`.
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
    setting = Setting(data, start, lambda state, held: {}, data, seeds=range(5))

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
        return curve(label, made(rates.get(label, rates[""])), setting._replace(measure=measure), points)

    given = [along(label, build) for label, build in plain.items()]
    affordable = {label: build for label, build in builds.items() if label != named(counts[-1])}
    calls = builds[AID_FP](0.1).cost.total * steps
    fair = setting._replace(measure=lambda state, held: {"f": loss(inner_steps)(state, held)})
    axes = {"outer_optimizer": grid}
    return Comparison(given, *tune(affordable, axes, fair, score="f", calls=calls, seeds=trials))


def contestants(
    problem: Problem,
    inner_steps: int,
    *,
    smoothing: float,
    counts: Sequence[int],
    cg_steps: int | None = None,
    optimizer: Callable[[Any], Any] = optax.adam,
) -> dict[str, Callable[..., Algorithm]]:
    """By label, `(outer_optimizer=step size) -> Algorithm`; arguments as of `compare`."""
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


def line(run: Curve, x: Any, quantity: str) -> Line:
    """The curve of a run, each method in its own colour in all figures.

    The official code's is dashed, since that of the direct term lies below it.
    """
    places = {label: place for place, label in enumerate((DIRECT, ITD, AID_FP, AID_CG, ONE, HOZOG, CODE))}
    family = ONE if run.label not in places else run.label
    dash = 1 if run.label in (CODE, named(10)) else 2 if run.label not in places else 0
    return Line(run.label, x, run.values[quantity], colour=places[family], dash=dash)


def one_draw(key: Any, x: PyTree, count: int) -> PyTree:
    """The law of `gaussian`, drawn at once for all tensors of one type: it compiles much faster."""
    leaves, structure = jax.tree.flatten(x)
    draw = jax.random.normal(key, (count, sum(leaf.size for leaf in leaves)), leaves[0].dtype)
    parts = jnp.split(draw, np.cumsum([leaf.size for leaf in leaves])[:-1], axis=1)
    shaped = [part.reshape(count, *leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


def unit_tensors(key: Any, x: PyTree, count: int) -> PyTree:
    """Normal directions, each tensor of x scaled to length 1, as in the official code of PZOBO.

    With p entries in a tensor the mean of the estimate is 1/p of the indirect term there.
    """

    def unit(u):
        return jax.tree.map(lambda leaf: leaf / jnp.linalg.norm(leaf.ravel()), u)

    return jax.vmap(unit)(one_draw(key, x, count))


def hozog(
    problem: Problem,
    *,
    inner_optimizer=0.1,
    outer_optimizer=0.1,
    inner_steps: int = 10,
    directions: int = 1,
    smoothing: float = 0.01,
    warm: bool = True,
) -> Algorithm:
    """The whole hypergradient from differences of the outer loss after training.

        F(x) = f(x, y^N(x));   h = (1/Q) sum_j (F(x + smoothing u_j) - F(x)) / smoothing  u_j

    Arguments as of `pzobo`; all values of a step are taken on the same minibatches.

    Cost per step: (Q + 1) (N + 1) gradients, a value of f counted as one.

    Reference: following Gu et al., Optimizing Large-Scale Hyperparameters via Automated Learning
    Algorithm, 2021, arXiv:2102.09026.
    """
    solver, optimizer = descend(problem, inner_optimizer, inner_steps), as_optimizer(outer_optimizer)

    def init(x, y):
        x, y = as_variables(x, y)
        return NestedState(x, y, (), optimizer.init(x), () if warm else y)

    def step(state, batch, key):
        def trained(x):
            y = solver.solve(x, state.y if warm else state.start, batch)
            return problem.outer(x, y, batch.outer[0]), y

        value, y = trained(state.x)
        along = one_draw(key, state.x, directions)
        moved = jax.vmap(lambda u: trained(tree.add_scale(state.x, smoothing, u))[0])(along)
        slopes = (moved - value) / smoothing
        gradient = jax.tree.map(lambda u: jnp.tensordot(slopes, u, axes=1) / directions, along)
        metrics = measures(problem, state.x, y, batch, solver.draws - 1, gradient, 0.0)
        x, optimizer_state = move(optimizer, gradient, state.optimizer, state.x)
        return NestedState(x, y, (), optimizer_state, state.start), metrics

    cost = solver.cost.plus(Cost(gradients=1)).times(directions + 1)
    return Algorithm(init, step, Draws(1, solver.draws), cost, "hozog")


def calls_shown(runs: Sequence[Curve]) -> list[int]:
    """A quarter, half and all of the calls that every method made."""
    last = min(int(run.calls[-1]) for run in runs)
    return [last // 4, last // 2, last]
