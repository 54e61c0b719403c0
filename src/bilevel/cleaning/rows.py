"""Training and trusted rows in one array, dealt into folds."""

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

FOLDS = 5


class Rows(NamedTuple):
    """Training rows, followed by the trusted rows.

    Attributes:
      features: (N, d) float32 array or CSR matrix.
      labels: (N,) class indices: given ones of training rows, checked ones of trusted rows.
      trusted: (N,) bool.
      fold: (N,) fold of each row.
      classes: K, the number of classes.
    """

    features: Any
    labels: np.ndarray
    trusted: np.ndarray
    fold: np.ndarray
    classes: int

    def take(self, positions: np.ndarray) -> "Rows":
        """Return some of the rows, in the given order."""
        return Rows(
            self.features[positions],
            self.labels[positions],
            self.trusted[positions],
            self.fold[positions],
            self.classes,
        )


def join_rows(
    features: Any,
    labels: np.ndarray,
    trusted_features: Any,
    trusted_labels: np.ndarray,
    classes: int,
    seed: int,
) -> Rows:
    """Return training and trusted rows as one, each class spread over all folds.

    Args:
      features: (n, ...) array or (n, d) CSR matrix.
      labels: (n,) given class indices.
      trusted_features: (m, ...) rows of the same kind; m may be 0.
      trusted_labels: (m,) class indices.
      classes: number of classes.
      seed: seed of the folds.
    """
    sparse = scipy.sparse.issparse(features)
    parts = [features, trusted_features]
    both: Any = (
        scipy.sparse.csr_matrix(scipy.sparse.vstack(parts))
        if sparse
        else np.concatenate(parts).reshape(len(labels) + len(trusted_labels), -1)
    )
    return Rows(
        features=both,
        labels=np.concatenate([labels, trusted_labels]).astype(np.int32),
        trusted=np.arange(both.shape[0]) >= len(labels),
        fold=np.concatenate([deal(labels, FOLDS, seed), deal(trusted_labels, FOLDS, seed + 1)]),
        classes=classes,
    )


def deal(labels: np.ndarray, parts: int, seed: int) -> np.ndarray:
    """Return the (n,) parts of the rows: equal parts, each class spread over all.

    Args:
      labels: (n,) class indices.
      parts: number of parts.
      seed: seed of the random order of the rows.
    """
    labels = np.asarray(labels)
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    dealt = np.empty(len(labels), int)
    dealt[order] = np.arange(len(labels)) % parts
    return dealt
