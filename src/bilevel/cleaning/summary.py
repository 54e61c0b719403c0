"""The numbers of `summary.json`: times, accuracies, and how well wrong labels were found."""

import time

import numpy as np


class Stages:
    """Seconds of each stage, one after another."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._begin = self._last = time.perf_counter()

    def end(self, name: str):
        """The stage that ran until now."""
        now = time.perf_counter()
        self.seconds[name], self._last = round(now - self._last, 3), now

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return round(self._last - self._begin, 3)


def accuracy(outputs, labels) -> float:
    """Share of rows whose largest output is their label."""
    return float(np.mean(outputs.argmax(axis=1) == np.asarray(labels)))


def detection(flagged, suspicion, wrong) -> dict[str, float | None]:
    """Precision, recall and f1 of flags, and the area under the curve of the suspicion.

    The area is None where no row or every row is wrong.
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
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(wrong, suspicion))
