"""The detector of wrong labels, taught by canaries.

A canary is a trusted row with a label of which it is known whether it is wrong. Each trusted row j
with true class t makes one canary for every class g, with the weight T[t, g], the probability that the
noise gives it this label. With scores s(row, label) from models that have not seen the row, the
detector is the logistic regression

    min_a  sum_{j, g} T[t_j, g] CE([g != t_j], a' s(j, g)) + ||a||^2 / (2 C)

which is calibrated by a second one, from its cross-fitted outputs (Platt). The models learn from the
trusted rows with their true labels only, and cross-fitting keeps a row's label out of its own scores,
so canaries need no training of their own.
"""

from typing import NamedTuple

import numpy as np
import scipy.special

from bilevel.cleaning.base_models import BaseModel, cross_fitted, trusted_only
from bilevel.cleaning.noise_matrix import estimate_noise
from bilevel.cleaning.row_scores import Neighbours, scores
from bilevel.cleaning.rows import FOLDS, Rows, deal
from bilevel.extras import extra

ROUNDS = 2
STRENGTH = 1.0
# Canaries can be separable, and without a penalty their detector would be sure of everything.
PLATT_STRENGTH = 0.5
FARTHEST = 6.0  # in standard deviations
# Canaries of a smaller weight are left out.
RAREST = 1e-4


class Detection(NamedTuple):
    """The outcome of the detector.

    Attributes:
      probability: (n,) probability that the given label of each training row is wrong.
      right: (m,) the same for the trusted rows with their checked labels, by detectors that have not
        seen the row.
      area: area under the ROC curve of the cross-fitted detector on the canaries.
      label_area: the same of the label alone: some classes are given wrongly more often.
      noise: (K, K) noise T[t, g].
      as_given: (N, K) cross-fitted probabilities of the base model with equal weights.
      outputs: (N, K) the same in the last round, with rows weighted.
      alone: (N, K) the same of models of the trusted rows alone, or None.
    """

    probability: np.ndarray
    right: np.ndarray
    area: float
    label_area: float
    noise: np.ndarray
    as_given: np.ndarray
    outputs: np.ndarray
    alone: np.ndarray | None


def detect(
    rows: Rows,
    model: BaseModel | np.ndarray,
    seed: int,
    seen: np.ndarray | None = None,
    rounds: int = ROUNDS,
) -> Detection:
    """Return the probability of a wrong label for each training row.

    After each round, the base model is trained again on rows weighted by the probability that their
    label is right.

    Args:
      rows: training and trusted rows.
      model: the base model, or (N, K) probabilities of the user's model for all rows.
      seed: seed of the folds of the canaries and of the forest.
      seen: (K, K) counts of (true, given) label among checked rows, or None.
      rounds: number of rounds.
    """
    labels, trusted = rows.labels, rows.trusted
    given, checked = labels[~trusted], labels[trusted]
    weights = np.ones(len(labels))
    fixed = isinstance(model, np.ndarray)
    alone = None if fixed else trusted_only(model, rows, seed)
    neighbours = Neighbours(rows) if rows.features.shape[1] else None
    as_given = outputs = model if fixed else cross_fitted(model, rows)
    for number in range(rounds):
        if number and not fixed:
            outputs = cross_fitted(model, rows, weights)
        predicted = outputs.argmax(axis=1)
        noise, _ = estimate_noise(given, predicted[~trusted], checked, predicted[trusted], rows.classes, seen)
        views = [outputs]
        views += [] if alone is None else [alone]
        views += [] if neighbours is None else [neighbours.shares(weights)]

        def judge(positions, judged, views=views, noise=noise):
            return np.concatenate([scores(view[positions], judged, noise) for view in views], axis=1)

        detector = _Detector(judge, np.flatnonzero(trusted), checked, noise, seed)
        probability = detector(judge(np.flatnonzero(~trusted), given))
        weights = np.where(trusted, 1.0, 0.0)
        weights[~trusted] = 1 - probability
    return Detection(
        probability=probability,
        right=detector.right,
        area=detector.area,
        label_area=detector.label_area,
        noise=noise,
        as_given=as_given,
        outputs=outputs,
        alone=alone,
    )


class _Detector:
    """A calibrated logistic regression on the scores of canaries."""

    def __init__(self, judge, positions, labels, noise, seed):
        with extra("clean"):
            from sklearn.linear_model import LogisticRegression
            from sklearn.metrics import roc_auc_score

        row, label = np.divmod(np.arange(len(labels) * len(noise)), len(noise))
        weight = noise[labels[row], label]
        # The true label of a trusted row is always judged, for `right`, and its most frequent wrong one.
        others = np.where(np.eye(len(noise), dtype=bool), -1, noise).argmax(axis=1)
        kept = (weight > RAREST) | (label == labels[row]) | (label == others[labels[row]])
        row, label, weight = row[kept], label[kept], weight[kept]
        raw, wrong = judge(positions[row], label), label != labels[row]
        self._mean = weight @ raw / weight.sum()
        self._deviation = np.sqrt(weight @ (raw - self._mean) ** 2 / weight.sum()) + 1e-9
        scaled = self._scale(raw)

        def fit(mask):
            return LogisticRegression(C=STRENGTH, max_iter=500).fit(
                scaled[mask], wrong[mask], sample_weight=weight[mask]
            )

        self._raw = fit(np.ones(len(row), bool))
        part, logits = deal(labels, FOLDS, seed + 2)[row], np.zeros(len(row))
        for held in range(FOLDS):
            if (part == held).any():
                logits[part == held] = fit(part != held).decision_function(scaled[part == held])
        platt = LogisticRegression(C=PLATT_STRENGTH, max_iter=500).fit(
            logits[:, None], wrong, sample_weight=weight
        )
        self._slope, self._shift = float(platt.coef_[0, 0]), float(platt.intercept_[0])
        self.area = float(roc_auc_score(wrong, logits, sample_weight=weight))
        given = np.bincount(label, weight, len(noise))
        rate = np.bincount(label[wrong], weight[wrong], len(noise)) / np.maximum(given, 1e-12)
        self.label_area = float(roc_auc_score(wrong, rate[label], sample_weight=weight))
        self.right = np.zeros(len(labels))
        self.right[row[~wrong]] = scipy.special.expit(self._slope * logits[~wrong] + self._shift)

    def _scale(self, raw):
        return np.clip((raw - self._mean) / self._deviation, -FARTHEST, FARTHEST)

    def __call__(self, raw):
        logits = self._raw.decision_function(self._scale(raw))
        return scipy.special.expit(self._slope * logits + self._shift)
