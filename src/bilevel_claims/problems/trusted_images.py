"""Hyper-cleaning with trusted images: one weight a training image, a linear model."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.cleaning.losses import cross_entropy, per_row
from bilevel.cleaning.noise import corrupt
from bilevel.datasets import Dataset
from bilevel.report.tables import Table
from bilevel.types import Batch, Problem
from bilevel_claims.experiment import Trajectory
from bilevel_claims.problems.batches import batches
from bilevel_claims.tables import ends_table

# Mean and standard deviation of the pixels of MNIST.
PIXELS = 0.1307, 0.3081


class TrustedImages(NamedTuple):
    """A hyper-cleaning problem with a mask of the wrong labels.

    Attributes:
      problem, trusted, training: the two losses of `cleaning.losses.per_row`, and all rows of each.
      held: arrays of `measure`: trusted, tuning and test rows, and a mask of the wrong training labels.
      columns, classes: shape of the model y.
    """

    problem: Problem
    trusted: Any
    training: Any
    held: Any
    columns: int
    classes: int

    def data(self, batch_size: int | None, seed: int = 0) -> Batch:
        """Return minibatches of the rows, or all rows if `batch_size` is None."""
        return batches(self.trusted, self.training, batch_size, seed)

    def start(self, key: Any) -> tuple[jax.Array, jax.Array]:
        """Return weights of one half and a zero model, for any key."""
        return jnp.zeros(len(self.training["labels"])), jnp.zeros((self.columns, self.classes))

    def only_right_rows(self, key: Any) -> tuple[jax.Array, jax.Array]:
        """Return the start with weight 0 on the wrong rows, the ideal for fixed weights."""
        x, y = self.start(key)
        return jnp.where(self.held[-1], -30.0, x), y

    def measure(self, state: Any, held: Any) -> dict[str, jax.Array]:
        """Return losses on trusted, tuning and test rows, and the AUC of the weights."""
        trusted, tuning, test, wrong = held
        logits = test["features"] @ state.y
        hits = jnp.argmax(logits, axis=1).astype(jnp.int32) == test["labels"]
        wrong, weights = wrong.astype(state.x.dtype), jax.nn.sigmoid(state.x)
        some, none, ordered = jnp.sum(wrong), jnp.sum(1 - wrong), jnp.sort(state.x)
        found = jnp.concatenate([jnp.zeros_like(wrong[:1]), jnp.cumsum(wrong[jnp.argsort(state.x)])])
        # A pair of equal weights counts one half.
        below, upto = (found[jnp.searchsorted(ordered, state.x, side=side)] for side in ("left", "right"))
        return {
            "validation loss": self.problem.outer(state.x, state.y, trusted),
            "tuning loss": self.problem.outer(state.x, state.y, tuning),
            "test loss": jnp.mean(cross_entropy(logits, test["labels"])),
            "test accuracy": jnp.mean(hits),
            "AUC": (1 - wrong) @ (below + upto) / (2 * some * none),
            "weight of right rows": (1 - wrong) @ weights / none,
            "weight of wrong rows": wrong @ weights / some,
        }


def trusted_images(
    source: Dataset, *, rows: int, trusted_rows: int, test_rows: int, noise: float, seed: int = 0
) -> TrustedImages:
    """Return the problem on the first training, the last training and the first test images.

        g(x, y) = mean_i sigmoid(x_i) CE_i(y) + |y|^2 / 1000,   f(x, y) = mean CE on trusted rows

    Pixels are normalised; a penalised column of ones is the bias. The images before the trusted ones, of
    the same number, are for the choice of step sizes: f itself would reward weights that overfit it. The
    `seed` chooses the share `noise` of the labels of g, each replaced once by another class.
    """
    total = len(source.labels)

    def table(images, labels):
        pixels = (np.reshape(images, (len(labels), -1)) - PIXELS[0]) / PIXELS[1]
        features = np.concatenate([pixels, np.ones((len(labels), 1))], axis=1)
        return {"features": jnp.asarray(features, float), "labels": jnp.asarray(labels, jnp.int32)}

    def part(first, last):
        return table(source.features[first:last], source.labels[first:last])

    truth = source.labels[:rows]
    labels = corrupt(truth, len(source.classes), noise, seed=seed)
    training = table(source.features[:rows], labels) | {"row": jnp.arange(rows, dtype=jnp.int32)}
    trusted, tuning = (part(total - k * trusted_rows, total - (k - 1) * trusted_rows) for k in (1, 2))
    tests: Any = source.test_features, source.test_labels
    test = table(*(rows[:test_rows] for rows in tests))
    held = trusted, tuning, test, jnp.asarray(labels != truth)
    return TrustedImages(
        problem=per_row(lambda y, features: features @ y, 1e-3),
        trusted=trusted,
        training=training,
        held=held,
        columns=training["features"].shape[1],
        classes=len(source.classes),
    )


def ends_of(runs: Sequence[Trajectory]) -> Table:
    """Return the last values of `TrustedImages.measure` by method, medians over the seeds."""
    shown = ("test loss", "test accuracy", "AUC", "weight of right rows", "weight of wrong rows")
    return ends_table(runs, {name: name for name in shown} | {"loss on trusted rows": "validation loss"})
