"""Numbers of `summary.json`: times, accuracies, and the quality of the flags."""

import time

import numpy as np

from bilevel.extras import extra


class Stages:
    """Clock that records the seconds of consecutive stages."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._begin = self._last = time.perf_counter()

    def end(self, name: str) -> None:
        """Record under this name the stage that ends now."""
        now = time.perf_counter()
        self.seconds[name], self._last = round(now - self._last, 3), now

    @property
    def total(self) -> float:
        """Seconds of all stages together."""
        return round(self._last - self._begin, 3)


def accuracy(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of rows whose largest output belongs to their label; outputs must be finite."""
    right = outputs.argmax(axis=1) == np.asarray(labels)
    return float(np.mean(right & np.isfinite(outputs).all(axis=1)))


def detection(flagged: np.ndarray, suspicion: np.ndarray, wrong: np.ndarray) -> dict[str, float | None]:
    """Return precision, recall and f1 of the flags, and `auroc` of the suspicion.

    Args:
      flagged: (n,) bool, rows that a method flags.
      suspicion: (n,) float, larger for rows that the method suspects more.
      wrong: (n,) bool, rows whose label is wrong.

    Returns:
      The four numbers by name. `auroc`, the area under the ROC curve, is None unless some labels are
      wrong and some are right.
    """
    hits = float(np.sum(flagged & wrong))
    precision = hits / max(1, int(flagged.sum()))
    recall = hits / max(1, int(wrong.sum()))
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / max(precision + recall, 1e-12),
        "auroc": _area(suspicion, wrong),
    }


def _area(suspicion, wrong):
    if wrong.all() or not wrong.any():
        return None
    with extra("clean"):
        from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(wrong, suspicion))
