"""Sparse rows in blocks: what a linear model needs of a CSR matrix, in fixed shapes and never dense."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@partial(jax.tree_util.register_dataclass, data_fields=["values", "columns", "places"], meta_fields=["rows"])
@dataclass(frozen=True)
class Sparse:
    """Blocks of sparse rows, as stored entries; a leading axis of the arrays counts blocks.

    Attributes:
      values: (blocks, entries) stored values, 0 where a block is padded.
      columns: (blocks, entries) column of each.
      places: (blocks, entries) row of each within its block, in order.
      rows: rows of a block.
    """

    values: Any
    columns: Any
    places: Any
    rows: int


def sparse_blocks(matrix, order=None) -> Sparse:
    """Blocks of the rows of a CSR matrix, padded to the fullest block and never densified.

    Args:
      matrix: (n, d) CSR matrix.
      order: (blocks, rows) numbers of the rows in each block; None is one block of all rows.

    Returns:
      A `Sparse` whose every block is one "row" for `minibatches(..., batch_size=1)`.
    """
    order = np.arange(matrix.shape[0])[None] if order is None else np.asarray(order)
    parts = [matrix[block] for block in order]
    room = max(part.nnz for part in parts)

    def stack(arrays, last):
        padded = [np.concatenate([a, np.full(room - len(a), last, a.dtype)]) for a in arrays]
        return jnp.asarray(np.stack(padded))

    rows = order.shape[1]
    # The padding belongs to the last row, so that places stay in order.
    places = [np.repeat(np.arange(rows, dtype=np.int32), np.diff(part.indptr)) for part in parts]
    return Sparse(
        stack([part.data for part in parts], 0),
        stack([part.indices.astype(np.int32) for part in parts], 0),
        stack(places, rows - 1),
        rows,
    )


def times(features, matrix):
    """Product of dense or sparse rows with a (d, k) matrix, shape (..., k)."""
    if not isinstance(features, Sparse):
        return features @ matrix

    def block(values, columns, places):
        terms = values[:, None] * matrix[columns]
        return jax.ops.segment_sum(terms, places, features.rows, indices_are_sorted=True)

    return jax.vmap(block)(features.values, features.columns, features.places)
