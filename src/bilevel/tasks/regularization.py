"""Logistic regression with one L2 strength for each feature."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse

from bilevel.datasets import Dataset, load
from bilevel.sampling import full, minibatches
from bilevel.sparse import sparse_blocks, times
from bilevel.types import Problem, Task, require

# Outer step sizes at which the outer loss falls steadily, found by trial.
OUTER_STEPS = {"breast_cancer": 0.3, "ijcnn1": 0.3, "newsgroups": 100.0}


def regularization(dataset: str | Dataset = "breast_cancer", *, seed: int = 0) -> Task:
    """Learn one L2 strength for each feature of a logistic regression.

        g(x, y) = mean CE on training rows + (scale / 2) sum_jc exp(x_j) y_jc^2
        f(x, y) = mean CE on validation rows

    Half of the rows are for training, the other half for validation. There is no bias term. `scale` is
    1 for two classes, where y has one column, and 1 / (entries of y) for more classes, as in the
    experiments of the SOBA and stocBiO papers.

    Args:
      dataset: `breast_cancer`, `ijcnn1`, `newsgroups`, or a `Dataset` (dense vectors or CSR rows).
      seed: seed of the split into halves (ijcnn1 keeps its usual split of 35,000 and 14,990 rows).

    Returns:
      A `Task` whose metrics are `outer_loss` on all validation rows and `test_accuracy`.
    """
    source = load(dataset) if isinstance(dataset, str) else dataset
    features: Any = source.features
    rows, classes = len(source.labels), len(source.classes)
    order = np.random.default_rng(seed).permutation(rows)
    cut = rows // 2
    if source.name == "ijcnn1":
        order, cut = np.arange(rows), 35_000
    halves = {"inner": np.sort(order[:cut]), "outer": np.sort(order[cut:])}
    dim, columns = features.shape[1], 1 if classes == 2 else classes
    scale = 1.0 if classes == 2 else 1 / (dim * columns)

    def loss(y, batch):
        logits = times(batch["features"], y)
        if classes == 2:
            return jnp.mean(
                optax.sigmoid_binary_cross_entropy(logits[..., 0], batch["labels"].astype(y.dtype))
            )
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"]))

    def inner(x, y, batch):
        return loss(y, batch) + 0.5 * scale * jnp.sum(jnp.exp(x)[:, None] * y**2)

    def outer(x, y, batch):
        return loss(y, batch)

    def part(rows):
        return _rows(features[rows], source.labels[rows])

    def by_minibatch(batch_size):
        if scipy.sparse.issparse(features):
            blocks = [_blocks(source, halves[level], batch_size, seed) for level in ("outer", "inner")]
            return minibatches(*blocks, batch_size=1, seed=seed)
        arrays = [
            {"features": features[halves[level]], "labels": source.labels[halves[level]]}
            for level in ("outer", "inner")
        ]
        return minibatches(*arrays, batch_size=batch_size, seed=seed)

    def start(key):
        x = jax.random.uniform(key, (dim,), features.dtype, minval=-2.0, maxval=0.0)
        return x, jnp.zeros((dim, columns), features.dtype)

    def metrics(x, y, held):
        validation, test = held
        logits = times(test["features"], y)
        predicted = (
            (logits[..., 0] > 0).astype(jnp.int32)
            if classes == 2
            else jnp.argmax(logits, axis=-1).astype(jnp.int32)
        )
        hits = jnp.mean((predicted == test["labels"]).astype(y.dtype))
        return {"outer_loss": loss(y, validation), "test_accuracy": hits}

    data = full(part(halves["outer"]), part(halves["inner"]))
    held = data.outer[0], _rows(source.test_features, source.test_labels)
    # The Hessian of the cross entropy is at most a quarter of the Gram matrix, half of it for more classes.
    curvature = _largest_square(features[halves["inner"]]) * (0.25 if classes == 2 else 0.5)
    x, y = start(jax.random.key(seed))
    return Task(
        name="regularization",
        dataset=source.name,
        problem=Problem(outer, inner),
        data=data,
        x=x,
        y=y,
        minibatches=by_minibatch,
        batch_size=64 if classes == 2 else 256,
        start=start,
        metrics=metrics,
        held=held,
        inner_step=1 / (curvature + scale),
        outer_step=OUTER_STEPS.get(source.name, 0.1),
    )


def _rows(features, labels):
    features = sparse_blocks(features) if scipy.sparse.issparse(features) else jnp.asarray(features)
    labels = jnp.asarray(labels)
    return {"features": features, "labels": labels if isinstance(features, jax.Array) else labels[None]}


def _blocks(source, rows, batch_size, seed):
    require(
        batch_size <= len(rows),
        f"batch_size must be between 1 and {len(rows)}, the number of rows",
        batch_size,
    )
    order = np.random.default_rng(seed).permutation(rows)
    count = -(-len(order) // batch_size)
    order = np.resize(order, count * batch_size).reshape(count, batch_size)
    return {"features": sparse_blocks(source.features, order), "labels": source.labels[order]}


def _largest_square(features):
    """Return the largest eigenvalue of the Gram matrix, features' features / rows."""
    if scipy.sparse.issparse(features):
        from scipy.sparse.linalg import svds

        values: Any = svds(features, k=1, return_singular_vectors=False, rng=0)
        largest = float(values[0])
    else:
        largest = float(np.linalg.norm(np.asarray(features, np.float64), 2))
    return largest**2 / features.shape[0]
