"""Rows of numbers scaled for learning, so that no single row decides the scale."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse

# Scaled values up to this size stay as they are; larger ones are bent towards twice this size.
BEND = 3.0
# Quartiles of a normal distribution are this many deviations apart.
QUARTILES = 1.349
QUARTERS = (0.25, 0.5, 0.75)
# Columns per block of the quantiles; a block of float64 is copied.
BLOCK = 256


class Scale:
    """Robust centre and scale of each column.

    A column is centred at its median and divided by its interquartile range over 1.349, the standard
    deviation of normal values. Where the quartiles are equal, the median distance of the other values
    takes their place. A value z beyond 3 becomes 6 - 9 / z: order is kept, and no value is beyond 6.
    Missing values become 0, the median.

    Attributes:
      centre, width: (d,) centre and scale; the scale is 0 where a column is constant.
    """

    def __init__(self, features: np.ndarray):
        """Measure the (n, d) training rows."""
        columns = features.shape[1]
        self.centre, self.width = np.zeros(columns), np.zeros(columns)
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, columns, BLOCK):
                self._measure(features[:, start : start + BLOCK].astype(np.float64), start)

    def _measure(self, block, start):
        quartiles = np.quantile(block, QUARTERS, axis=0) if np.isfinite(block).all() else None
        for column in range(block.shape[1]):
            values = block[:, column]
            if quartiles is None:
                values = values[np.isfinite(values)]
                if not len(values):
                    continue
                low, centre, high = np.quantile(values, QUARTERS)
            else:
                low, centre, high = quartiles[:, column]
            width = (high - low) / QUARTILES
            # Rounding errors are no spread.
            least = 1e-12 * abs(centre)
            if not width > least:
                distance = np.abs(values - centre)
                distance = distance[distance > least]
                width = np.median(distance) if len(distance) else 0
            self.centre[start + column], self.width[start + column] = centre, width

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return scaled rows as float32."""
        scaled = np.empty(features.shape, np.float32)
        for start in range(0, features.shape[1], BLOCK):
            part = slice(start, start + BLOCK)
            scaled[:, part] = self._block(features[:, part].astype(np.float64), part)
        return scaled

    def _block(self, values, part):
        with np.errstate(over="ignore", invalid="ignore"):
            values -= self.centre[part]
            values /= np.where(self.width[part] > 0, self.width[part], np.inf)
        values[np.isnan(values)] = 0
        far = np.abs(values) > BEND
        size = values[far]
        values[far] = np.sign(size) * (2 * BEND - BEND**2 / np.abs(size))
        return values


def vector_scaler(features: np.ndarray, scale: Scale) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that scales vectors and appends indicators of missing values.

    Args:
      features: (n, d) training rows. Each column with missing values gets an indicator.
      scale: centre and scale of these rows.
    """
    gaps = np.flatnonzero(np.isnan(features).any(axis=0)) if features.dtype.kind == "f" else []

    def apply(rows):
        scaled = scale(rows)
        if len(gaps):
            scaled = np.concatenate([scaled, np.isnan(rows[:, gaps]).astype(np.float32)], axis=1)
        return scaled

    return apply


def sparse_scaler(features: Any) -> Callable[[Any], scipy.sparse.csr_matrix]:
    """Return a function that scales CSR columns, so that zeros stay zeros.

    A column is divided by its largest absolute value, or by ten times the median of its absolute stored
    values if that is smaller; larger values are clipped to 1.

    Args:
      features: CSR matrix of the training rows.
    """
    columns = scipy.sparse.csc_matrix(features, dtype=np.float64, copy=True)
    columns.eliminate_zeros()
    stored = np.diff(columns.indptr)
    order = np.lexsort([np.abs(columns.data), np.repeat(np.arange(len(stored)), stored)])
    size = np.abs(columns.data)[order]
    used = stored > 0
    middle = columns.indptr[:-1][used] + (stored[used] - 1) // 2
    last = columns.indptr[1:][used] - 1
    width = np.ones(len(stored))
    width[used] = np.minimum(size[last], 10 * size[middle])
    width = np.where(width > 0, width, 1)

    def apply(rows):
        scaled = scipy.sparse.csr_matrix(rows @ scipy.sparse.diags(1 / width), dtype=np.float32)
        np.clip(scaled.data, -1, 1, out=scaled.data)
        return scaled

    return apply


def image_scaler(where: str, images: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that divides images of integers by 255, and leaves floats and booleans.

    Args:
      where: the beginning of error messages.
      images: the training rows.
    """
    integers = images.dtype.kind in "iu"

    def apply(rows):
        if (rows.dtype.kind in "iu") != integers:
            raise ValueError(
                f"{where}: images must all be integers or all be floats, got {rows.dtype} in one part only; "
                "convert them"
            )
        if not integers:
            return rows.astype(np.float32)
        low, high = rows.min(), rows.max()
        if low < 0 or high > 255:
            raise ValueError(
                f"{where}: images of integers must be between 0 and 255, got {low} to {high}; "
                "scale them and store float32"
            )
        return rows.astype(np.float32) / np.float32(255)

    return apply
