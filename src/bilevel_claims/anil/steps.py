"""Entry anil-steps: ANIL by the number of inner steps, with and without strong convexity."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.algorithms import anil
from bilevel.inner import descend
from bilevel.response import unrolled
from bilevel.sampling import full, minibatches
from bilevel.types import Problem
from bilevel_claims import references
from bilevel_claims.experiment import CALLS, STEPS, Experiment, even_points, trajectory
from bilevel_claims.figures import Line, picture, picture_of
from bilevel_claims.problems import characters
from bilevel_claims.problems.characters import SHOTS, embed, head_error, head_loss, linear_layer
from bilevel_claims.tables import cost_table, table
from bilevel_claims.types import Claim, Finding, at_least, at_most, cited, shown

COUNTS, WIDTH, PENALTY, META_BATCH, RATES = (1, 3, 10), 64, 0.1, 8, (0.1, 0.3, 1.0, 3.0)
CONVEX, FREE, ERROR, LOSS = "head alone", "last two layers", "error", "loss"
TOY_COUNTS = (1, 5, 10, 20, 40)


def run(size: str) -> Finding:
    """Run each N with its own inner step, searched on validation characters."""
    steps, seeds, count = (300, 3, 100) if size == "small" else (2000, 5, 600)
    drawn, valid, test = characters.splits(steps * META_BATCH, count)
    train = minibatches(drawn, None, batch_size=META_BATCH)
    searches, runs = [], []
    for kind in (CONVEX, FREE):
        for inner_steps in COUNTS:
            label, build = f"{kind}, N = {inner_steps}", partial(_experiment, kind, inner_steps)
            searches.append(characters.search_inner_step(label, build, RATES, steps, train, valid))
            found = build(searches[-1].best["inner_optimizer"], train, test, range(seeds))
            runs.append(trajectory(label, *found, even_points(steps, 25)))
    return report(searches, runs, *toy_decay())


def _experiment(kind, inner_steps, rate, data, held, seeds):
    """Return ANIL and its experiment; y is the last layer, or the last two."""
    penalty = PENALTY if kind == CONVEX else 0.0

    def outer(x, y, task):
        return head_loss(embed(x["features"] | y, task[:, SHOTS:]), y["last"])

    def inner(x, y, task):
        return head_loss(embed(x["features"] | y, task[:, :SHOTS]), y["last"], penalty)

    def start(key):
        keys = jax.random.split(key, 3)
        features = {"first": linear_layer(keys[0], characters.SIDE**2, WIDTH)}
        head = {"last": linear_layer(keys[2], WIDTH, characters.CLASSES, 1.0)}
        (features if kind == CONVEX else head)["second"] = linear_layer(keys[1], WIDTH, WIDTH)
        return {"head": head, "features": features}, head

    def measure(state, held):
        x = state.x

        def one(task):
            y, _ = solver.respond(x, x, full(task, task), None)
            return outer(x, y, task), head_error(embed(x["features"] | y, task[:, SHOTS:]), y["last"])

        losses, errors = jax.vmap(one)(held)
        return {LOSS: losses.mean(), ERROR: errors.mean()}

    problem, adam = Problem(outer, inner), optax.adam(1e-3)
    solver = unrolled(descend(problem, rate, inner_steps), start=lambda x: x["head"])
    algorithm = anil(problem, inner_optimizer=rate, outer_optimizer=adam, inner_steps=inner_steps)
    return algorithm, Experiment(data, start, measure, held=held, seeds=seeds)


def toy_decay() -> tuple[np.ndarray, np.ndarray]:
    """Return |d/dw| and (1 - alpha mu)^N by `TOY_COUNTS` on our strongly convex inner loss."""
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


def report(searches: list, runs: list, norms: np.ndarray, bound: np.ndarray) -> Finding:
    """Return the finding from searches, runs and the toy."""

    def longer(errors):
        # N = 10 over N = 1 by kind.
        by_count = np.reshape(errors, (2, len(COUNTS)))
        return dict(zip((CONVEX, FREE), by_count[:, -1] / by_count[:, 0], strict=True))

    finals, calls = [run.last(ERROR) for run in runs], int(min(run.calls[-1] for run in runs))
    equal = [float(np.interp(calls, run.calls, run.median(ERROR))) for run in runs]
    more, fair, times = longer(finals), longer(equal), "error, N = 10 over N = 1"
    decay, scores = (norms / bound).max() / (norms[0] / bound[0]), np.array([s.scores for s in searches]).T
    ratios = {f"alpha = {rate:g} for all": longer(scores[RATES.index(rate)]) for rate in (0.1, 1.0)}
    ratios["after equal oracle calls"] = fair
    numbers = {
        f"{CONVEX}, after equal outer steps: {times}": at_most(more[CONVEX], 1),
        f"{FREE}, after equal outer steps: {times}": at_least(more[FREE], 1),
        "toy: greatest |d/dw| over (1 - alpha mu)^N, relative to N = 1": at_most(decay, 1.01),
    }
    for name, values in ratios.items():
        numbers |= {f"{kind}, {name}: {times}": shown(value) for kind, value in values.items()}
    words = (
        f"After {runs[0].steps[-1]:,} outer steps, each N with its best inner step, the error on new "
        f"characters with N = 10 is {more[CONVEX]:.2f} times that with N = 1 when the head alone adapts (a "
        f"strongly convex inner loss) and {more[FREE]:.2f} times when the last two layers do; after "
        f"{calls:,} oracle calls {fair[CONVEX]:.2f} and {fair[FREE]:.2f} times. On a strongly convex toy the "
        f"gradient of the head goes from {norms[0]:.2f} (N = 1) to {norms[-1]:.4f} (N = 40)."
    )
    measured = Line("measured", TOY_COUNTS, norms, marked=True)
    guide = Line("(1 - alpha mu)^N", TOY_COUNTS, bound * norms[0] / bound[0], guide=True)
    styles = {run.label: {"colour": i % len(COUNTS), "dash": i // len(COUNTS)} for i, run in enumerate(runs)}
    looks: Any = {"styles": styles, "heading": "New characters, 5-way 5-shot", "height": 4.2}
    solid = "Solid: the head alone adapts; dashed: the last two layers. Each with its own inner step."
    each = "Gradients, Hessian and cross products of a task count one each."
    begin = "Strongly convex toy."
    figures = [
        picture_of("Error by outer steps", runs, ERROR, STEPS, solid, log="", **looks),
        picture_of("Error by oracle calls", runs, ERROR, CALLS, each, log="x", **looks),
        picture("Gradient of the head", "inner steps N", "|d/dw|", [measured, guide], begin, log="y"),
    ]
    alphas = [search.best["inner_optimizer"] for search in searches]
    ends = [(run.last(ERROR), run.last(LOSS)) for run in runs]
    rows = [[run.label, a, *end, e] for run, a, end, e in zip(runs, alphas, ends, equal, strict=True)]
    titles = ["method", "alpha", "error", "query loss", "error after equal calls"]
    tables = [("New characters", table(titles, rows)), ("What it cost, a task", cost_table(runs))]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


KNOWN = {
    "tasks": "FC100 and miniImageNet, 5-way 5-shot",
    "network": "four convolutions",
    "adapted": "the last layer with an l2 term, strongly convex; the last two, not convex",
}
CLAIM = Claim(
    name="anil-steps",
    title="ANIL with more inner steps: faster if convex, slower if not",
    paper=references.ANIL,
    statement="ANIL converges faster with more inner steps N where the inner loss is strongly convex, and "
    "slower where it is not (abstract). What the paper's figures plot is not known to us.",
    known=cited("from memory", KNOWN),
    ours={
        "tasks": "Omniglot at 14x14: 864 background characters, inner step from 100 others; error on 100 "
        "tasks of the evaluation alphabets (size paper: 600). Data: omniglot.npz in BILEVEL_DATA",
        "network": "196-64-64, each layer linear, layer norm, rectifier; then 64-5",
        "adapted": "the same; 0.1 |y|^2 / 2 for the last layer alone",
        "steps": "inner searched for each N; 300 outer (size paper: 2,000) of Adam 1e-3 over 8 tasks",
        "seeds": "3 (size paper: 5), and another for the search",
    },
    run=run,
    float64=False,
)
