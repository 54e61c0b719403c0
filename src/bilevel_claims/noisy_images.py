"""Hyper-cleaning as the SOBA and NBO papers run it: images with labels drawn anew, a weight a row."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from bilevel.cleaning.losses import cross_entropy, per_row
from bilevel.datasets import load
from bilevel.sampling import minibatches
from bilevel.types import Problem
from bilevel_claims.curves import Setting

ERROR, LOSS, RIGHT, WRONG = "test error", "validation loss", "weight of right rows", "weight of wrong rows"
UNCLEANED, RIGHT_ONLY, RESTING = "no cleaning", "only the right rows", "x never moves"

# One grid for all methods; the outer step is inner / ratio.
AXES = {"inner": (0.01, 0.03, 0.1), "ratio": (1e-6, 1e-5, 1e-4, 1e-3)}
# Weights that all rows share in the models without cleaning: they set how much the penalty counts.
SHARED_WEIGHTS = (0.03, 0.1, 0.3, 1.0, 3.0)


class NoisyImages(NamedTuple):
    """A hyper-cleaning problem with what it is compared with.

    Attributes:
      problem: the two losses.
      setting: data, start, measures of `ERROR`, `LOSS`, `RIGHT`, `WRONG`.
      references: test errors without learning of x: `UNCLEANED`, one weight for all rows, and
        `RIGHT_ONLY`, one weight for the rows whose label is right, both weights chosen by validation
        error among `SHARED_WEIGHTS`; `RESTING`, all rows at the weight of the start, where an algorithm
        stays that follows the direct term of the hypergradient alone, which is 0 here.
    """

    problem: Problem
    setting: Setting
    references: dict[str, float]


def noisy_images(
    dataset: str,
    *,
    rows: int = 2000,
    valid_rows: int = 1000,
    test_rows: int = 5000,
    noise: float = 0.5,
    penalty: float = 0.2,
    batch_size: int = 64,
    seed: int = 0,
) -> NoisyImages:
    """Softmax regression on standardised pixels, without a bias.

        g = mean_i sigmoid(x_i) CE_i(y) + penalty |y|^2,   f = mean CE on validation rows

    Every run starts at x = -2, y = 0.

    Args:
      dataset: an image set with a test part.
      rows, valid_rows, test_rows: of each part, chosen at random.
      noise: share of the training rows whose label is drawn anew among all classes, which may be the
        true one.
      penalty: factor of the squared norm of the model.
      batch_size: rows of a minibatch.
      seed: of the rows, the noise and the shuffle.
    """
    source: Any = load(dataset)
    random = np.random.default_rng(seed)
    order = random.permutation(len(source.labels))[: rows + valid_rows]
    at_test = random.permutation(len(source.test_labels))[:test_rows]
    parts = {
        "train": (source.features[order[:rows]], source.labels[order[:rows]]),
        "valid": (source.features[order[rows:]], source.labels[order[rows:]]),
        "test": (source.test_features[at_test], source.test_labels[at_test]),
    }
    pixels = np.reshape(parts["train"][0], (rows, -1))
    # A pixel that never changes stays 0.
    mean, spread = pixels.mean(0), np.where(pixels.std(0) > 0, pixels.std(0), 1)
    train, valid, test = (
        {"features": (np.reshape(f, (len(f), -1)) - mean) / spread, "labels": labels}
        for f, labels in parts.values()
    )
    truth, classes, columns = train["labels"], len(source.classes), pixels.shape[1]
    anew = random.permutation(rows) < round(noise * rows)
    labels = np.where(anew, random.integers(0, classes, rows), truth).astype(np.int32)
    train |= {"labels": labels, "row": np.arange(rows, dtype=np.int32)}
    problem = per_row(lambda y, features: features @ y, penalty)

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
    data = minibatches(valid, train, batch_size=batch_size, seed=seed)
    table = jax.tree.map(jnp.asarray, train)

    def model(weight):
        return _fit(table, jnp.asarray(weight, pixels.dtype), held, penalty, classes)

    references = {
        name: min(model(weight * keep) for weight in SHARED_WEIGHTS)[1]
        for name, keep in {UNCLEANED: np.ones(rows), RIGHT_ONLY: labels == truth}.items()
    }
    references[RESTING] = model(np.full(rows, 1 / (1 + np.exp(2))))[1]
    return NoisyImages(problem, Setting(data, start, measure, held), references)


def _fit(train, weight, held, penalty, classes):
    """Validation and test error of the model of weighted rows, by a quasi-Newton method."""
    shape = train["features"].shape[1], classes

    def on_host(flat):
        y = jnp.asarray(flat.reshape(shape), train["features"].dtype)
        value, slope = _weighted(y, train, weight, penalty)
        return float(value), np.asarray(slope, float).ravel()

    flat = scipy.optimize.minimize(
        on_host, np.zeros(np.prod(shape)), jac=True, method="L-BFGS-B", options={"maxiter": 60}
    ).x
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
