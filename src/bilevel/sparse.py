"""Blocks of sparse rows in fixed shapes, and their products with a matrix."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@partial(jax.tree_util.register_dataclass, data_fields=["values", "columns", "places"], meta_fields=["rows"])
@dataclass(frozen=True)
class Sparse:
    """Stored entries of blocks of sparse rows.

    Attributes:
      values: (blocks, entries) stored values, 0 where a block is padded.
      columns: (blocks, entries) columns of the entries.
      places: (blocks, entries) rows of the entries within their block, in order.
      rows: number of rows in a block.
    """

    values: Any
    columns: Any
    places: Any
    rows: int


def sparse_blocks(matrix: Any, order: Any = None) -> Sparse:
    """Return the rows of a CSR matrix in blocks, each padded to the fullest one.

    The matrix is never made dense.

    Args:
      matrix: (n, d) CSR matrix.
      order: (blocks, rows) numbers of the rows in each block; None means one block of all rows.

    Returns:
      A `Sparse`. `minibatches(..., batch_size=1)` takes each of its blocks as one row.
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
        values=stack([part.data for part in parts], 0),
        columns=stack([part.indices.astype(np.int32) for part in parts], 0),
        places=stack(places, rows - 1),
        rows=rows,
    )


def times(features: Any, matrix: Any) -> jax.Array:
    """Return the (..., k) product of dense or `Sparse` rows with a (d, k) matrix."""
    if not isinstance(features, Sparse):
        return features @ matrix

    def block(values, columns, places):
        terms = values[:, None] * matrix[columns]
        return jax.ops.segment_sum(terms, places, features.rows, indices_are_sorted=True)

    return jax.vmap(block)(features.values, features.columns, features.places)
