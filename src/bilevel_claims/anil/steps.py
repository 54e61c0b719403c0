"""ANIL with more and more inner steps, where the inner loss is strongly convex and where it is not."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.algorithms import anil
from bilevel.inner import descend
from bilevel.report.tables import Cell, Column, Table
from bilevel.response import unrolled
from bilevel.response.types import Response
from bilevel.sampling import full, minibatches
from bilevel.types import Problem, PyTree
from bilevel_claims import references
from bilevel_claims.experiment import Experiment, even_points, trajectory
from bilevel_claims.figures import Line, line_figure
from bilevel_claims.problems.characters import (
    CLASSES,
    INK,
    SHOTS,
    SIDE,
    hidden_layer,
    linear_layer,
    search_inner_step,
    splits,
)
from bilevel_claims.tables import cost_table
from bilevel_claims.types import Claim, Finding, Picture, at_least, at_most, shown

COUNTS, WIDTH, PENALTY, META_BATCH = (1, 3, 10), 64, 0.1, 8
RATES = (0.1, 0.3, 1.0, 3.0)
CONVEX, FREE = "head alone", "last two layers"
ERROR, LOSS = "error", "loss"
TOY_COUNTS = (1, 5, 10, 20, 40)


def logits_of(kind):
    """`(x, y, images) -> logits`: y is the last layer, or the last two."""

    def logits(x, y, images):
        features = hidden_layer(x["features"]["first"], images)
        features = hidden_layer((x["features"] if kind == CONVEX else y)["second"], features)
        return features @ y["last"]["weight"] + y["last"]["bias"]

    return logits


def start_of(kind):
    """`key -> (x, y)`, the same layers for both kinds."""

    def start(key):
        keys = jax.random.split(key, 3)
        first = {"first": linear_layer(keys[0], SIDE**2, WIDTH)}
        second = {"second": linear_layer(keys[1], WIDTH, WIDTH)}
        last = {"last": linear_layer(keys[2], WIDTH, CLASSES, 1.0)}
        features, head = (first | second, last) if kind == CONVEX else (first, second | last)
        return {"head": head, "features": features}, head

    return start


def classification(logits: Any, penalty: float = 0.0) -> Problem:
    """Return the cross-entropy of a task, inner on its first drawings, outer on the others.

    Args:
      logits: `(x, y, images) -> (..., 5)`.
      penalty: of |y|^2 / 2 in the inner loss.
    """

    def loss(x, y, images):
        chances = jax.nn.log_softmax(logits(x, y, images.astype(jnp.float32) / INK))
        return -jnp.mean(jnp.diagonal(chances, axis1=0, axis2=2))

    def inner(x, y, task):
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))
        return loss(x, y, task[:, :SHOTS]) + 0.5 * penalty * squares

    return Problem(lambda x, y, task: loss(x, y, task[:, SHOTS:]), inner)


def on_tasks(problem: Problem, response: Response, logits: Any, x: PyTree, tasks: Any) -> dict[str, Any]:
    """Return the query "loss" and "error", means over tasks that y was trained on."""

    def one(task):
        y, _ = response.respond(x, x, full(task, task), None)
        found = jnp.argmax(logits(x, y, task[:, SHOTS:].astype(jnp.float32) / INK), -1)
        return problem.outer(x, y, task), jnp.mean(found != jnp.arange(CLASSES)[:, None])

    losses, errors = jax.vmap(one)(tasks)
    return {"loss": losses.mean(), "error": errors.mean()}


def run(size: str) -> Finding:
    """Each N with its own searched inner step on validation characters, then asked about new ones."""
    steps, seeds, asked = (300, 3, 100) if size == "small" else (2000, 5, 600)
    drawn, valid, test = splits(steps * META_BATCH, asked)
    train = minibatches(drawn, None, batch_size=META_BATCH)
    searches, curves = [], []
    for kind in (CONVEX, FREE):
        for count in COUNTS:
            label, build = f"{kind}, N = {count}", partial(setting_of, kind, count)
            searches.append(search_inner_step(label, build, RATES, steps, train, valid))
            rate = searches[-1].best["inner_optimizer"]
            chosen = setting_of(kind, count, rate, train, test, range(seeds))
            curves.append(trajectory(label, *chosen, even_points(steps, 25)))
    return report(searches, curves, toy_decay())


def setting_of(kind, count, rate, data, held, seeds):
    """`(algorithm, setting)`; tasks are asked after the N steps that x was trained for."""
    logits = logits_of(kind)
    problem = classification(logits, PENALTY if kind == CONVEX else 0.0)
    solver = unrolled(descend(problem, rate, count), start=lambda x: x["head"])

    def measure(state, held):
        return on_tasks(problem, solver, logits, state.x, held)

    outer: Any = optax.adam(1e-3)
    algorithm = anil(problem, inner_optimizer=rate, outer_optimizer=outer, inner_steps=count)
    return algorithm, Experiment(data=data, start=start_of(kind), measure=measure, held=held, seeds=seeds)


def toy_decay():
    """`(norms of d/dw, (1 - alpha mu)^N)` on a made-up strongly convex inner loss, by `TOY_COUNTS`."""
    rng, alpha = np.random.default_rng(1), 0.2
    A, B, c = rng.uniform(0.5, 1.5, 4), rng.normal(size=(3, 4)), rng.normal(size=4)
    D, w, p = (jnp.asarray(rng.normal(size=shape), float) for shape in ((3, 4), 4, 3))

    def inner(x, y, batch):
        return 0.5 * jnp.sum(A * y**2) + 0.025 * jnp.sum(y**4) + jnp.sin(x["features"]) @ (B @ y)

    def outer(x, y, batch):
        return 0.5 * jnp.sum((y - c) ** 2) + x["features"] @ (D @ y) + 0.5 * jnp.sum(x["features"] ** 2)

    x, norms = {"head": w, "features": p}, []
    for count in TOY_COUNTS:
        algorithm = anil(Problem(outer, inner), inner_optimizer=alpha, outer_optimizer=1.0, inner_steps=count)
        state, _ = jax.jit(algorithm.step)(algorithm.init(x, w), full(None, None), None)
        norms.append(float(jnp.linalg.norm(w - state.x["head"])))
    return np.array(norms), (1 - alpha * A.min()) ** np.array(TOY_COUNTS)


def report(searches, curves, decay) -> Finding:
    """Numbers, words and figures."""
    count = len(COUNTS)
    finals = [run.last(ERROR) for run in curves]
    ends = {CONVEX: finals[:count], FREE: finals[count:]}
    tried = np.array([search.scores for search in searches]).reshape(2, count, len(RATES))
    budget = int(min(run.calls[-1] for run in curves))
    at_equal_calls = [float(np.interp(budget, run.calls, np.median(run.values[ERROR], 0))) for run in curves]
    norms, bound = decay
    small, large = (tried[:, -1, i] / tried[:, 0, i] for i in map(RATES.index, (0.1, 1.0)))
    numbers = {
        "head alone: error after equal outer steps, N = 10 over N = 1": at_most(
            ends[CONVEX][-1] / ends[CONVEX][0], 1
        ),
        "last two layers: error after equal outer steps, N = 10 over N = 1": at_least(
            ends[FREE][-1] / ends[FREE][0], 1
        ),
        "toy: |d/dw| over (1 - alpha mu)^N, greatest over that at N = 1": at_most(
            (norms / bound).max() / (norms[0] / bound[0]), 1.01
        ),
        "head alone, alpha = 0.1 for all: error, N = 10 over N = 1": shown(small[0]),
        "last two layers, alpha = 0.1 for all: error, N = 10 over N = 1": shown(small[1]),
        "head alone, alpha = 1 for all: error, N = 10 over N = 1": shown(large[0]),
        "last two layers, alpha = 1 for all: error, N = 10 over N = 1": shown(large[1]),
        "head alone: error after equal oracle calls, N = 10 over N = 1": shown(
            at_equal_calls[count - 1] / at_equal_calls[0]
        ),
        "last two layers: error after equal oracle calls, N = 10 over N = 1": shown(
            at_equal_calls[-1] / at_equal_calls[count]
        ),
    }
    alone, both = (percents(ends[kind]) for kind in (CONVEX, FREE))
    alone_calls, both_calls = percents(at_equal_calls[:count]), percents(at_equal_calls[count:])
    trend = "slower" if ends[FREE][-1] >= ends[FREE][0] else "faster"
    price = curves[count - 1].cost.total / curves[0].cost.total
    words = (
        f"After {curves[0].steps[-1]:,} outer steps with the inner step searched for each, the error on new "
        f"characters is {alone} for N = 1, 3 and 10 when the head alone adapts (a strongly convex inner "
        f"loss) and {both} when the last two layers do. At alpha = 0.1 for all N the error with N = 10 is "
        f"{small[0]:.2f} and {small[1]:.2f} times that with N = 1, at alpha = 1 {large[0]:.2f} and "
        f"{large[1]:.2f} times. A step with N = 10 costs {price:.1f} times one with N = 1: after equal "
        f"oracle calls ({budget:,} a task) the errors are {alone_calls}, and {both_calls}. So more inner "
        f"steps make the two layers {trend} a step here: with N = 10 they end at "
        f"{ends[FREE][-1] / ends[FREE][0]:.2f} times the error of N = 1, the head alone at "
        f"{ends[CONVEX][-1] / ends[CONVEX][0]:.2f} times. On a strongly convex toy the gradient of the head "
        f"goes from {norms[0]:.2f} at N = 1 to {norms[-1]:.4f} at N = {TOY_COUNTS[-1]}."
    )

    def drawn(axis):
        return [
            Line(run.label, axis(run), run.values[ERROR], colour=i % count, dash=i // count)
            for i, run in enumerate(curves)
        ]

    figures = [
        Picture(
            "Error by outer steps",
            line_figure(
                "New characters, 5-way 5-shot",
                "outer steps",
                "error",
                drawn(lambda r: r.steps),
                log="",
                height=4.2,
            ),
            "Solid: the head alone adapts; dashed: the last two layers. Each with its own inner step.",
        ),
        Picture(
            "Error by oracle calls",
            line_figure(
                "The same, by what it costs",
                "oracle calls a task",
                "error",
                drawn(lambda r: r.calls),
                log="x",
                height=4.2,
            ),
            "Gradients, Hessian and cross products count one each.",
        ),
        Picture(
            "Error by inner step",
            line_figure(
                "The search: validation characters",
                "inner step alpha",
                "error",
                [
                    Line(search.method, RATES, search.scores, colour=i % count, dash=i // count, marked=True)
                    for i, search in enumerate(searches)
                ],
                log="x",
                height=4.2,
            ),
            "After all outer steps, with one seed that the other figures do not show.",
        ),
        Picture(
            "Gradient of the head",
            line_figure(
                "Strongly convex toy: gradient of the head",
                "inner steps N",
                "|d/dw|",
                [
                    Line("measured", TOY_COUNTS, norms, marked=True),
                    Line("(1 - alpha mu)^N", TOY_COUNTS, bound * norms[0] / bound[0], guide=True),
                ],
                log="y",
            ),
            "The dashed line starts at the first point.",
        ),
    ]
    columns = [Column("method", numeric=False), Column("alpha"), Column("error"), Column("query loss")]
    columns += [Column("error after equal calls")]
    rows = [
        [
            Cell(run.label),
            *map(Cell.of, (search.best["inner_optimizer"], run.last(ERROR), run.last(LOSS), equal)),
        ]
        for run, search, equal in zip(curves, searches, at_equal_calls, strict=True)
    ]
    tables = [("New characters", Table(columns, rows)), ("What it cost, a task", cost_table(curves))]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


def percents(errors):
    """Errors in words."""
    return ", ".join(f"{100 * error:.1f} %" for error in errors)


CLAIM = Claim(
    name="anil-steps",
    title="ANIL with more inner steps: faster if convex, slower if not",
    paper=references.ANIL,
    statement="ANIL converges faster with more inner steps N where the inner loss is strongly convex, and "
    "slower where it is not (abstract). What the paper's figures plot we do not know.",
    known={
        "tasks": "FC100 and miniImageNet, 5-way 5-shot (as we remember)",
        "network": "four convolutions (as we remember)",
        "strongly convex": "only the last layer adapts, with an l2 term (as we remember)",
        "not convex": "the last two layers adapt (as we remember)",
        "N, inner and outer steps": "not known",
    },
    ours={
        "tasks": "Omniglot at 14x14, 5-way 5-shot, 5 queries a class; trained on 864 background characters, "
        "inner step chosen on the other 100, asked on the evaluation alphabets; 100 tasks (size paper: 600). "
        "Data: omniglot.npz in BILEVEL_DATA",
        "network": "196-64-64, each layer linear, layer norm, rectifier; then 64-5",
        "strongly convex": "the same, 0.1 |y|^2 / 2",
        "not convex": "the same, without a penalty",
        "N, inner and outer steps": "N = 1, 3, 10; inner step searched for each; 300 outer steps (size "
        "paper: 2,000) of Adam 1e-3 over 8 tasks",
        "seeds": "3 (size paper: 5), and another for the search",
        "thresholds": "error with N = 10 at most that with N = 1 for the head, at least that for two layers",
    },
    run=run,
    float64=False,
)
