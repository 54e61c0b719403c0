"""Hyper-cleaning as in the SOBA and NBO papers: random labels, one weight a training row."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from bilevel.cleaning.losses import cross_entropy, per_row
from bilevel.datasets import load
from bilevel.report.tables import Table
from bilevel.sampling import minibatches
from bilevel.types import Algorithm, Problem
from bilevel_claims.experiment import CALLS, Experiment, Trajectory, ends
from bilevel_claims.figures import Line, picture_of
from bilevel_claims.search import tune
from bilevel_claims.tables import table
from bilevel_claims.types import Picture, Search

ERROR, LOSS, RIGHT, WRONG = "test error", "validation loss", "weight of right rows", "weight of wrong rows"
MEASURES = ERROR, LOSS, RIGHT, WRONG
UNCLEANED, RIGHT_ONLY, RESTING = "no cleaning", "only the right rows", "x never moves"

# One grid for all methods, see `schedules.by_ratio`.
AXES = {"inner": (0.01, 0.03, 0.1), "ratio": (1e-6, 1e-5, 1e-4, 1e-3)}
ROWS = {"small": {}, "paper": {"rows": 20_000, "valid_rows": 5000, "test_rows": 10_000}}
BUDGET = {"small": 9000, "paper": 300_000}
# Half a standard error of an error rate on 5,000 rows.
TIE = 0.003
PENALTY = 0.2
# Weights of the models without cleaning: they scale the loss against the penalty.
SHARED_WEIGHTS = (0.03, 0.1, 0.3, 1.0, 3.0)
# Settings of the entries.
KNOWN = {
    "rows": "20,000 training, 5,000 validation, 10,000 test (code of the SOBA authors)",
    "problem": "each label drawn anew with probability 0.5; mean of sigmoid(x_i) CE_i, plus 0.2 |y|^2; "
    "start x = -2, y = 0; batch 64 (code of the SOBA authors)",
}
OURS = {
    "rows": "2,000 training, 1,000 validation, 5,000 test (size paper: as known)",
    "problem": "the same; exactly half of the labels are drawn anew",
    "as good": f"at most {TIE} above: half a standard error of an error rate on 5,000 rows",
    "without cleaning": "one weight for all rows, or the right ones, chosen by validation error",
    "seeds": "3",
}


class NoisyImages(NamedTuple):
    """A hyper-cleaning problem with an experiment that measures `MEASURES`, and its baselines.

    The baselines are test errors with fixed weights. `UNCLEANED`: one weight for all rows; `RIGHT_ONLY`: for
    the rows whose label is right; both are the best of `SHARED_WEIGHTS` by validation error. `RESTING`: the
    weight of the start, which the direct term of the hypergradient, 0 here, never moves.
    """

    problem: Problem
    experiment: Experiment
    baselines: dict[str, float]


def noisy_images(
    dataset: str, *, rows: int = 2000, valid_rows: int = 1000, test_rows: int = 5000, batch_size: int = 64
) -> NoisyImages:
    """Return softmax regression on standardised pixels, without a bias.

        g = mean_i sigmoid(x_i) CE_i(y) + 0.2 |y|^2,   f = mean CE on validation rows

    Half of the training labels are drawn anew from all classes, the true one included. Every run starts
    at x = -2, y = 0.

    Args:
      dataset: an image set with a test part.
      rows, valid_rows, test_rows: number of rows of each part, chosen at random.
      batch_size: number of rows of a minibatch.
    """
    source: Any = load(dataset)
    random = np.random.default_rng(0)
    order = random.permutation(len(source.labels))[: rows + valid_rows]
    at_test = random.permutation(len(source.test_labels))[:test_rows]
    pixels = np.reshape(source.features[order[:rows]], (rows, -1))
    # A constant pixel stays 0.
    mean, spread = pixels.mean(0), np.where(pixels.std(0) > 0, pixels.std(0), 1)

    def part(images, labels, at):
        return {"features": (np.reshape(images[at], (len(at), -1)) - mean) / spread, "labels": labels[at]}

    train, valid = (part(source.features, source.labels, at) for at in (order[:rows], order[rows:]))
    test = part(source.test_features, source.test_labels, at_test)
    truth, classes, columns = train["labels"], len(source.classes), pixels.shape[1]
    anew = random.permutation(rows) < rows // 2
    labels = np.where(anew, random.integers(0, classes, rows), truth).astype(np.int32)
    train |= {"labels": labels, "row": np.arange(rows, dtype=np.int32)}
    problem = per_row(lambda y, features: features @ y, PENALTY)

    def start(key):
        return jnp.full(rows, -2, pixels.dtype), jnp.zeros((columns, classes), pixels.dtype)

    def measure(state, held):
        x, y = state.x, state.y
        wrong, weight = held["wrong"], jax.nn.sigmoid(x)
        return {
            ERROR: _error(y, held["test"]),
            LOSS: problem.outer(x, y, held["valid"]),
            RIGHT: jnp.sum(weight * ~wrong) / jnp.sum(~wrong),
            WRONG: jnp.sum(weight * wrong) / jnp.sum(wrong),
        }

    held: Any = jax.tree.map(jnp.asarray, {"test": test, "valid": valid, "wrong": labels != truth})
    data = minibatches(valid, train, batch_size=batch_size, seed=0)
    arrays = jax.tree.map(jnp.asarray, train)

    def model(weight):
        return _fit(arrays, jnp.asarray(weight, pixels.dtype), held, classes)

    baselines = {
        name: min(model(weight * keep) for weight in SHARED_WEIGHTS)[1]
        for name, keep in {UNCLEANED: np.ones(rows), RIGHT_ONLY: labels == truth}.items()
    }
    baselines[RESTING] = model(np.full(rows, 1 / (1 + np.exp(2))))[1]
    experiment = Experiment(data, start, measure, held=held, seeds=(0, 1, 2))
    return NoisyImages(problem, experiment, baselines)


def tune_all(
    images: NoisyImages,
    builds: Mapping[str, Callable[..., Algorithm]],
    size: str,
    axes: Mapping[str, Sequence[float]] = MappingProxyType(AXES),
) -> tuple[list[Search], list[Trajectory]]:
    """Search by validation loss on one seed and run three, within `BUDGET`; see `search.tune`."""
    calls = BUDGET[size]
    return tune(builds, axes, images.experiment, score=LOSS, calls=calls, seeds=(100,), shown=40)


def _fit(train, weight, held, classes):
    """Return validation and test error."""
    shape = train["features"].shape[1], classes

    def on_host(flat):
        y = jnp.asarray(flat.reshape(shape), train["features"].dtype)
        value, slope = _weighted(y, train, weight, PENALTY)
        return float(value), np.asarray(slope, float).ravel()

    zero, options = np.zeros(np.prod(shape)), {"maxiter": 60}
    flat = scipy.optimize.minimize(on_host, zero, jac=True, method="L-BFGS-B", options=options).x
    y = jnp.asarray(flat.reshape(shape), train["features"].dtype)
    return tuple(float(_error(y, held[part])) for part in ("valid", "test"))


@jax.jit
@jax.value_and_grad
def _weighted(y, train, weight, penalty):
    losses = cross_entropy(train["features"] @ y, train["labels"])
    return jnp.mean(weight * losses) + penalty * jnp.sum(y**2)


def _error(y, rows):
    found = jnp.argmax(rows["features"] @ y, axis=1).astype(jnp.int32)
    return jnp.mean(found != rows["labels"])


def ends_of(
    runs: Sequence[Trajectory],
    baselines: Mapping[str, float],
    more: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> Table:
    """Return the last values by method, columns of `more` by method, and the baselines."""
    titles = ["method", *MEASURES, "test error, mean of the second half", *more]
    rows = [[run.label, *map(run.last, MEASURES), run.late(ERROR)] for run in runs]
    rows = [row + [column[row[0]] for column in more.values()] for row in rows]
    blank = [""] * (len(titles) - 2)
    rows += [[label, baselines[label], *blank] for label in (UNCLEANED, RESTING, RIGHT_ONLY)]
    return table(titles, rows)


def errors_of(
    title: str,
    runs: Sequence[Trajectory],
    baselines: Mapping[str, float],
    caption: str,
    styles: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Picture:
    """Return a figure of test errors by oracle calls, beside two baselines."""
    low = min(*ends(runs, ERROR).values(), *baselines.values())
    guides = [
        Line(label, [0, runs[0].calls[-1]], [baselines[label]] * 2, dash=dash, guide=True)
        for label, dash in ((UNCLEANED, 1), (RIGHT_ONLY, 2))
    ]
    caption += " Grey: without cleaning (dashed) and with the right rows only (dotted)."
    looks: Any = {"styles": styles, "more": guides, "log": "", "limits": (low - 0.01, low + 0.12)}
    return picture_of(title, runs, ERROR, CALLS, caption, **looks)
