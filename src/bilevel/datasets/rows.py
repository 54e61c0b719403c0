"""Class indices from labels, and rows scaled for learning."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse

from bilevel.datasets.errors import did_you_mean


def plain_labels(where: str, labels: np.ndarray) -> np.ndarray:
    """Return labels as integers or strings; whole floats become integers.

    Args:
      where: the beginning of error messages.
      labels: (n,) labels.

    Raises:
      ValueError: when a label is neither an integer nor a string.
    """
    kind = labels.dtype.kind
    if kind == "S":
        labels = np.char.decode(labels, "utf-8")
    elif kind == "f" and np.all(np.isfinite(labels)) and np.all(labels == np.round(labels)):
        labels = labels.astype(np.int64)
    elif kind == "f":
        wrong = labels[~(np.isfinite(labels) & (labels == np.round(labels)))][0]
        raise ValueError(
            f"{where} labels must be integers or strings, got {wrong}; replace measurements by classes"
        )
    elif kind == "b":
        labels = labels.astype(np.int64)
    elif kind not in "iuU":
        raise ValueError(f"{where} labels must be integers or strings, got {labels.dtype}; convert them")
    return labels


def class_indices(where: str, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the (n,) int32 positions of the labels among the sorted classes.

    Args:
      where: the beginning of error messages.
      labels: (n,) labels.
      classes: sorted labels of the training rows.

    Raises:
      ValueError: when a label is not one of the classes.
    """
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
    """Return a function that scales rows by the statistics of training rows.

    The mean is subtracted from vectors and the result divided by the standard deviation; constant
    columns become 0. CSR columns are divided by their largest absolute value, so that zeros stay zeros.
    Images of integers are divided by 255. Images of floats or booleans stay as they are.

    Args:
      where: the beginning of error messages.
      features: the training rows.
    """
    if scipy.sparse.issparse(features):
        greatest = abs(features).max(axis=0).toarray().ravel().astype(np.float64)
        inverse = scipy.sparse.diags(1 / np.where(greatest > 0, greatest, 1))
        return lambda rows: scipy.sparse.csr_matrix(rows @ inverse).astype(np.float32)
    if features.ndim > 2:
        return lambda rows: _pixels(where, rows, integers=features.dtype.kind in "iu")
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    # Rounding errors give a constant column a small deviation.
    deviation = np.where(deviation > 1e-12 * np.abs(mean), deviation, 1)
    return lambda rows: ((rows - mean) / deviation).astype(np.float32)


def _pixels(where, images, integers):
    if (images.dtype.kind in "iu") != integers:
        raise ValueError(
            f"{where}: images must all be integers or all be floats, got {images.dtype} in one part only; "
            "convert them"
        )
    if not integers:
        return images.astype(np.float32)
    low, high = images.min(), images.max()
    if low < 0 or high > 255:
        raise ValueError(
            f"{where}: images of integers must be between 0 and 255, got {low} to {high}; "
            "scale them and store float32"
        )
    return images.astype(np.float32) / np.float32(255)
