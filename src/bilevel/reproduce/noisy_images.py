"""Hyper-cleaning as the SOBA and NBO papers run it: images with labels drawn anew, a weight a row."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.cleaning.losses import cross_entropy, per_row
from bilevel.datasets import load
from bilevel.reproduce.curves import Setting
from bilevel.sampling import minibatches
from bilevel.types import Problem

ERROR, LOSS, RIGHT, WRONG = "test error", "validation loss", "weight of right rows", "weight of wrong rows"


class NoisyImages(NamedTuple):
    """A hyper-cleaning problem with what it is compared with.

    Attributes:
      problem: the two losses.
      setting: data, start, measures of `ERROR`, `LOSS`, `RIGHT`, `WRONG`.
      uncleaned: test error of the model of all rows, at weight 1.
      clean: test error of the model of the rows whose label is right, at weight 1.
    """

    problem: Problem
    setting: Setting
    uncleaned: float
    clean: float


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
    source, random = load(dataset), np.random.default_rng(seed)
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
            ERROR: jnp.mean(jnp.argmax(held["test"]["features"] @ y, 1) != held["test"]["labels"]),
            LOSS: problem.outer(x, y, held["valid"]),
            RIGHT: jnp.sum(weight * ~wrong) / jnp.sum(~wrong),
            WRONG: jnp.sum(weight * wrong) / jnp.sum(wrong),
        }

    held: Any = jax.tree.map(jnp.asarray, {"test": test, "valid": valid, "wrong": labels != truth})
    data = minibatches(valid, train, batch_size=batch_size, seed=seed)
    ends = []
    for kept in (np.ones(rows, bool), labels == truth):
        # Newton's method without Newton's matrix: the loss is strongly convex and smooth.
        y = _fit(jax.tree.map(jnp.asarray, train), jnp.asarray(kept, pixels.dtype), penalty, classes)
        hits = jnp.argmax(held["test"]["features"] @ y, 1) == held["test"]["labels"]
        ends.append(1 - float(hits.mean()))
    return NoisyImages(problem, Setting(data, start, measure, held), *ends)


def _fit(train, weight, penalty, classes):
    """The model of weighted rows, by a quasi-Newton method."""
    import optax

    def loss(y):
        losses = cross_entropy(train["features"] @ y, train["labels"])
        return jnp.mean(weight * losses) + penalty * jnp.sum(y**2)

    solver = optax.lbfgs()

    def step(carry, _):
        y, state = carry
        value, slope = optax.value_and_grad_from_state(loss)(y, state=state)
        updates, state = solver.update(slope, state, y, value=value, grad=slope, value_fn=loss)
        return (optax.apply_updates(y, updates), state), None

    y = jnp.zeros((train["features"].shape[1], classes), train["features"].dtype)
    return jax.lax.scan(step, (y, solver.init(y)), None, length=60)[0][0]
