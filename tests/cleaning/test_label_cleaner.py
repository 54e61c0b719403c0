"""`LabelCleaner` as an estimator of scikit-learn."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from bilevel.sklearn import LabelCleaner

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@parametrize_with_checks([LabelCleaner(LogisticRegression())])
def test_the_rules_of_scikit_learn(estimator, check):
    check(estimator)


def sample(rows=300):
    random = np.random.default_rng(0)
    truth = np.array(["no", "yes"])[random.integers(0, 2, rows)]
    X = (truth == "yes")[:, None] * 2.0 + 0.6 * random.normal(size=(rows, 3))
    wrong = random.random(rows) < 0.2
    return X, np.where(wrong, np.where(truth == "no", "yes", "no"), truth), truth


@pytest.mark.parametrize("sparse", [False, True])
def test_it_flags_wrong_labels_and_predicts(sparse):
    X, given, truth = sample()
    rows = scipy.sparse.csr_matrix(X) if sparse else X
    cleaner = LabelCleaner().fit(rows[:200], given[:200], X_trusted=rows[200:], y_trusted=truth[200:])
    wrong = given[:200] != truth[:200]
    assert (cleaner.flagged_ == wrong).mean() > 0.95
    np.testing.assert_array_equal(cleaner.weights_ < 0.5, 1 - cleaner.weights_ > 0.5)
    assert (cleaner.predict(rows) == truth).mean() > 0.95
    np.testing.assert_allclose(cleaner.predict_proba(rows).sum(axis=1), 1)


def test_it_works_in_pipelines_and_cross_validation():
    X, given, _ = sample()
    pipeline = make_pipeline(StandardScaler(), LabelCleaner(LogisticRegression()))
    # One label in five is wrong, and the labels to predict are the given ones.
    assert cross_val_score(pipeline, X, given, cv=3).mean() > 0.7


@pytest.mark.parametrize(
    "trusted, words",
    [
        ((np.ones((3, 3)), None), "belong together, got one of them only"),
        ((np.ones((3, 2)), ["no"] * 3), "must have 3 columns"),
        ((np.ones((3, 3)), ["maybe"] * 3), "classes of y only, got 'maybe'"),
    ],
)
def test_bad_trusted_rows_are_refused(trusted, words):
    X, given, _ = sample()
    with pytest.raises(ValueError, match=words):
        LabelCleaner().fit(X, given, *trusted)
