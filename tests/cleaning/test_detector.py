"""The parts of the detector against closed forms and exact samples."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression

from bilevel.cleaning.base_models import BaseModel, candidates, choose, cross_fitted, named, of_estimator
from bilevel.cleaning.confident import calibrate, confident_flags, confident_joint
from bilevel.cleaning.detector import detect
from bilevel.cleaning.flags import estimate, no_signal, threshold
from bilevel.cleaning.noise_matrix import estimate_noise, posterior
from bilevel.cleaning.row_scores import Neighbours, scores
from bilevel.cleaning.rows import join_rows
from bilevel.cleaning.to_check import rows_to_check

LINEAR = BaseModel("linear", LogisticRegression)


def sample(noise, rows, trusted, spread=0.6, seed=0):
    """Return `(rows, truth)`: classes at the corners of a simplex, with labels drawn from a noise matrix."""
    random = np.random.default_rng(seed)
    classes = len(noise)
    truth = random.integers(0, classes, rows + trusted)
    features = (np.eye(classes)[truth] + spread * random.normal(size=(len(truth), classes))).astype("f4")
    given = np.array([random.choice(classes, p=noise[t]) for t in truth[:rows]])
    return join_rows(features[:rows], given, features[rows:], truth[rows:], classes, 0), truth[:rows]


def uniform(classes, rate):
    return (1 - rate) * np.eye(classes) + rate / (classes - 1) * (1 - np.eye(classes))


def pair(classes, rate):
    return (1 - rate) * np.eye(classes) + rate * np.roll(np.eye(classes), 1, axis=1)


# Noise


@pytest.mark.parametrize(
    "noise", [uniform(3, 0.0), uniform(3, 0.3), pair(4, 0.4)], ids=["none", "uniform", "pair"]
)
def test_the_noise_matrix_is_recovered_from_an_imperfect_predictor(noise):
    classes, random = len(noise), np.random.default_rng(0)
    confusion = uniform(classes, 0.15)

    def draw(matrix, rows):
        return np.array([random.choice(classes, p=matrix[row]) for row in rows])

    truth, trusted = random.integers(0, classes, 6000), random.integers(0, classes, 3000)
    estimated, shares = estimate_noise(
        draw(noise, truth), draw(confusion, truth), trusted, draw(confusion, trusted), classes
    )
    np.testing.assert_allclose(estimated.sum(axis=1), 1)
    # Two standard errors of a share of 2,000 rows with these confusions.
    np.testing.assert_allclose(estimated, noise, atol=0.04)
    np.testing.assert_allclose(shares, 1 / classes, atol=0.03)


def test_a_class_without_trusted_rows_has_a_noise_row():
    given = predicted = np.arange(30) % 3
    estimated, _ = estimate_noise(given, predicted, np.array([0, 1]), np.array([0, 1]), 3)
    assert np.isfinite(estimated).all() and estimated.argmax(axis=1).tolist() == [0, 1, 2]


def test_counts_of_checked_rows_enter_the_noise():
    given = predicted = np.arange(30) % 2
    seen = np.array([[100.0, 100.0], [0.0, 200.0]])
    estimated, _ = estimate_noise(given, predicted, np.array([0, 1]), np.array([0, 1]), 2, seen)
    assert estimated[0, 1] > 0.3 and estimated[1, 0] < 0.05


def test_the_posterior_is_bayes_rule():
    outputs, noise = np.array([[0.7, 0.3]]), np.array([[0.9, 0.1], [0.4, 0.6]])
    right = posterior(outputs, np.array([1]), noise)[0, 1]
    assert right == pytest.approx(0.3 * 0.6 / (0.3 * 0.6 + 0.7 * 0.1))


# Scores


def test_scores_are_log_odds_entropy_and_posterior():
    outputs, noise = np.array([[0.5, 0.3, 0.2]]), uniform(3, 0.2)
    own, other, entropy, right = scores(outputs, np.array([1]), noise)[0]
    assert own == pytest.approx(np.log(0.3 / 0.7)) and other == pytest.approx(0)
    assert entropy == pytest.approx(-np.sum(outputs * np.log(outputs)))
    p = 0.3 * 0.8 / (0.3 * 0.8 + 0.7 * 0.1)
    assert right == pytest.approx(np.log(p / (1 - p)))


@pytest.mark.parametrize("sparse", [False, True])
def test_a_row_is_not_its_own_neighbour(sparse):
    rows, _ = sample(uniform(3, 0.0), 60, 30)
    features = scipy.sparse.csr_matrix(np.abs(rows.features)) if sparse else rows.features
    rows = rows._replace(features=features)
    changed = rows._replace(labels=rows.labels.copy())
    changed.labels[7] = (changed.labels[7] + 1) % 3
    weights = np.ones(90)
    before, after = Neighbours(rows).shares(weights), Neighbours(changed).shares(weights)
    np.testing.assert_array_equal(before[7], after[7])
    assert (before != after).any()
    np.testing.assert_allclose(before.sum(axis=1), 1)


def test_no_row_is_predicted_by_a_model_that_saw_its_label():
    rows, _ = sample(uniform(3, 0.2), 100, 50)
    before = cross_fitted(LINEAR, rows)
    changed = rows._replace(labels=rows.labels.copy())
    changed.labels[7] = (changed.labels[7] + 1) % 3
    after = cross_fitted(LINEAR, changed)
    own = rows.fold == rows.fold[7]
    np.testing.assert_array_equal(before[own], after[own])
    assert (before[~own] != after[~own]).any()


# Base models


def test_a_row_of_weight_zero_does_not_train():
    rows, _ = sample(uniform(3, 0.0), 100, 50)
    weights = np.ones(150)
    weights[7] = 0
    changed = rows._replace(labels=rows.labels.copy())
    changed.labels[7] = (changed.labels[7] + 1) % 3
    before, after = cross_fitted(LINEAR, rows, weights), cross_fitted(LINEAR, changed, weights)
    np.testing.assert_array_equal(np.delete(before, 7, 0), np.delete(after, 7, 0))


def test_the_model_that_fits_the_data_is_chosen():
    random = np.random.default_rng(0)
    features = random.uniform(-1, 1, (600, 2)).astype("f4")
    labels = (features[:, 0] * features[:, 1] > 0).astype(int)  # no linear model does this
    rows = join_rows(features[:500], labels[:500], features[500:], labels[500:], 2, 0)
    models = [model for model in candidates(rows, 0) if model.name in ("linear", "forest")]
    choice = choose(models, rows)
    assert choice.model.name == "forest" and choice.accuracy["forest"] > choice.accuracy["linear"] + 0.2
    assert "forest has the best accuracy on the trusted rows" in choice.reason


def test_sparse_rows_have_candidates_that_take_them():
    rows, _ = sample(uniform(3, 0.2), 60, 30)
    sparse = rows._replace(features=scipy.sparse.csr_matrix(rows.features))
    assert {model.name for model in candidates(sparse, 0)} == {"linear", "forest"}
    assert {model.name for model in candidates(rows, 0)} == {"linear", "forest", "boosting", "mlp"}
    with pytest.raises(ValueError, match="must be one of linear, forest for these rows, got 'mlp'"):
        named("mlp", candidates(sparse, 0))


@pytest.mark.parametrize(
    "estimator, words",
    [
        (3, "must be a scikit-learn classifier, got int"),
        ("LinearSVC", "must have predict_proba, which LinearSVC"),
    ],
)
def test_estimators_without_probabilities_are_refused(estimator, words):
    from sklearn.svm import LinearSVC

    with pytest.raises(ValueError, match=words):
        of_estimator(LinearSVC() if estimator == "LinearSVC" else estimator)


def test_an_estimator_without_sample_weights_is_trained_on_kept_rows():
    from sklearn.neighbors import KNeighborsClassifier

    rows, truth = sample(uniform(3, 0.3), 400, 60, spread=0.3)
    found = detect(rows, of_estimator(KNeighborsClassifier(15)), 0)
    wrong = rows.labels[:400] != truth
    assert np.mean((found.probability > 0.5) == wrong) > 0.9


# The detector


@pytest.mark.parametrize("noise", [uniform(3, 0.2), pair(3, 0.4)], ids=["uniform", "pair"])
def test_probabilities_are_calibrated(noise):
    rows, truth = sample(noise, 3000, 300)
    found = detect(rows, LINEAR, 0)
    wrong = rows.labels[:3000] != truth
    assert found.probability.sum() == pytest.approx(wrong.sum(), rel=0.12)
    for low, high in ((0, 0.2), (0.2, 0.8), (0.8, 1)):
        part = (found.probability >= low) & (found.probability <= high)
        # The detector learns from 300 trusted rows.
        assert found.probability[part].mean() == pytest.approx(wrong[part].mean(), abs=0.12)


def test_trusted_rows_with_their_right_labels_are_judged_right():
    rows, _ = sample(uniform(3, 0.2), 500, 100, spread=0.2)
    found = detect(rows, LINEAR, 0)
    assert found.right.shape == (100,) and (found.right < 0.5).mean() > 0.97 and found.area > 0.97


def test_given_probabilities_replace_the_model():
    rows, truth = sample(uniform(3, 0.2), 500, 100, spread=0.4)
    outputs = cross_fitted(LINEAR, rows)
    found = detect(rows._replace(features=rows.features[:, :0]), outputs, 0)
    assert np.mean((found.probability > 0.5) == (rows.labels[:500] != truth)) > 0.9


# Flags


def test_the_threshold_maximises_the_expected_f1():
    probability = np.array([0.9, 0.8, 0.3, 0.1])

    def expected(flags):
        return 2 * probability[:flags].sum() / (flags + probability.sum())

    best = 1 + int(np.argmax([expected(flags) for flags in range(1, 5)]))
    assert (probability >= threshold(probability, None)).sum() == best
    assert threshold(probability, 3.0) == 0.75
    assert threshold(np.full(100, 0.3), None) > 1  # most flags would be false


def test_flags_are_given_up_where_right_labels_would_be_flagged_as_often():
    assert no_signal(0.5, 0.5, 100, 1000, 0, 100).startswith("the scores do not tell")
    assert no_signal(0.7, 0.69, 100, 1000, 0, 100).startswith("the scores do not tell")
    assert no_signal(0.999, 0.98, 60, 1200, 0, 200) == ""  # noise in one class only
    assert no_signal(0.99, 0.5, 5, 1200, 0, 200).startswith("0 of 200 trusted rows would be flagged")
    assert no_signal(0.99, 0.5, 60, 1200, 0, 200) == ""
    assert no_signal(0.99, 0.5, 0, 1200, 0, 200) == ""
    # Twenty trusted rows could never tell.
    assert no_signal(0.99, 0.5, 60, 1200, 0, 20) == ""


def test_estimates_are_sums_of_probabilities():
    probability, flagged = np.array([0.9, 0.2, 0.6, 0.1]), np.array([1, 0, 1, 0], bool)
    found = estimate(probability, flagged, np.array([0, 0, 1, 1]), ["a", "b"], np.array([0]), np.eye(2))
    assert (found.wrong, found.rate) == pytest.approx((1.8, 0.45))
    assert (found.precision, found.recall) == pytest.approx((0.75, 1.5 / 1.8))
    first = found.classes[0]
    assert (first.rows, first.trusted, first.flagged) == (2, 1, 1)
    assert (first.wrong, first.precision, first.false_alarms) == pytest.approx((1.1, 0.9, 0.1 / 0.9))
    nothing = estimate(
        probability, np.zeros(4, bool), np.array([0, 0, 1, 1]), ["a", "b"], np.array([0]), np.eye(2)
    )
    assert np.isnan(nothing.precision)


# Without trusted rows


def test_confident_learning_finds_the_wrong_labels():
    rows, truth = sample(uniform(3, 0.2), 1000, 0, spread=0.3)
    outputs = cross_fitted(LINEAR, rows)
    joint = confident_joint(outputs, rows.labels)
    np.testing.assert_allclose(joint.sum(axis=1), np.bincount(rows.labels))
    wrong = rows.labels != truth
    assert 1 - np.trace(joint) / 1000 == pytest.approx(wrong.mean(), abs=0.03)
    flagged = confident_flags(outputs, rows.labels)
    assert 2 * (flagged & wrong).sum() / (flagged.sum() + wrong.sum()) > 0.9


def test_calibration_keeps_the_order_and_meets_the_number():
    probability = np.random.default_rng(0).random(200)
    shifted = calibrate(probability, 20)
    assert shifted.sum() == pytest.approx(20)
    np.testing.assert_array_equal(np.argsort(probability), np.argsort(shifted))
    assert calibrate(probability, 0).sum() == pytest.approx(0, abs=0.01)


def test_rows_to_check_are_spread_over_classes_and_suspicion():
    random = np.random.default_rng(0)
    given = np.repeat([0, 1, 2], [600, 300, 100])
    confidence = random.random(1000)
    for count in (50, 100, 200):
        rows = rows_to_check(confidence, given, count)
        assert len(rows) == len(set(rows.tolist())) == count
        np.testing.assert_allclose(np.bincount(given[rows]) / count, [0.6, 0.3, 0.1], atol=0.02)
        # Every level of suspicion has its rows, in the first ones too.
        for part in (rows, rows[: count // 2]):
            ranks = (confidence[:, None] > confidence[part]).mean(axis=0)
            assert np.abs(np.histogram(ranks, 5, (0, 1))[0] / len(part) - 0.2).max() < 0.1
    assert len(rows_to_check(confidence[:4], given[:4], 50)) == 4
