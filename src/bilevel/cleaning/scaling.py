"""Rows scaled for training: flat, centred, and with a largest second moment of 1."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.sparse

from bilevel.sparse import sparse_blocks


class ScaledRows(NamedTuple):
    """Rows on the device.

    Attributes:
      features: (n, d) array, or `Sparse` in one block.
      labels: (n,) class indices.
    """

    features: Any
    labels: Any


def scaling(features: Any) -> Callable[[Any], Any]:
    """Return a function that scales rows by the statistics of `features`.

    After scaling, the largest second moment of `features` is 1. Dense rows are flattened and centred
    first; CSR rows keep their zeros. The curvature of a softmax regression is then known, so the
    same step sizes and penalties suit every data set.

    Args:
      features: (n, ...) array or (n, d) CSR matrix of the training rows.

    Raises:
      ValueError: when all rows are equal.
    """
    sparse = scipy.sparse.issparse(features)
    flat = features if sparse else features.reshape(len(features), -1)
    mean = np.float32(0) if sparse else flat.mean(axis=0, dtype=np.float64).astype(np.float32)
    vector = np.random.default_rng(0).normal(size=flat.shape[1]).astype(np.float32)
    moment = 0.0
    for _ in range(30):  # power iteration; products are centred instead of a copy of the rows
        vector /= np.linalg.norm(vector)
        product = flat @ vector - (0 if sparse else mean @ vector)
        vector = flat.T @ product / flat.shape[0] - (0 if sparse else mean * product.mean())
        moment = np.linalg.norm(vector)
        if moment == 0:
            raise ValueError(
                "features must differ between rows, got the same values in every row; "
                "check the feature columns"
            )
    factor = np.float32(1 / np.sqrt(moment))

    def scale(rows):
        if sparse:
            return scipy.sparse.csr_matrix(rows * factor, dtype=np.float32)
        flat = np.array(rows.reshape(len(rows), -1), np.float32)
        flat -= mean
        flat *= factor
        return flat

    return scale


def to_device(features: Any, labels: Any) -> ScaledRows:
    """Return scaled rows and their labels as arguments of compiled functions."""
    moved = sparse_blocks(features) if scipy.sparse.issparse(features) else jnp.asarray(features)
    return ScaledRows(moved, jnp.asarray(labels, jnp.int32))
