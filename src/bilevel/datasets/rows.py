"""Labels to class indices, and rows to the scale that learning wants."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse

from bilevel.datasets.errors import did_you_mean


def plain_labels(where, labels):
    """Labels as integers or strings; whole floats count as integers."""
    kind = labels.dtype.kind
    if kind == "S":
        labels = np.char.decode(labels, "utf-8")
    elif kind == "f" and np.all(np.isfinite(labels)) and np.all(labels == np.round(labels)):
        labels = labels.astype(np.int64)
    elif kind == "f":
        wrong = labels[~(np.isfinite(labels) & (labels == np.round(labels)))][0]
        raise ValueError(
            f"{where} labels must be integers or strings, got {wrong}; a class is no measurement"
        )
    elif kind == "b":
        labels = labels.astype(np.int64)
    elif kind not in "iuU":
        raise ValueError(f"{where} labels must be integers or strings, got {labels.dtype}")
    return labels


def class_indices(where, labels, classes):
    """(n,) int32 positions of the labels among the sorted classes."""
    positions = {str(value): index for index, value in enumerate(classes)}
    values, inverse = np.unique(labels, return_inverse=True)
    for value in values:
        if str(value) not in positions:
            raise ValueError(
                f"{where} label {str(value)!r} is not a class of the training rows; "
                f"{did_you_mean(str(value), positions)}"
            )
    return np.array([positions[str(value)] for value in values], np.int32)[inverse]


def scaler(where: str, features: Any) -> Callable[[Any], Any]:
    """A function that scales rows with the statistics of these training rows.

    Vectors: less the mean, divided by the standard deviation (constant columns become 0). CSR: divided
    by the greatest absolute value of the column, so that zeros stay zeros. Images of integers: divided
    by 255. Images of floats and booleans: as they are.
    """
    if scipy.sparse.issparse(features):
        greatest = abs(features).max(axis=0).toarray().ravel().astype(np.float64)
        inverse = scipy.sparse.diags(1 / np.where(greatest > 0, greatest, 1))
        return lambda rows: scipy.sparse.csr_matrix(rows @ inverse).astype(np.float32)
    if features.ndim > 2:
        return lambda rows: _pixels(where, rows, integers=features.dtype.kind in "iu")
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    # A constant column has a deviation of rounding errors alone.
    deviation = np.where(deviation > 1e-12 * np.abs(mean), deviation, 1)
    return lambda rows: ((rows - mean) / deviation).astype(np.float32)


def _pixels(where, images, integers):
    if (images.dtype.kind in "iu") != integers:
        raise ValueError(
            f"{where}: images must be all integers or all floats, got {images.dtype} among others"
        )
    if not integers:
        return images.astype(np.float32)
    low, high = images.min(), images.max()
    if low < 0 or high > 255:
        rule = "images of integers must hold 0 to 255"
        raise ValueError(f"{where}: {rule}, got {low} to {high}; scale them and store float32")
    return images.astype(np.float32) / np.float32(255)
