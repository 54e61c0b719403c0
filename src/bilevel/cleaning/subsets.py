"""Training of one classifier on many subsets of the rows of a data set."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bilevel.cleaning.classifiers import CLASSIFIERS
from bilevel.cleaning.scaling import join, scaling, to_device
from bilevel.cleaning.scores import cross_fitted, deal, label_scores, standardise
from bilevel.cleaning.scoring import accuracy
from bilevel.cleaning.training import Fit, calibrated_loss, fit, fit_path, initial_parameters, predict
from bilevel.datasets.types import Dataset

PARTS = 5
FOLDS = 2


class SubsetTrainer:
    """Trainer of a classifier on subsets of the rows.

    Penalties are chosen on trusted rows.

    Attributes:
      classifier: functions of the classifier.
      seed: seed of the start and of the parts.
      labels, trusted_labels: (n,), (m,) class indices.
      training, trusted: scaled features.
      held: (m,) bool, a fifth of the trusted rows, held out for early stopping.
      fold: (m,) 0 or 1, two folds of the trusted rows; the scores for a fold do not use that fold.
    """

    def __init__(self, dataset: Dataset, classifier: str, seed: int):
        self.classifier, self.seed = CLASSIFIERS[classifier](), seed
        self.labels = np.asarray(dataset.labels, np.int32)
        self.trusted_labels = np.asarray(dataset.trusted_labels, np.int32)
        self._scale: Callable = scaling(dataset.features)
        self.trusted = self._scale(dataset.trusted_features)
        both: Any = join(self._scale(dataset.features), self.trusted)
        self.training = both[: len(self.labels)]
        self._all = to_device(both, np.concatenate([self.labels, self.trusted_labels]))
        self._anchors = to_device(self.trusted, self.trusted_labels)
        self._start = initial_parameters(self.classifier, both, len(dataset.classes), seed)
        part = deal(self.trusted_labels, PARTS, seed)
        self.held, self.fold = part == PARTS - 1, part % FOLDS
        # A penalty is chosen by training on one half of the trusted rows and testing on the other.
        self._half = part % 2 == 0

    def as_given(self) -> tuple[Fit, np.ndarray]:
        """Return the fit on all training rows as given, and their cross-fitted outputs."""
        judge = self._judge(slice(None))
        chosen = fit_path(self.classifier, self._all, self._mask(True, False), self._start, judge)
        parts = deal(self.labels, PARTS, self.seed + 1)
        return chosen, cross_fitted(lambda seen: self._given(seen, chosen.penalty).y, self.outputs, parts)

    def equal_weights(self, penalty: float) -> Any:
        """Return the parameters trained on all training rows with a given penalty."""
        return self._given(np.ones(len(self.labels)), penalty).y

    def trusted_only(self) -> Fit:
        """Return the fit on the trusted rows alone."""
        judge = self._judge(~self._half)
        penalty = fit_path(self.classifier, self._anchors, self._half, self._start, judge).penalty
        return fit(self.classifier, self._anchors, np.ones(len(self.trusted_labels)), penalty, self._start)

    def retrain(self, keep: np.ndarray) -> Fit:
        """Return the fit on the kept training rows and all trusted rows.

        Args:
          keep: (n,) bool, training rows to keep.
        """
        judge = self._judge(~self._half)
        chosen = fit_path(self.classifier, self._all, self._mask(keep, self._half), self._start, judge)
        return fit(self.classifier, self._all, self._mask(keep, True), chosen.penalty, chosen.y)

    def scores(self, given_outputs: np.ndarray, penalty: float) -> np.ndarray:
        """Return (n, folds, 4) scores of training rows; scores k have not seen fold k.

        Args:
          given_outputs: (n, classes) cross-fitted outputs, from `as_given`.
          penalty: penalty of the classifiers trained on trusted rows.
        """
        given, scores = label_scores(given_outputs, self.labels), []
        for k in range(FOLDS):
            seen = (self.fold != k) & ~self.held
            outputs = self.outputs(fit(self.classifier, self._anchors, seen, penalty, self._start).y)
            scores.append(np.concatenate([given, label_scores(outputs, self.labels)], axis=1))
        return standardise(np.stack(scores, axis=1))

    def outputs(self, y: Any) -> np.ndarray:
        """Return the (n, classes) outputs for the training rows."""
        return predict(self.classifier, y, self._all.features)[: len(self.labels)]

    def test_accuracy(self, dataset: Dataset, fits: dict[str, Fit]) -> dict[str, float | None]:
        """Return the accuracy of each fit on the test part, None without a test part.

        Args:
          dataset: the data set of this trainer.
          fits: fits by name.
        """
        if dataset.test_features is None:
            return dict.fromkeys(fits)
        test = to_device(self._scale(dataset.test_features), dataset.test_labels)
        return {
            name: accuracy(predict(self.classifier, chosen.y, test.features), test.labels)
            for name, chosen in fits.items()
        }

    def _given(self, weights, penalty):
        return fit(self.classifier, self._all, self._mask(weights, False), penalty, self._start)

    def _mask(self, keep, trust):
        """Return the weights of all rows, training rows first."""
        keep = np.broadcast_to(keep, self.labels.shape)
        return np.concatenate([keep, np.broadcast_to(trust, self.trusted_labels.shape)]).astype(np.float32)

    def _judge(self, rows):
        """Return the function from parameters to their calibrated loss on trusted rows."""

        def judge(y):
            outputs = predict(self.classifier, y, self._anchors.features)
            return calibrated_loss(outputs[rows], self.trusted_labels[rows])

        return judge
