"""Types of data sets: labelled rows, and images by class."""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse


class Dataset(NamedTuple):
    """A data set of labelled rows, with trusted rows and a test part where they exist.

    Attributes:
      name: name of the data set, or of the user's file.
      features: (n, d) or (n, h, w[, c]) array, or an (n, d) CSR matrix, float32, scaled for learning.
      labels: (n,) int32 class indices.
      classes: names of the classes, by index.
      test_features, test_labels: features and labels of the test part, or None.
      trusted_features, trusted_labels: features and labels of rows whose labels are right, or None.
      image_shape: (h, w) or (h, w, c) when rows are images, else None.
      shown: polars.DataFrame of the n rows as they were read: keys, then feature columns, texts or file
        names; or None.
      keys: names of those columns of `shown` that identify a row.
      notes: one line for each unusual thing that was found, and what was done about it.
      checked_rows: positions of the trusted rows among the n rows when they are some of them, else None.
        Then `labels` keeps their given labels, and `trusted_labels` holds the checked ones.
      rows: (n,) positions of the rows in the source, from 0, when rows were left out there, else None.
    """

    name: str
    features: np.ndarray | scipy.sparse.csr_matrix
    labels: np.ndarray
    classes: list[str]
    test_features: np.ndarray | scipy.sparse.csr_matrix | None = None
    test_labels: np.ndarray | None = None
    trusted_features: np.ndarray | scipy.sparse.csr_matrix | None = None
    trusted_labels: np.ndarray | None = None
    image_shape: tuple[int, ...] | None = None
    shown: Any = None
    keys: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    checked_rows: np.ndarray | None = None
    rows: np.ndarray | None = None


class ImageClasses(NamedTuple):
    """Images by class, to draw few-shot tasks from; each class is in one part only.

    Attributes:
      name: name of the data set.
      train, validation, test: (classes, images, height, width, channels) uint8, 0 to 255.
      mean, std: mean and standard deviation of each channel of the training pixels divided by 255.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    mean: tuple[float, ...]
    std: tuple[float, ...]
