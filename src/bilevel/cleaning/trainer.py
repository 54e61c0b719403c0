"""The models of a cleaning run: one architecture, trained on many choices of the same rows."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bilevel.cleaning.fitting import Fit, calibrated_loss, fit, fit_path, logits, start
from bilevel.cleaning.models import MODELS
from bilevel.cleaning.scaling import join, scaling, to_device
from bilevel.cleaning.scores import cross_fitted, deal, label_scores, standardise
from bilevel.cleaning.summary import accuracy
from bilevel.datasets.types import Dataset

PARTS = 5
FOLDS = 2


class Trainer:
    """Trains on any of the training rows and any of the trusted rows, penalties chosen on the latter.

    Attributes:
      net: the model.
      labels, trusted_labels: (n,), (m,) class indices.
      training, trusted: scaled features.
      held: (m,) bool, a fifth of the trusted rows, kept out for early stopping.
      fold: (m,) 0 or 1, two halves of the others, each scored by models that have not seen it.
    """

    def __init__(self, dataset: Dataset, model: str, seed: int):
        self.net, self.seed = MODELS[model](), seed
        self.labels = np.asarray(dataset.labels, np.int32)
        self.trusted_labels = np.asarray(dataset.trusted_labels, np.int32)
        self._scale: Callable = scaling(dataset.features)
        self.trusted = self._scale(dataset.trusted_features)
        both: Any = join(self._scale(dataset.features), self.trusted)
        self.training = both[: len(self.labels)]
        self._all = to_device(both, np.concatenate([self.labels, self.trusted_labels]))
        self._anchors = to_device(self.trusted, self.trusted_labels)
        self._start = start(self.net, both, len(dataset.classes), seed)
        part = deal(self.trusted_labels, PARTS, seed)
        self.held, self.fold = part == PARTS - 1, part % FOLDS
        # Penalties are chosen by models of one half of the trusted rows, on the other.
        self._half = part % 2 == 0

    def as_given(self) -> tuple[Fit, np.ndarray]:
        """The model of all training rows as they are, and cross-fitted outputs for each of them."""
        chosen = fit_path(self.net, self._all, self._mask(True, False), self._start, self._judge(slice(None)))
        parts = deal(self.labels, PARTS, self.seed + 1)
        return chosen, cross_fitted(lambda seen: self._given(seen, chosen.penalty).y, self.outputs, parts)

    def equal_weights(self, penalty: float) -> Any:
        """Parameters of the model of all training rows, for a given penalty."""
        return self._given(np.ones(len(self.labels)), penalty).y

    def trusted_only(self) -> Fit:
        """The model of the trusted rows."""
        judge = self._judge(~self._half)
        penalty = fit_path(self.net, self._anchors, self._half, self._start, judge).penalty
        return fit(self.net, self._anchors, np.ones(len(self.trusted_labels)), penalty, self._start)

    def retrain(self, keep) -> Fit:
        """The model of the kept training rows and all trusted rows."""
        judge = self._judge(~self._half)
        chosen = fit_path(self.net, self._all, self._mask(keep, self._half), self._start, judge)
        return fit(self.net, self._all, self._mask(keep, True), chosen.penalty, chosen.y)

    def scores(self, given_outputs: np.ndarray, penalty: float) -> np.ndarray:
        """(n, folds, 4) scores of the training rows; those of fold k have not seen trusted fold k."""
        given, scores = label_scores(given_outputs, self.labels), []
        for k in range(FOLDS):
            seen = (self.fold != k) & ~self.held
            outputs = self.outputs(fit(self.net, self._anchors, seen, penalty, self._start).y)
            scores.append(np.concatenate([given, label_scores(outputs, self.labels)], axis=1))
        return standardise(np.stack(scores, axis=1))

    def outputs(self, y) -> np.ndarray:
        """(n, classes) outputs of a model for the training rows."""
        return logits(self.net, y, self._all.features)[: len(self.labels)]

    def test_accuracy(self, dataset: Dataset, models: dict[str, Fit]) -> dict[str, float | None]:
        """Accuracy of each model on the test part, None for all when there is none."""
        if dataset.test_features is None:
            return dict.fromkeys(models)
        test = to_device(self._scale(dataset.test_features), dataset.test_labels)
        return {
            name: accuracy(logits(self.net, model.y, test.features), test.labels)
            for name, model in models.items()
        }

    def _given(self, weights, penalty):
        return fit(self.net, self._all, self._mask(weights, False), penalty, self._start)

    def _mask(self, keep, trust):
        """Weights of all rows, training rows first."""
        keep = np.broadcast_to(keep, self.labels.shape)
        return np.concatenate([keep, np.broadcast_to(trust, self.trusted_labels.shape)]).astype(np.float32)

    def _judge(self, rows):
        def judge(y):
            outputs = logits(self.net, y, self._anchors.features)
            return calibrated_loss(outputs[rows], self.trusted_labels[rows])

        return judge
