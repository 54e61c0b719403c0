"""Scores of rows that tell wrong labels from right ones, from models that have not seen the row."""

from typing import Any

import numpy as np
import scipy.sparse

from bilevel.cleaning.noise_matrix import posterior
from bilevel.cleaning.rows import Rows
from bilevel.extras import extra

NEIGHBOURS = 15
# Neighbours are sought among all trusted rows and at most this many training rows.
REFERENCES = 20_000


def scores(outputs: np.ndarray, labels: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return (N, 4) scores of labels by one model.

    The scores are the log-odds of the label and of the best other class, the entropy, and the log-odds
    of the posterior of the label under the noise.

    Args:
      outputs: (N, K) probabilities of the classes by a model that has not seen the row.
      labels: (N,) class indices to judge.
      noise: (K, K) noise T.
    """
    rows = np.arange(len(labels))
    own = outputs[rows, labels]
    others = outputs.copy()
    others[rows, labels] = 0
    entropy = -(outputs * np.log(np.maximum(outputs, 1e-12))).sum(axis=1)
    right = posterior(outputs, labels, noise)[rows, labels]
    return np.stack([_log_odds(own), _log_odds(others.max(axis=1)), entropy, _log_odds(right)], axis=1)


def _log_odds(probability):
    clipped = np.clip(probability, 1e-4, 1 - 1e-4)
    return np.log(clipped / (1 - clipped))


class Neighbours:
    """The nearest neighbours of all rows, and the share of each class among them."""

    def __init__(self, rows: Rows):
        with extra("clean"):
            from sklearn.neighbors import NearestNeighbors
            from sklearn.preprocessing import StandardScaler, normalize

        self._rows = rows
        sparse = scipy.sparse.issparse(rows.features)
        features: Any = normalize(rows.features) if sparse else StandardScaler().fit_transform(rows.features)
        references = np.flatnonzero(~rows.trusted)
        if len(references) > REFERENCES:
            references = np.random.default_rng(0).choice(references, REFERENCES, replace=False)
        references = np.concatenate([references, np.flatnonzero(rows.trusted)])
        count = min(NEIGHBOURS + 1, len(references))
        method = "brute" if sparse or features.shape[1] > 15 else "auto"
        search = NearestNeighbors(n_neighbors=count, algorithm=method, n_jobs=-1).fit(features[references])
        self._near = references[search.kneighbors(features, return_distance=False)]

    def shares(self, weights: np.ndarray) -> np.ndarray:
        """Return (N, K) weighted shares of the classes among the neighbours of each row.

        Args:
          weights: (N,) weights of the rows.
        """
        rows, classes = self._rows, self._rows.classes
        votes = np.zeros((len(rows.labels), classes))
        own = np.arange(len(rows.labels))
        for near in self._near.T:
            other = near != own
            np.add.at(votes, (own[other], rows.labels[near[other]]), weights[near[other]])
        return (votes + 0.5 / classes) / (votes.sum(axis=1, keepdims=True) + 0.5)
