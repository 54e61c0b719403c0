"""Scores that reveal wrong labels, from models that have not seen the row."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special


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


def cross_fitted(
    fit: Callable[[np.ndarray], Any], outputs: Callable[[Any], np.ndarray], parts: np.ndarray
) -> np.ndarray:
    """Return the outputs for each row of the model trained without its part.

    Args:
      fit: `mask -> y`; trains a model on the rows of a (n,) bool mask.
      outputs: `y -> (n, classes)` outputs of a trained model on all rows.
      parts: (n,) part of each row.

    Returns:
      (n, classes) outputs.
    """
    result = np.zeros(0)
    for part in np.unique(parts):
        held = parts == part
        current = outputs(fit(~held))
        result = result if result.size else np.zeros_like(current)
        result[held] = current[held]
    return result


def label_scores(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return (n, 2) log-probabilities of labels and margins over the best other.

    Args:
      outputs: (n, classes) outputs of a model.
      labels: (n,) given class indices.
    """
    logs = scipy.special.log_softmax(outputs.astype(np.float32), axis=1)
    rows = np.arange(len(labels))
    given = logs[rows, labels]
    others = logs.copy()
    others[rows, labels] = -np.inf
    return np.stack([given, given - others.max(axis=1)], axis=1)


def standardise(scores: np.ndarray) -> np.ndarray:
    """Return scores of mean 0 and standard deviation 1, clipped to [-4, 4].

    Args:
      scores: (n, K, s); each of the s scores is standardised over rows and folds.
    """
    deviation = scores.std(axis=(0, 1))
    scores = (scores - scores.mean(axis=(0, 1))) / np.where(deviation > 0, deviation, 1)
    return np.clip(scores, -4, 4).astype(np.float32)
