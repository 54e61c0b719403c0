"""Entry pzobo-mnist: PZOBO-S on the features of a LeNet."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.algorithms import itd_bio, pzobo_s
from bilevel.combinators import nested
from bilevel.datasets import load
from bilevel.inner import descend
from bilevel.response import first_order
from bilevel.sampling import Stacked, minibatches
from bilevel.types import Batch, Problem
from bilevel_claims import references
from bilevel_claims.experiment import CALLS, STEPS, Experiment, ends
from bilevel_claims.figures import picture_of
from bilevel_claims.problems.image_tasks import percent
from bilevel_claims.pzobo.contest import CODE, DIRECT, HOZOG, ITD, KNOWN, ONE, OURS, STYLES, named
from bilevel_claims.pzobo.hozog import hozog
from bilevel_claims.pzobo.laws import one_draw, unit_tensors
from bilevel_claims.search import late, tune
from bilevel_claims.tables import cost_table, value_table
from bilevel_claims.types import Claim, Finding, at_least, at_most, cited, shown

AXES = {"outer_optimizer": (1e-3, 3e-3, 1e-2, 3e-2)}
INNER_STEPS, INNER_RATE, ERROR, LOSS = 10, 1e-3, "test error", "outer loss"


def run(size: str) -> Finding:
    """Run each method at the best step of Adam, found with other seeds by the outer loss."""
    small = size == "small"
    steps, batch_size, seeds = (200, 32, range(3)) if small else (1000, 256, range(5))
    problem, start = _lenet(small)
    data, held = _digits(batch_size, small)
    solver = descend(problem, optax.adam(INNER_RATE), INNER_STEPS)

    def measure(state, held):
        again, outer, (images, labels) = held
        # x has moved since y was trained: ten more steps, on the same minibatches for all.
        y = solver.solve(state.x, state.y, again)
        hit = jnp.argmax(_features(state.x, images, small) @ y["weight"] + y["bias"], 1) == labels
        return {LOSS: problem.outer(state.x, y, outer), ERROR: 1 - jnp.mean(hit)}

    experiment = Experiment(data, start, measure, held=held, seeds=seeds)
    made = _methods(problem, solver, small)
    # Trials have the whole length: short ones choose steps that are too large later.
    found = tune(made, AXES, experiment, score=late(LOSS), steps=steps, seeds=(100, 101), points=20, shown=20)
    return report(*found)


def _methods(problem, solver, small):
    """Return `(outer_optimizer=step of Adam) -> Algorithm` by label, all with a warm y."""
    adam = optax.adam

    def built(factory, eps_root=0.0, **options):
        options |= {"inner_optimizer": adam(INNER_RATE, eps_root=eps_root), "inner_steps": INNER_STEPS}
        return lambda outer_optimizer: factory(problem, outer_optimizer=adam(outer_optimizer), **options)

    return {
        DIRECT: lambda outer_optimizer: nested(problem, first_order(solver), adam(outer_optimizer)),
        CODE: built(pzobo_s, directions=1, law=unit_tensors),
        ONE: built(pzobo_s, directions=1, law=one_draw),
        **({} if small else {named(10): built(pzobo_s, directions=10, law=one_draw)}),
        HOZOG: built(hozog),
        # The square root in Adam has no derivative at 0, where a dead unit puts it.
        ITD: built(itd_bio, eps_root=1e-8),
    }


def _digits(batch_size: int, small: bool):
    mnist = load("mnist")

    def part(images, labels):
        padded = images if small else np.pad(images, ((0, 0), (2, 2), (2, 2)))
        return ((padded - 0.1307) / 0.3081)[..., None].astype(np.float32), labels

    outer = part(mnist.features[:50_000], mnist.labels[:50_000])
    inner = part(mnist.features[50_000:], mnist.labels[50_000:])
    count = 1000 if small else 10_000
    test = part(np.asarray(mnist.test_features)[:count], np.asarray(mnist.test_labels)[:count])
    first = [a[: INNER_STEPS * batch_size].reshape(INNER_STEPS, batch_size, *a.shape[1:]) for a in inner]
    held = Batch(None, Stacked(tuple(first))), tuple(a[:count] for a in outer), test
    return minibatches(outer, inner, batch_size=batch_size), jax.tree.map(jnp.asarray, held)


def _lenet(small):
    # Kernels (height, width, channels in, channels out), then the dense layer.
    shapes = [(5, 5, 1, 6), (5, 5, 6, 16), *([(256, 84)] if small else [(5, 5, 16, 120), (120, 84)])]
    sizes = [count for shape in shapes for count in (int(np.prod(shape)), shape[-1])]

    def start(key):
        # One draw cut into tensors: twelve would take longer to compile than all else.
        parts = jnp.split(jax.random.uniform(key, (sum(sizes),), minval=-1.0), np.cumsum(sizes)[:-1])
        x = []
        for shape, weight, bias in zip(shapes, parts[::2], parts[1::2], strict=True):
            bound = float(np.prod(shape[:-1])) ** -0.5
            x.append({"weight": bound * weight.reshape(shape), "bias": bound * bias})
        return x, {"weight": jnp.zeros((84, 10)), "bias": jnp.zeros(10)}

    def loss(x, y, batch):
        logits = _features(x, batch[0], small) @ y["weight"] + y["bias"]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]))

    return Problem(loss, loss), start


def _features(x, images, small):
    """Return 84 features an image; strides of 2 stand for the pools when small."""
    *kernels, dense = x
    z = images
    for layer in kernels:
        z = jax.nn.relu(_convolve(z, layer["weight"], 2 if small else 1) + layer["bias"])
        if not small and z.shape[1] > 1:
            rows, height, width, channels = z.shape
            z = z.reshape(rows, height // 2, 2, width // 2, 2, channels).max((2, 4))
    return jax.nn.relu(z.reshape(len(z), -1) @ dense["weight"] + dense["bias"])


def _convolve(images, kernel, stride):
    """Return a convolution by one matrix product: XLA's are slow with many kernels at once."""
    size, places = kernel.shape[0], range(kernel.shape[0])
    last = images.shape[1] - size + 1
    # Rows first, then columns: ten slices, which compile much faster than 25.
    rows = jnp.concatenate([images[:, i : i + last : stride] for i in places], -1)
    patches = jnp.concatenate([rows[:, :, j : j + last : stride] for j in places], -1)
    return patches @ kernel.swapaxes(0, 1).reshape(-1, kernel.shape[-1])


def report(searches: list, runs: list) -> Finding:
    """Return the finding from searches and runs."""
    error, last = {run.label: run.late(ERROR) for run in runs}, ends(runs, ERROR)
    numbers = {
        "last test accuracy, official PZOBO-S": at_least(1 - last[CODE], 0.9),
        "late test error, official PZOBO-S over ITD": at_most(error[CODE] / error[ITD], 1.2),
        "late test error, official PZOBO-S over the direct term": at_most(error[CODE] / error[DIRECT], 0.9),
        "late test error, PZOBO-S, Q = 1, over HOZOG": at_most(error[ONE] / error[HOZOG], 1),
        "late test error, PZOBO-S, Q = 1, over the direct term": at_most(error[ONE] / error[DIRECT], 1),
        **{f"late outer loss, {run.label}": shown(run.late(LOSS)) for run in runs},
    }
    steps = int(runs[0].steps[-1])
    reached = {label: percent(value) for label, value in error.items()}
    words = (
        f"In the second half of {steps} outer steps the test accuracy is {reached[CODE]} with the official "
        f"code's PZOBO-S, {reached[DIRECT]} with its direct term alone and {reached[ITD]} with ITD. PZOBO-S "
        f"as in the paper (Q = 1) is at {reached[ONE]}, HOZOG at {reached[HOZOG]}."
    )
    shared = "Median and range of the seeds. All steps read as many minibatches."
    mean = "Mean loss over the same outer rows for all, against gradients and products."
    figures = [
        picture_of("Test error on MNIST", runs, ERROR, STEPS, shared, styles=STYLES, log="y"),
        picture_of("Outer loss on MNIST", runs, LOSS, CALLS, mean, styles=STYLES, log="y"),
    ]
    errors = value_table(runs, ERROR, [0, steps // 4, steps // 2, steps], STEPS)
    tables = [("Test error by outer steps", errors), ("What it cost", cost_table(runs))]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


OFFICIAL = {
    "features": "convolutions 1-6-16-120 of 5 by 5, two 2 by 2 max pools, dense 120-84: p = 60,856",
    "data": "inner rows: the test part; outer rows: the training part; batch 256",
    "inner solve": "10 steps of Adam, made anew each time, from the last y; y starts at 0",
    "steps of Adam": "0.001 at both levels, falling to 0.0005 and 0.0001; 1,000 outer steps",
    "length of the perturbation": "0.01",
}
HERE = {
    "features": "convolutions 1-6-16, strides for pools, dense 256-84: p = 24,160 (size paper: the code's)",
    "data": "inner rows: the last 10,000 of the training part, outer rows: the others; batch 32 (size paper: "
    "256); error on the first 1,000 test images (size paper: all)",
    "inner solve": "the same; eps_root = 1e-8 in Adam for ITD, which is not finite without it",
    "steps of Adam": "0.001 inside, searched outside; constant; 200 outer steps (size paper: 1,000)",
    "seeds": "3 (size paper: 5); 2 others for the search",
}
CLAIM = Claim(
    name="pzobo-mnist",
    title="A stochastic Jacobian from differences helps LeNet on MNIST",
    paper=references.PZOBO,
    statement="PZOBO-S trains the features of a LeNet by minibatches without second derivatives (official "
    "code, whose results we do not know). The estimate of the Jacobian makes it effective (abstract).",
    known=KNOWN | cited("official code", OFFICIAL),
    ours=OURS | HERE,
    run=run,
    float64=False,
)
