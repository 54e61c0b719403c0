"""The hyper-cleaning losses against closed forms, and sparse rows against dense ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from bilevel.cleaning import losses
from bilevel.sampling import minibatches
from bilevel.sparse import sparse_blocks, times

ROWS, COLUMNS, CLASSES, PENALTY = 12, 5, 3, 0.02
# Closed form against automatic differentiation, both in float64.
EXACT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-14}


def logits(y, features):
    return times(features, y)


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    features = random.normal(size=(ROWS, COLUMNS)) * (random.random((ROWS, COLUMNS)) < 0.5)
    labels = random.integers(0, CLASSES, ROWS).astype(np.int32)
    x = random.normal(size=ROWS)
    y, v = random.normal(size=(2, COLUMNS, CLASSES))
    return features, labels, jnp.asarray(x), jnp.asarray(y), jnp.asarray(v)


def inner_batch(features, labels):
    return {
        "features": features,
        "labels": jnp.asarray(labels),
        "row": jnp.arange(len(labels), dtype=jnp.int32),
    }


def closed_form(features, labels, x, y, v):
    """Return g_y, H v and J v, row by row, by the formulas of the module."""
    weights = 1 / (1 + np.exp(-np.asarray(x)))
    gradient, hessian, cross = np.zeros((COLUMNS, CLASSES)), np.zeros((COLUMNS, CLASSES)), np.zeros(ROWS)
    for i in range(ROWS):
        a = features[i]
        outputs = np.exp(y.T @ a)
        share = outputs / outputs.sum()
        residual = share - np.eye(CLASSES)[labels[i]]
        curvature = np.diag(share) - np.outer(share, share)
        gradient += weights[i] * np.outer(a, residual) / ROWS
        hessian += weights[i] * np.outer(a, curvature @ (v.T @ a)) / ROWS
        cross[i] = weights[i] * (1 - weights[i]) * residual @ (v.T @ a) / ROWS
    return gradient + 2 * PENALTY * np.asarray(y), hessian + 2 * PENALTY * np.asarray(v), cross


def test_per_row_derivatives_are_the_closed_forms(data):
    features, labels, x, y, v = data
    problem = losses.per_row(logits, PENALTY)
    batch = inner_batch(jnp.asarray(features), labels)
    gradient, hessian = jax.jvp(lambda y: jax.grad(problem.inner, argnums=1)(x, y, batch), (y,), (v,))
    cross = jax.grad(lambda x: jnp.vdot(jax.grad(problem.inner, argnums=1)(x, y, batch), v))(x)
    expected = closed_form(features, labels, x, np.asarray(y), np.asarray(v))
    for actual, wanted in zip((gradient, hessian, cross), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, **EXACT)


def test_outer_loss_is_the_mean_cross_entropy(data):
    features, labels, x, y, _ = data
    outputs = features @ np.asarray(y)
    expected = np.mean(np.log(np.exp(outputs).sum(1)) - outputs[np.arange(ROWS), labels])
    batch = {"features": jnp.asarray(features), "labels": jnp.asarray(labels)}
    np.testing.assert_allclose(losses.per_row(logits, PENALTY).outer(x, y, batch), expected, **EXACT)


@pytest.mark.parametrize("blocks", [1, 3])
def test_sparse_rows_equal_dense_rows(data, blocks):
    features, labels, x, y, v = data
    features[4] = 0  # an empty row has no stored entry
    order = np.arange(ROWS).reshape(blocks, -1)
    sparse = sparse_blocks(scipy.sparse.csr_matrix(features), order)
    problem = losses.per_row(logits, PENALTY)
    batch = {"features": sparse, "labels": jnp.asarray(labels[order]), "row": jnp.asarray(order)}
    dense = inner_batch(jnp.asarray(features), labels)

    def products(batch):
        def gradients(x, y):
            return jax.grad(problem.inner, argnums=(0, 1))(x, y, batch)

        return jax.jvp(gradients, (x, y), (jnp.zeros_like(x), v))

    for actual, wanted in zip(
        jax.tree.leaves(products(batch)), jax.tree.leaves(products(dense)), strict=True
    ):
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-13)


def test_sparse_blocks_are_minibatches(data):
    features, labels, *_ = data
    order = np.arange(ROWS).reshape(4, 3)
    inner = {"features": sparse_blocks(scipy.sparse.csr_matrix(features), order), "row": order}
    source = minibatches(np.zeros(2), inner, batch_size=1).inner
    batch = source.view(source.plan(jax.random.key(0), 0, 4))[2]
    dense = features[np.asarray(batch["row"])]
    np.testing.assert_allclose(times(batch["features"], jnp.eye(COLUMNS)), dense, **EXACT)


def test_sparse_rows_are_never_densified():
    rng = np.random.default_rng(0)
    places = rng.integers(0, 50, 60), rng.integers(0, 10**7, 60)
    wide = scipy.sparse.csr_matrix((np.ones(60), places), shape=(50, 10**7))
    sparse = sparse_blocks(wide)
    assert sum(leaf.size for leaf in jax.tree.leaves(sparse)) == 3 * wide.nnz
