"""The whole job: `clean` with and without trusted rows, for every kind of rows, and its input rules."""

import numpy as np
import polars
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression

import bilevel
from bilevel import cleaning
from bilevel.cleaning.base_models import BaseModel, cross_fitted
from bilevel.cleaning.rows import join_rows
from bilevel.cleaning.validate import validate
from bilevel.datasets import Dataset, load


def f1(flagged, wrong):
    return 2 * (flagged & wrong).sum() / (flagged.sum() + wrong.sum())


def blobs(rows=400, trusted=100, wrong=0.2, seed=0, classes=3):
    """Return `(X, given, truth, trusted X, trusted y)` of classes that hardly overlap."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, rows + trusted)
    X = np.eye(4)[truth] + 0.25 * random.normal(size=(len(truth), 4))
    given = cleaning.corrupt(truth[:rows], classes, wrong, seed=seed)
    return X[:rows], given, truth[:rows], X[rows:], truth[rows:]


def tiny(**changes):
    random = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int32) % 2
    features = random.normal(size=(40, 3)).astype(np.float32)
    dataset = Dataset("tiny", features, labels, ["no", "yes"])
    return dataset._replace(trusted_features=features[:12] + 1, trusted_labels=labels[:12])._replace(
        **changes
    )


@pytest.fixture(scope="module")
def bench():
    """Return 600 digits, 40 % of the labels pair-wise wrong, 200 trusted rows."""
    return cleaning.split(load("digits"), rows=600, trusted_rows=200, noise=0.4, kind="pair", seed=0)


@pytest.fixture(scope="module")
def cleaned(bench):
    return cleaning.clean_dataset(*bench, estimator="forest")


# The job


def test_structured_noise_is_found_and_its_size_estimated(cleaned):
    summary = cleaned.summary
    # Measured .96 to .98; confident learning reaches .7 on such data.
    assert summary["detection"]["f1"] > 0.93
    assert summary["baseline_detection"]["confident_learning"]["f1"] < summary["detection"]["f1"] - 0.1
    assert cleaned.estimates.wrong == pytest.approx(240, rel=0.1)
    for name in ("precision", "recall"):
        assert getattr(cleaned.estimates, name) == pytest.approx(summary["detection"][name], abs=0.05)
    noise = cleaned.estimates.noise
    assert np.diag(np.roll(noise, -1, axis=1)).mean() == pytest.approx(0.4, abs=0.08)
    accuracy = summary["test_accuracy"]
    assert accuracy["as_given"] < accuracy["cleaned"] <= accuracy["oracle"] + 0.02
    assert cleaned.images.shape == (600, 8, 8) and summary["flagged"] == cleaned.flagged.sum()
    flagged = cleaned.flagged
    assert np.mean(cleaned.suggested[flagged] == cleaned.truth[flagged]) > 0.9
    assert np.all(cleaned.suggested[~flagged] == cleaned.given[~flagged])


def test_the_truth_and_the_test_rows_change_no_result(bench, cleaned):
    dataset, _ = bench
    unknown = dataset._replace(test_features=None, test_labels=None)
    result = cleaning.clean_dataset(unknown, estimator="forest")
    np.testing.assert_array_equal(result.probability, cleaned.probability)
    np.testing.assert_array_equal(result.suggested, cleaned.suggested)
    assert result.truth is None and "detection" not in result.summary
    assert set(result.summary["test_accuracy"].values()) == {None}


def test_right_labels_are_not_flagged():
    X, _, truth, Xt, yt = blobs()
    result = bilevel.clean(X, truth, (Xt, yt), estimator="linear")
    assert not result.flagged.any()
    assert result.summary["signal"] or "no sign of wrong labels" in result.summary["no_signal"]


def test_features_without_signal_flag_nothing_and_say_so():
    random = np.random.default_rng(0)
    X, y = random.normal(size=(500, 3)), random.integers(0, 2, 500)
    result = bilevel.clean(X[:400], y[:400], (X[400:], y[400:]), estimator="linear")
    assert not result.flagged.any() and not result.summary["signal"]
    assert (
        "so no row is flagged" in result.summary["no_signal"]
        and "Nothing is flagged" in result.summary["paragraph"]
    )


def test_the_cost_of_a_false_alarm_moves_the_threshold():
    X, given, _, Xt, yt = blobs(wrong=0.3)
    flags = [
        bilevel.clean(X, given, (Xt, yt), estimator="linear", cost=cost).flagged for cost in (0.05, 1.0, 20.0)
    ]
    assert np.all(flags[0] >= flags[1]) and np.all(flags[1] >= flags[2])
    assert flags[0].sum() > flags[2].sum()


@pytest.mark.parametrize("kind", ["array", "list", "pandas", "polars", "sparse", "images"])
def test_every_kind_of_rows_is_cleaned(kind):
    X, given, truth, Xt, yt = blobs()
    names = np.array(["cat", "dog", "owl"])

    def form(rows):
        if kind in ("pandas", "polars"):
            columns = {f"x{place}": column for place, column in enumerate(rows.T)}
            if kind == "polars":
                return polars.DataFrame(columns)
            pandas = pytest.importorskip("pandas")
            return pandas.DataFrame(columns, index=[f"id {place}" for place in range(len(rows))])
        forms = {
            "list": lambda: rows.tolist(),
            "sparse": lambda: scipy.sparse.csr_array(np.where(rows > 0.4, rows, 0)),
            "images": lambda: rows.reshape(-1, 2, 2).astype(np.float32),
        }
        return forms.get(kind, lambda: rows)()

    result = bilevel.clean(form(X), names[given], (form(Xt), names[yt]), estimator="linear")
    assert f1(result.flagged, given != truth) > (0.75 if kind == "sparse" else 0.95)
    assert result.classes == ["cat", "dog", "owl"]
    frame = result.to_frame()
    assert list(frame["suggested"])[:5] == names[result.suggested[:5]].tolist()
    if kind == "pandas":
        assert list(frame.index[:2]) == ["id 0", "id 1"] and list(frame.columns[:2]) == ["x0", "x1"]
    assert (result.images is not None) == (kind == "images")


def test_texts_are_cleaned():
    random = np.random.default_rng(0)
    words = {"sea": "ship wave salt tide", "sky": "cloud wind bird star"}
    truth = random.choice(list(words), 300)
    texts = [
        " ".join([*random.choice(words[t].split(), 3), *random.choice(["the", "a", "of"], 3)]) for t in truth
    ]
    wrong = random.random(300) < 0.15
    given = np.where(wrong, np.where(truth == "sea", "sky", "sea"), truth)
    mask = np.arange(300) % 4 == 0
    result = bilevel.clean(texts, np.where(mask, truth, given), mask, estimator="linear")
    assert f1(result.flagged, wrong & ~mask) > 0.9


@pytest.mark.parametrize("with_mask", [True, False])
def test_given_probabilities_replace_the_model(with_mask):
    X, given, truth, Xt, yt = blobs()
    rows = join_rows(X, given, Xt, yt, 3, 0)
    outputs = cross_fitted(BaseModel("linear", LogisticRegression), rows)
    if with_mask:
        mask = np.arange(500) >= 400
        result = bilevel.clean(np.concatenate([X, Xt]), np.concatenate([given, yt]), mask, pred_probs=outputs)
        flagged = result.flagged[:400]
    else:
        result = bilevel.clean(X, given, (Xt, yt), pred_probs=(outputs[:400], outputs[400:]))
        flagged = result.flagged
    assert f1(flagged, given != truth) > 0.95 and result.summary["model"] == "given probabilities"


def test_any_classifier_is_taken():
    from sklearn.naive_bayes import GaussianNB

    X, given, truth, Xt, yt = blobs()
    result = bilevel.clean(X, given, (Xt, yt), estimator=GaussianNB())
    assert f1(result.flagged, given != truth) > 0.95 and result.summary["model"] == "GaussianNB"


# Checked rows and no trusted rows


def test_without_trusted_rows_some_are_named_and_checking_them_helps():
    X, given, truth, _, _ = blobs(rows=800, wrong=0.35, classes=3)
    given = np.where(given != truth, (truth + 1) % 3, truth)  # pair noise
    wrong = given != truth
    first = bilevel.clean(X, given, estimator="linear", to_check=60)
    assert first.to_check is not None and len(first.to_check) == 60 and first.influence is None
    mask = np.zeros(len(given), bool)
    mask[first.to_check] = True
    second = bilevel.clean(X, np.where(mask, truth, given), mask, estimator="linear")
    assert second.to_check is None and second.checked.sum() == 60
    assert f1(second.flagged[~mask], wrong[~mask]) >= f1(first.flagged, wrong)


def test_checked_rows_count_as_known():
    X, given, truth, _, _ = blobs()
    checked = np.arange(0, 400, 4)
    dataset = bilevel.datasets.from_arrays(X, given)._replace(
        checked_rows=checked, trusted_features=None, trusted_labels=truth[checked].astype(np.int32)
    )
    dataset = dataset._replace(trusted_features=dataset.features[checked])
    result = cleaning.clean_dataset(dataset, estimator="linear")
    assert result.influence is not None
    np.testing.assert_array_equal(result.flagged[checked], (given != truth)[checked])
    np.testing.assert_array_equal(result.suggested[checked], truth[checked])
    assert set(np.unique(result.probability[checked])) <= {0.0, 1.0}
    assert np.isnan(result.influence[checked]).all() and np.isfinite(result.influence[~result.checked]).all()


def test_checking_only_suspicious_rows_is_a_warning():
    X, given, truth, _, _ = blobs(wrong=0.3)
    dataset = bilevel.datasets.from_arrays(X, given)
    suspicious = np.argsort(-bilevel.clean(X, given, estimator="linear").probability)[:60]
    for rows, warned in ((np.sort(suspicious), True), (np.arange(0, 400, 7), False)):
        checked = dataset._replace(
            checked_rows=rows,
            trusted_features=dataset.features[rows],
            trusted_labels=truth[rows].astype(np.int32),
        )
        warnings = cleaning.clean_dataset(checked, estimator="linear").summary["warnings"]
        assert any("more suspicious than the others" in warning for warning in warnings) == warned


def test_few_trusted_rows_are_a_warning():
    X, given, _, Xt, yt = blobs()
    result = bilevel.clean(X, given, (Xt[:12], yt[:12]), estimator="linear")
    assert any("12 trusted rows are too few to teach" in warning for warning in result.summary["warnings"])
    assert result.to_check is not None


def test_a_class_with_few_trusted_rows_is_named():
    X, given, _, Xt, yt = blobs()
    kept = np.flatnonzero((yt != 2) | (np.cumsum(yt == 2) <= 2))
    result = bilevel.clean(X, given, (Xt[kept], yt[kept]), estimator="linear")
    assert any(
        "fewer than 5 trusted rows have the class 2 (2)" in line for line in result.summary["warnings"]
    )


# Input rules


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"trusted_labels": np.zeros(12, np.int32)}, "at least 2 classes, got only 'no'"),
        ({"trusted_labels": np.arange(11) % 2}, "trusted rows need one label each, got 12 rows and labels"),
        (
            {"trusted_features": np.zeros((12, 4), np.float32)},
            r"shape of training rows, \(3,\), got \(4,\)",
        ),
        ({"features": np.full((40, 3), np.nan, np.float32)}, "must be finite, got 120 NaN"),
        ({"features": np.zeros((39, 3), np.float32)}, "training rows need one label each, got 39 rows"),
        ({"features": np.zeros((40,), np.float32)}, r"must be \(n, d\) or"),
        ({"labels": np.full(40, 2, np.int32)}, "between 0 and 1, got 2 in row 0"),
        ({"labels": np.full(40, 0.5)}, "class indices"),
        ({"classes": ["no"]}, "labels need at least 2 classes"),
    ],
)
def test_bad_data_is_refused_in_one_line(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        cleaning.clean_dataset(tiny(**changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"estimator": "tree"}, "must be one of linear, forest, boosting, mlp for these rows, got 'tree'"),
        ({"cost": 0.0}, "cost must be positive"),
        ({"to_check": 0}, "to_check must be at least 1"),
        ({"estimator": "linear", "pred_probs": np.ones((40, 2)) / 2}, "an estimator or pred_probs, not both"),
        ({"pred_probs": np.ones((39, 2)) / 2}, r"must have the shape \(40, 2\)"),
        ({"pred_probs": (np.ones((40, 2)), np.ones((12, 2)))}, "must be probabilities that sum to 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words) as error:
        cleaning.clean_dataset(tiny(), **arguments)
    assert "\n" not in str(error.value)


def test_a_class_without_trusted_rows_gives_a_warning():
    labels = np.arange(40, dtype=np.int32) % 3
    dataset = tiny(labels=labels, classes=["no", "yes", "maybe"])
    warning = "no trusted row has the class maybe; such labels are judged by trusted rows of the other "
    assert validate(dataset)[-1] == warning + "classes alone"


@pytest.mark.parametrize("sparse", [False, True])
def test_trusted_rows_among_the_training_rows_are_a_warning(bench, sparse):
    dataset, _ = bench
    rows = dataset.features.reshape(len(dataset.labels), -1)
    rows = scipy.sparse.csr_matrix(rows) if sparse else rows
    both = dataset._replace(
        features=rows, trusted_features=rows[:30], trusted_labels=dataset.labels[:30], test_features=None
    )
    assert any("30 of" in warning and "also trusted rows" in warning for warning in validate(both))
