"""PZOBO-S trains the features of a LeNet on MNIST; so does the direct term."""

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
from bilevel_claims.experiment import STEPS, Experiment, even_points, trajectory
from bilevel_claims.figures import line_figure
from bilevel_claims.pzobo.contest import CODE, DIRECT, HOZOG, ITD, ONE, line, named
from bilevel_claims.pzobo.hozog import hozog
from bilevel_claims.pzobo.laws import one_draw, unit_tensors
from bilevel_claims.search import grid, late
from bilevel_claims.tables import cost_table, value_table
from bilevel_claims.types import Claim, Finding, Picture, at_least, at_most, shown

RATES = {"outer_optimizer": (1e-3, 3e-3, 1e-2, 3e-2)}
INNER_STEPS, INNER_RATE = 10, 1e-3


def run(size: str) -> Finding:
    """Each method at the best step of Adam, found on other seeds by the outer loss."""
    small = size == "small"
    steps, batch_size, seeds = (200, 32, (0, 1, 2)) if small else (1000, 256, range(5))
    problem, start = lenet(small)
    data, held = digits(batch_size, small)
    solver = descend(problem, optax.adam(INNER_RATE), INNER_STEPS)

    def measure(state, held):
        again, outer, test = held
        # x has moved since y was trained: ten more steps, on the same minibatches for all.
        y = solver.solve(state.x, state.y, again)
        images, labels = test
        hit = jnp.argmax(features(state.x, images, small) @ y["weight"] + y["bias"], 1) == labels
        return {"outer loss": problem.outer(state.x, y, outer), "test error": 1 - jnp.mean(hit)}

    setting = Experiment(data=data, start=start, measure=measure, held=held, seeds=seeds)
    searches, curves = [], []
    for label, build in methods(problem, solver, small).items():
        trials = setting._replace(seeds=(100, 101))
        # The whole length and the mean of many points: short trials choose steps that are too large later.
        search = grid(label, build, RATES, trials, score=late("outer loss"), steps=steps, points=20)
        searches.append(search)
        curves.append(trajectory(label, build(**search.best), setting, even_points(steps, 20)))
    return report(sum(leaf.size for leaf in jax.tree.leaves(start(jax.random.key(0))[0])), searches, curves)


def methods(problem, solver, small):
    """By label, `(outer_optimizer=step of Adam) -> Algorithm`, all with a warm y."""
    adam = optax.adam

    def built(factory, eps_root=0.0, **options):
        inner = adam(INNER_RATE, eps_root=eps_root)

        def build(outer_optimizer):
            rates = {"inner_optimizer": inner, "outer_optimizer": adam(outer_optimizer)}
            return factory(problem, **rates, inner_steps=INNER_STEPS, **options)

        return build

    return {
        DIRECT: lambda outer_optimizer: nested(problem, first_order(solver), adam(outer_optimizer)),
        CODE: built(pzobo_s, directions=1, law=unit_tensors),
        ONE: built(pzobo_s, directions=1, law=one_draw),
        **({} if small else {named(10): built(pzobo_s, directions=10, law=one_draw)}),
        HOZOG: built(hozog),
        # The square root in Adam has no derivative at 0, where a dead unit puts it.
        ITD: built(itd_bio, eps_root=1e-8),
    }


def digits(batch_size: int, small: bool):
    """`(data, held)`: 50,000 outer and 10,000 inner rows of MNIST; what every measure reads."""
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


def lenet(small: bool):
    """`(problem, start)`: the features are x, the last layer is y."""
    # Kernels (height, width, channels in, channels out), then the dense layer.
    shapes = [(5, 5, 1, 6), (5, 5, 6, 16), (256, 84)]
    if not small:
        shapes = [(5, 5, 1, 6), (5, 5, 6, 16), (5, 5, 16, 120), (120, 84)]

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
        images, labels = batch
        logits = features(x, images, small) @ y["weight"] + y["bias"]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    return Problem(loss, loss), start


def features(x, images, small):
    """84 numbers an image; strides of 2 stand for the pools when small."""
    *kernels, dense = x
    z = images
    for layer in kernels:
        z = jax.nn.relu(convolve(z, layer["weight"], 2 if small else 1) + layer["bias"])
        if not small and z.shape[1] > 1:
            rows, height, width, channels = z.shape
            z = z.reshape(rows, height // 2, 2, width // 2, 2, channels).max((2, 4))
    return jax.nn.relu(z.reshape(len(z), -1) @ dense["weight"] + dense["bias"])


def convolve(images, kernel, stride):
    """As patches and one matrix product: XLA's convolutions are slow with many kernels at once."""
    size, places = kernel.shape[0], range(kernel.shape[0])
    last = images.shape[1] - size + 1
    # Rows first, then columns: ten slices, which compile much faster than 25.
    rows = jnp.concatenate([images[:, i : i + last : stride] for i in places], -1)
    patches = jnp.concatenate([rows[:, :, j : j + last : stride] for j in places], -1)
    return patches @ kernel.swapaxes(0, 1).reshape(-1, kernel.shape[-1])


def report(entries, searches, curves) -> Finding:
    """Numbers, words and figures of the curves; `entries` are those of x."""
    error, loss = ({run.label: run.late(name) for run in curves} for name in ("test error", "outer loss"))
    last = {run.label: run.last("test error") for run in curves}
    numbers = {
        "last test accuracy of the code's PZOBO-S": at_least(1 - last[CODE], 0.9),
        "late test error of the code's PZOBO-S over that of ITD": at_most(error[CODE] / error[ITD], 1.2),
        "what its estimate adds: the same over the direct term only": at_most(
            error[CODE] / error[DIRECT], 0.9
        ),
        "PZOBO-S as written, Q = 1: late test error over that of HOZOG": at_most(
            error[ONE] / error[HOZOG], 1
        ),
        "PZOBO-S as written, Q = 1: the same over the direct term only": at_most(
            error[ONE] / error[DIRECT], 1
        ),
        **{f"late outer loss, {label}": shown(value) for label, value in loss.items()},
    }
    words = (
        f"In the second half of {int(curves[0].steps[-1])} outer steps the test error is "
        f"{100 * error[CODE]:.1f} % with the official code's PZOBO-S, {100 * error[DIRECT]:.1f} % with the "
        f"direct term and no estimate at all, {100 * error[ITD]:.1f} % with ITD. PZOBO-S as written, one "
        f"normal direction for p = {entries:,} outer entries and no factor of about 1/p on the estimate, is "
        f"at {100 * error[ONE]:.1f} %, HOZOG at {100 * error[HOZOG]:.1f} %. Each has its best step of Adam "
        "from the same grid."
    )

    def picture(title, x, quantity, at, caption):
        drawn = [line(run, at(run), quantity) for run in curves]
        return Picture(title, line_figure(title, x, quantity, drawn, log="y"), caption)

    figures = [
        picture(
            "Test error on MNIST",
            "outer steps",
            "test error",
            lambda run: run.steps,
            "Features of a LeNet as x, last layer as y; median and range of the seeds. All steps read as "
            "many minibatches.",
        ),
        picture(
            "Outer loss on MNIST",
            "oracle calls",
            "outer loss",
            lambda run: run.calls,
            "The same runs: mean loss over the same outer rows for all, against gradients and products.",
        ),
    ]
    steps = int(curves[0].steps[-1])
    places = [0, steps // 4, steps // 2, steps]
    tables = [
        (
            f"{quantity.capitalize()} by outer steps",
            value_table(curves, quantity, places, STEPS),
        )
        for quantity in ("test error", "outer loss")
    ]
    return Finding(
        words=words,
        numbers=numbers,
        figures=figures,
        tables=[*tables, ("What it cost", cost_table(curves))],
        searches=searches,
    )


CLAIM = Claim(
    name="pzobo-mnist",
    title="A stochastic Jacobian from differences helps LeNet on MNIST",
    paper=references.PZOBO,
    statement="PZOBO-S trains the features of a LeNet by minibatches without second derivatives (the "
    "experiment of the official code, whose results we do not know); that the estimate of the Jacobian is "
    "what makes it effective is the abstract's.",
    known={
        "features": "convolutions 1-6-16-120 of 5 by 5, two 2 by 2 max pools, dense 120-84: 60,856 outer "
        "entries (official code)",
        "data": "inner rows: the test part; outer rows: the training part (official code)",
        "batch": "256 (official code)",
        "inner solve": "10 steps of Adam, made anew each time, from the last y; y starts at 0 (official "
        "code)",
        "steps of Adam": "0.001 at both levels, falling to 0.0005 and 0.0001 (official code)",
        "outer steps": "1,000 (official code)",
        "directions": "Q = 1, each tensor scaled to length 1, no factor p (official code)",
        "length of the perturbation": "0.01 (official code)",
        "accuracy": "not known",
    },
    ours={
        "features": "5 by 5 convolutions 1-6-16 with strides of 2 in place of the pools, dense 256-84: "
        "24,160 outer entries (size paper: the code's)",
        "data": "inner rows: the last 10,000 of the training part, outer rows: the first 50,000; error on "
        "the first 1,000 test images (size paper: all)",
        "batch": "32 (size paper: 256)",
        "inner solve": "the same; eps_root = 1e-8 in Adam for ITD, which is not finite without it",
        "steps of Adam": "0.001 inside; outside searched for each method; constant",
        "outer steps": "200, trials too (size paper: 1,000)",
        "directions": "the same; and standard normal ones with Q = 1 (size paper: and 10)",
        "length of the perturbation": "the same",
        "baseline": "the direct term f_x only, which the code does not show",
        "seeds": "3 (size paper: 5); 2 others for the search",
    },
    run=run,
    float64=False,
)
