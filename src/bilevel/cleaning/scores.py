"""Scores of a row that tell a wrong label: they never come from a model that has seen the row."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special


def deal(labels, parts: int, seed: int) -> np.ndarray:
    """(n,) part of each row: parts of equal size, each class spread over all of them."""
    labels = np.asarray(labels)
    order = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    dealt = np.empty(len(labels), int)
    dealt[order] = np.arange(len(labels)) % parts
    return dealt


def cross_fitted(fit: Callable[[np.ndarray], Any], outputs: Callable[[Any], np.ndarray], parts) -> np.ndarray:
    """(n, classes) outputs for each row of the model trained without the row's part.

    Args:
      fit: trains on the rows of a (n,) bool mask.
      outputs: (n, classes) outputs of a trained model on all rows.
      parts: (n,) part of each row.
    """
    result = np.zeros(0)
    for part in np.unique(parts):
        held = parts == part
        current = outputs(fit(~held))
        result = result if result.size else np.zeros_like(current)
        result[held] = current[held]
    return result


def label_scores(outputs, labels) -> np.ndarray:
    """(n, 2) log-probability of the given label, and its margin over the best other label."""
    logs = scipy.special.log_softmax(outputs.astype(np.float32), axis=1)
    rows = np.arange(len(labels))
    given = logs[rows, labels]
    others = logs.copy()
    others[rows, labels] = -np.inf
    return np.stack([given, given - others.max(axis=1)], axis=1)


def standardise(scores) -> np.ndarray:
    """Scores (n, K, s) of mean 0 and deviation 1 over rows and folds, cut at four deviations."""
    deviation = scores.std(axis=(0, 1))
    scores = (scores - scores.mean(axis=(0, 1))) / np.where(deviation > 0, deviation, 1)
    return np.clip(scores, -4, 4).astype(np.float32)
