"""Estimators with the interface of scikit-learn; they need the extra `clean`."""

from typing import Any

import numpy as np

from bilevel.cleaning.clean import clean_dataset
from bilevel.cleaning.validate import FEWEST_ROWS
from bilevel.datasets.types import Dataset
from bilevel.extras import extra

with extra("clean"):
    from sklearn.base import BaseEstimator, ClassifierMixin, clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_array, check_is_fitted, validate_data

__all__ = ["LabelCleaner"]


class LabelCleaner(ClassifierMixin, BaseEstimator):
    """Classifier that is trained on the rows whose labels look right.

    `fit` finds the wrong labels with `bilevel.clean` and the given classifier, and trains the classifier
    on the other rows and the trusted rows.

    Args:
      estimator: classifier with `predict_proba`; default: `LogisticRegression()`.
      cost: ratio of two costs, a false alarm to a missed wrong label; default: the threshold with the
        largest expected f1.
      random_state: integer seed of the folds.

    Attributes:
      classes_: (K,) the classes.
      weights_: (n,) probability that each label is right.
      flagged_: (n,) bool, rows whose label is probably wrong.
      cleaning_: the `Cleaning`, or None where the rows are too few to be cleaned.
      estimator_: the trained classifier.

    >>> X = np.concatenate([np.linspace(-2, -1, 50), np.linspace(1, 2, 50)])[:, None]
    >>> y = np.repeat(["no", "yes"], 50)
    >>> y[3] = "yes"
    >>> cleaner = LabelCleaner().fit(X, y, X_trusted=X[1::2] + 0.01, y_trusted=np.repeat(["no", "yes"], 25))
    >>> cleaner.flagged_.nonzero()[0], cleaner.predict([[-1.5]])
    (array([3]), array(['no'], dtype='<U3'))
    """

    estimator_: Any
    n_features_in_: int

    def __init__(self, estimator: Any = None, *, cost: float | None = None, random_state: int = 0):
        self.estimator = estimator
        self.cost = cost
        self.random_state = random_state

    def fit(self, X: Any, y: Any, X_trusted: Any = None, y_trusted: Any = None) -> "LabelCleaner":
        """Find the wrong labels and train the classifier without them.

        Args:
          X: (n, d) rows, dense or sparse.
          y: (n,) labels, some of them wrong.
          X_trusted, y_trusted: rows whose labels are right; None means no trusted rows.

        Returns:
          The fitted estimator.

        Raises:
          ValueError: when rows or labels break a rule.
        """
        X, y = validate_data(self, X, y, accept_sparse="csr")
        check_classification_targets(y)
        self.classes_, given = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"LabelCleaner needs at least 2 classes, got 1 class, {self.classes_[0]!r}")
        trusted = self._trusted(X_trusted, y_trusted)
        self.estimator_ = clone(LogisticRegression() if self.estimator is None else self.estimator)
        self.cleaning_ = None
        self.weights_, self.flagged_ = np.ones(len(given)), np.zeros(len(given), bool)
        if len(given) >= FEWEST_ROWS:
            data = Dataset(
                name="data",
                features=X,
                labels=given.astype(np.int32),
                classes=[str(label) for label in self.classes_],
                trusted_features=trusted[0],
                trusted_labels=trusted[1],
            )
            self.cleaning_ = clean_dataset(
                data, estimator=self.estimator_, cost=self.cost, seed=self.random_state, influence=False
            )
            self.weights_, self.flagged_ = self.cleaning_.weights, self.cleaning_.flagged
        kept = ~self.flagged_
        if len(np.unique(given[kept])) < len(self.classes_):  # a class would be lost
            kept = np.ones(len(given), bool)
        rows, labels = X[kept], y[kept]
        if trusted[0] is not None:
            rows = _stack(rows, trusted[0])
            labels = np.concatenate([labels, self.classes_[trusted[1]]])
        self.estimator_.fit(rows, labels)
        return self

    def _trusted(self, X, y):
        if X is None and y is None:
            return None, None
        if X is None or y is None:
            raise ValueError("X_trusted and y_trusted belong together, got one of them only; give both")
        X, y = check_array(X, accept_sparse=True), np.asarray(y)
        if X.shape[1] != self.n_features_in_ or len(y) != X.shape[0]:
            raise ValueError(
                f"X_trusted must have {self.n_features_in_} columns and y_trusted one label for each row, "
                f"got shapes {X.shape} and {y.shape}"
            )
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"y_trusted must hold classes of y only, got {str(unknown[0])!r}; correct it")
        return X, np.searchsorted(self.classes_, y).astype(np.int32)

    def predict(self, X: Any) -> np.ndarray:
        """Return the (n,) predicted classes of rows."""
        check_is_fitted(self)
        return self.estimator_.predict(validate_data(self, X, accept_sparse="csr", reset=False))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the (n, K) probabilities of the classes of rows."""
        check_is_fitted(self)
        return self.estimator_.predict_proba(validate_data(self, X, accept_sparse="csr", reset=False))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _stack(first, second):
    if hasattr(first, "tocsr"):
        import scipy.sparse

        return scipy.sparse.vstack([first, second], format="csr")
    return np.concatenate([first, second])
