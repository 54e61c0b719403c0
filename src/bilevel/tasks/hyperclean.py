"""Data hyper-cleaning with one free weight for each row, as in the papers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.cleaning.losses import per_row
from bilevel.cleaning.split import split
from bilevel.datasets import Dataset, load
from bilevel.sampling import full, minibatches
from bilevel.types import Task


def hyperclean(
    dataset: str | Dataset = "digits",
    *,
    rows: int | None = None,
    trusted_rows: int | None = None,
    noise: float = 0.4,
    kind: str = "uniform",
    penalty: float = 1e-3,
    seed: int = 0,
) -> Task:
    """Learn a weight for each noisy training row of a linear model on trusted rows.

        g(x, y) = mean_i sigmoid(x_i) CE_i(y) + penalty |y|^2,   f(x, y) = mean CE on trusted rows

    Args:
      dataset: an image set (`digits`, `mnist`, `fashion_mnist`), or a dense `Dataset`.
      rows: number of training rows; default: 5,000, or all but the trusted rows if that is fewer.
      trusted_rows: number of trusted rows; default: 200, or a fifth of the rows if that is fewer.
      noise, kind: share and kind of wrong labels, see `bilevel.cleaning.corrupt`.
      penalty: factor of the squared norm of the model.
      seed: seed of the split and the noise.

    Returns:
      A `Task` whose metrics are `outer_loss` on all trusted rows, `test_accuracy` of the model, and
      `detection_f1`, the f1 score of flagging the rows whose weight is below 1/2.
    """
    source = load(dataset) if isinstance(dataset, str) else dataset
    if rows is None:
        rows = min(5000, len(source.labels) - (trusted_rows or min(200, len(source.labels) // 5)))
    bench, truth = split(source, rows=rows, trusted_rows=trusted_rows, noise=noise, kind=kind, seed=seed)
    classes = len(bench.classes)

    def table(features, labels):
        features = np.asarray(features).reshape(len(labels), -1)
        ones = np.ones((len(labels), 1), features.dtype)
        return {"features": np.concatenate([features, ones], axis=1), "labels": np.asarray(labels, np.int32)}

    training: dict[str, Any] = table(bench.features, bench.labels) | {"row": np.arange(rows, dtype=np.int32)}
    trusted, test = (
        table(bench.trusted_features, bench.trusted_labels),
        table(bench.test_features, bench.test_labels),
    )
    columns, dtype = training["features"].shape[1], training["features"].dtype
    problem = per_row(lambda y, features: features @ y, penalty)

    def by_minibatch(batch_size):
        return minibatches(trusted, training, batch_size=batch_size, seed=seed)

    def start(key):
        # Weights start near one half, and different seeds start at different points.
        return 0.1 * jax.random.normal(key, (rows,), dtype), jnp.zeros((columns, classes), dtype)

    def metrics(x, y, held):
        trusted, test, wrong = held
        hits = jnp.argmax(test["features"] @ y, axis=1).astype(jnp.int32) == test["labels"]
        found = x < 0
        f1 = 2 * jnp.sum(found & wrong) / jnp.maximum(jnp.sum(found) + jnp.sum(wrong), 1)
        return {
            "outer_loss": problem.outer(x, y, trusted),
            "test_accuracy": jnp.mean(hits),
            "detection_f1": f1,
        }

    held = jax.tree.map(jnp.asarray, (trusted, test, bench.labels != truth))
    # The Hessian of the cross entropy is at most half the Gram matrix, and weights are below 1.
    largest = float(np.linalg.norm(training["features"].astype(np.float64), 2))
    curvature = 0.5 * largest**2 / rows + 2 * penalty
    x, y = start(jax.random.key(seed))
    return Task(
        name="hyperclean",
        dataset=source.name,
        problem=problem,
        data=full(*jax.tree.map(jnp.asarray, (trusted, training))),
        x=x,
        y=y,
        minibatches=by_minibatch,
        batch_size=min(100, len(trusted["labels"])),
        start=start,
        metrics=metrics,
        held=held,
        inner_step=1 / curvature,
        # The mean over rows and the slope of the sigmoid make the gradient of x_i about 1 / (4 rows).
        outer_step=float(rows),
    )
