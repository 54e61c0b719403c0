"""Cleaning: noise, scores, input rules, and the whole job on the digits."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse

from bilevel import cleaning
from bilevel.cleaning import weighting
from bilevel.cleaning.classifiers import CLASSIFIERS
from bilevel.cleaning.clean import _make_weighting, _train_baselines
from bilevel.cleaning.precision import single_precision
from bilevel.cleaning.scaling import scaling, to_device
from bilevel.cleaning.scores import cross_fitted, deal, label_scores, standardise
from bilevel.cleaning.subsets import SubsetTrainer
from bilevel.cleaning.summary import Stages, accuracy, detection
from bilevel.cleaning.training import _lbfgs, calibrated_loss, fit, initial_parameters, predict
from bilevel.cleaning.validate import validate
from bilevel.cleaning.weighting import _stop_early, _warn_of_residuals
from bilevel.datasets import Dataset, load


@pytest.fixture(scope="module")
def bench():
    """Return 600 digits, 40 % of the labels wrong, 100 trusted rows."""
    return cleaning.split(load("digits"), rows=600, trusted_rows=100, noise=0.4, seed=0)


@pytest.fixture(scope="module")
def cleaned(bench):
    """Return the result of the default run on the bench, in 300 steps."""
    return cleaning.clean(*bench, steps=300, progress=False)


@pytest.fixture(scope="module", params=["linear", "mlp"])
def prepared(request, bench):
    """Return a classifier on the bench and its baselines, before weights are learnt."""
    with single_precision():
        trainer = SubsetTrainer(bench[0], request.param, 0)
        return trainer, _train_baselines(trainer, Stages())


def learn(prepared, kind, algorithm, steps):
    """Learn weights on the bench, without the training that follows in `clean`."""
    trainer, baselines = prepared
    with single_precision():
        learnt = weighting.learn_weights(
            _make_weighting(kind, trainer, baselines),
            algorithm,
            inner_step=trainer.classifier.step,
            steps=steps,
            seed=0,
            progress=False,
            checkpoint=None,
        )
    return learnt


def tiny(**changes):
    random = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int32) % 2
    features = random.normal(size=(40, 3)).astype(np.float32)
    dataset = Dataset("tiny", features, labels, ["no", "yes"])
    return dataset._replace(trusted_features=features[:12], trusted_labels=labels[:12])._replace(**changes)


# Noise


@pytest.mark.parametrize("kind", ["uniform", "pair"])
def test_noise_is_exact_and_never_keeps_the_label(kind):
    labels = np.random.default_rng(0).integers(0, 4, 1000)
    noisy = cleaning.corrupt(labels, 4, 0.3, kind=kind, seed=1)
    wrong = noisy != labels
    assert wrong.sum() == 300
    shifts = set(((noisy - labels)[wrong] % 4).tolist())
    assert shifts == ({1} if kind == "pair" else {1, 2, 3})


def test_noise_is_a_function_of_the_seed():
    labels = np.zeros(100, int)
    np.testing.assert_array_equal(
        cleaning.corrupt(labels, 3, 0.5, seed=2), cleaning.corrupt(labels, 3, 0.5, seed=2)
    )
    assert (cleaning.corrupt(labels, 3, 0.5, seed=2) != cleaning.corrupt(labels, 3, 0.5, seed=3)).any()


@pytest.mark.parametrize(
    "arguments, words",
    [((3, 1.0), "noise must be in"), ((3, -0.1), "noise must be in"), ((1, 0.1), "at least 2 classes")],
)
def test_noise_out_of_range_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        cleaning.corrupt(np.zeros(5, int), *arguments)


def test_split_keeps_trusted_rows_clean_and_apart():
    features = np.arange(100, dtype=np.float32)[:, None]
    dataset = Dataset("numbers", features, (np.arange(100) % 5).astype(np.int32), list("abcde"))
    bench, truth = cleaning.split(dataset, rows=60, trusted_rows=30, noise=0.5)
    trusted = bench.trusted_features
    assert trusted is not None
    np.testing.assert_array_equal(bench.trusted_labels, trusted[:, 0] % 5)
    np.testing.assert_array_equal(truth, bench.features[:, 0] % 5)
    assert (bench.labels != truth).sum() == 30
    assert not set(bench.features[:, 0]) & set(trusted[:, 0])
    with pytest.raises(
        ValueError, match="together at most 100, the rows of numbers, got 90 and 30; change --rows"
    ):
        cleaning.split(dataset, rows=90, trusted_rows=30)


# Scores


def test_deal_spreads_every_class_over_all_parts():
    labels = np.repeat([0, 1, 2], [50, 25, 10])
    parts = deal(labels, 5, seed=0)
    for label, count in ((0, 10), (1, 5), (2, 2)):
        assert np.bincount(parts[labels == label]).tolist() == [count] * 5


def test_no_row_is_scored_by_a_model_that_saw_it():
    parts = np.arange(20) % 4
    seen = cross_fitted(lambda mask: mask, lambda mask: mask[:, None].astype(float), parts)
    np.testing.assert_array_equal(seen, 0)


def test_a_changed_label_leaves_its_own_score_alone(bench):
    """The outputs for a row do not depend on its own label; the scores read the label afterwards."""
    dataset, _ = bench
    scaled = scaling(dataset.features)(dataset.features)[:100]
    labels, parts, model = dataset.labels[:100].copy(), np.arange(100) % 2, CLASSIFIERS["linear"]()
    y0 = initial_parameters(model, scaled, 10, 0)

    def outputs(labels):
        rows = to_device(scaled, labels)

        def train(mask):
            return fit(model, rows, mask, 1e-3, y0).y

        return cross_fitted(train, lambda y: predict(model, y, rows.features), parts)

    before = outputs(labels)
    labels[7] = (labels[7] + 1) % 10
    after = outputs(labels)
    np.testing.assert_array_equal(before[parts == 1], after[parts == 1])
    assert not np.allclose(before[parts == 0], after[parts == 0])


def test_label_scores_are_log_probability_and_margin():
    outputs = np.log([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    expected = [[np.log(0.3), np.log(0.3 / 0.5)], [np.log(0.8), np.log(8)]]
    # float32 inside.
    np.testing.assert_allclose(label_scores(outputs, np.array([1, 2])), expected, rtol=1e-5)


def test_standard_scores_survive_a_constant_score():
    scores = np.ones((10, 2, 3), np.float32)
    np.testing.assert_array_equal(standardise(scores), 0)


# Models


def test_scaled_rows_have_curvature_one():
    random = np.random.default_rng(0)
    features = (5 + random.normal(size=(300, 8)) * np.arange(1, 9)).astype(np.float32)
    scaled = scaling(features)(features)
    moments = np.linalg.eigvalsh(np.cov(scaled.T, bias=True))
    # Thirty power iterations, from below.
    assert moments[-1] == pytest.approx(1, rel=0.02)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-5)


def test_linear_fit_is_the_minimum_and_sparse_equals_dense():
    random = np.random.default_rng(0)
    dense = (random.normal(size=(80, 6)) * (random.random((80, 6)) < 0.4)).astype(np.float32)
    labels, weights = random.integers(0, 3, 80), random.random(80)
    model, fits = CLASSIFIERS["linear"](), []
    for features in (dense, scipy.sparse.csr_matrix(dense)):
        y0 = initial_parameters(model, features, 3, 0)
        fits.append(fit(model, to_device(features, labels), weights, 1e-2, y0, tolerance=1e-5))
        assert fits[-1].residual <= 1e-5
    # Two descents to a gradient of 1e-5 on a loss of curvature at least 2e-2.
    np.testing.assert_allclose(fits[0].y["matrix"], fits[1].y["matrix"], atol=2e-3)


def test_fits_of_equal_shapes_share_one_compilation():
    """Rows, weights and penalties are arguments of the compiled function."""
    solver: Any = _lbfgs
    model, sizes = CLASSIFIERS["linear"](), []
    for seed in range(3):
        random = np.random.default_rng(seed)
        rows = to_device(random.normal(size=(37, 4)).astype(np.float32), random.integers(0, 2, 37))
        y0 = initial_parameters(model, rows.features, 2, 0)
        fit(model, rows, random.random(37), 0.1 / (1 + seed), y0)
        sizes.append(solver._cache_size())
    assert sizes[1:] == sizes[:1] * 2


def test_calibrated_loss_does_not_depend_on_confidence():
    outputs, labels = np.random.default_rng(0).normal(size=(50, 4)), np.arange(50) % 4
    assert calibrated_loss(outputs / 4, labels) == pytest.approx(
        calibrated_loss(outputs / 2, labels), rel=0.05
    )


# Input rules


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"trusted_features": None, "trusted_labels": None}, "needs trusted rows, got none"),
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
        ({"features": np.ones((40, 3), np.float32)}, "the same values in every row"),
        ({"trusted_features": np.eye(2, 3), "trusted_labels": np.arange(2)}, "at least 10 trusted rows"),
    ],
)
def test_bad_data_is_refused_in_one_line(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        cleaning.clean(tiny(**changes), progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"weights": "both"}, "weights must be one of per-row, shared, got 'both'"),
        ({"model": "tree"}, "model must be one of"),
        ({"algorithm": "adam"}, "algorithm must be one of"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        cleaning.clean(tiny(), **arguments, progress=False)


def test_a_class_without_trusted_rows_gives_a_warning():
    labels = np.arange(40, dtype=np.int32) % 3
    dataset = tiny(labels=labels, classes=["no", "yes", "maybe"])
    warning = "no trusted row has the class maybe; such labels are judged by trusted rows of the other "
    assert validate(dataset)[-1] == warning + "classes alone"


# The job


def test_detection_counts():
    flagged, wrong = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    expected = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "auroc": 0.75}
    assert detection(flagged, np.array([4.0, 2.0, 3.0, 1.0]) - [0, 0, 2, 0], wrong) != expected
    assert detection(flagged, np.array([4.0, 3.0, 2.0, 1.0]), wrong) == expected


def test_digits_are_cleaned(cleaned):
    summary = cleaned.summary
    assert summary["weights"] == "shared" and summary["warnings"] == []
    # Measured 0.93 to 0.95 over seeds; training as given reaches 0.85, the truth 0.95.
    assert summary["detection"]["f1"] > 0.9
    assert summary["test_accuracy"]["cleaned"] > summary["test_accuracy"]["as_given"]
    doubted = cleaned.weights < 0.5
    assert doubted.sum() == summary["doubted"] and not np.any(cleaned.flagged & ~doubted)
    assert cleaned.images.shape == (600, 8, 8) and summary["flagged"] == cleaned.flagged.sum()
    points = {len(values) for name, values in cleaned.history.items() if name != "best_step"}
    assert len(points) == 1 and cleaned.history["best_step"] in cleaned.history["step"][1:]


def test_the_truth_and_the_test_rows_change_no_result(bench, cleaned):
    dataset, _ = bench
    unknown = dataset._replace(test_features=None, test_labels=None)
    result = cleaning.clean(unknown, steps=300, progress=False)
    np.testing.assert_array_equal(result.weights, cleaned.weights)
    np.testing.assert_array_equal(result.suggested, cleaned.suggested)
    assert result.truth is None and "detection" not in result.summary
    assert set(result.summary["test_accuracy"].values()) == {None}


@pytest.mark.parametrize("prepared", ["linear"], indirect=True)
@pytest.mark.parametrize("name", ["aid_bio", "fsla", "itd_bio", "pzobo", "stocbio"])
def test_every_kind_of_algorithm_learns_weights(prepared, bench, name):
    learnt = learn(prepared, "shared", name, steps=60)
    wrong = bench[0].labels != bench[1]
    # A random order has 0.5, and these runs make few steps.
    auroc = detection(learnt.logits < 0, -learnt.logits, wrong)["auroc"]
    assert auroc is not None and auroc > 0.9


@pytest.mark.parametrize("kind", ["per-row", "shared"])
def test_every_pair_of_weights_and_model_learns(prepared, bench, kind):
    network = not prepared[0].classifier.convex
    learnt = learn(prepared, kind, "soba", steps=300)
    wrong = bench[0].labels != bench[1]
    # Free weights with a network that can memorise its rows learn the least in so few steps.
    bound = 0.7 if network and kind == "per-row" else 0.8
    auroc = detection(learnt.logits < 0, -learnt.logits, wrong)["auroc"]
    assert auroc is not None and auroc > bound


def test_the_chosen_model_weights_and_algorithm_are_used(bench):
    chosen = {"model": "mlp", "weights": "per-row", "algorithm": "fsla", "steps": 2}
    # With the shapes of `prepared`, only the two steps are compiled.
    summary = cleaning.clean(bench[0], progress=False, **chosen).summary
    assert {name: summary[name] for name in chosen} == chosen


@pytest.mark.parametrize("prepared", ["linear"], indirect=True)
def test_an_algorithm_with_expensive_steps_makes_fewer(prepared, monkeypatch):
    """The cost of `stable` grows with the number of entries of y."""
    asked = []

    def refuse(*arguments, steps, **others):
        asked.append(steps)
        raise InterruptedError

    monkeypatch.setattr(weighting, "run", refuse)
    for name in ("soba", "stable"):
        with pytest.raises(InterruptedError):
            learn(prepared, "shared", name, steps=None)
    assert asked == [1500, 500]


@pytest.mark.parametrize(
    "name, why",
    [("fo_blo", "only through the model, which fo_blo ignores"), ("maml", "it learns a starting point")],
)
def test_algorithms_that_cannot_learn_weights_are_refused_with_a_reason(name, why):
    with pytest.raises(ValueError, match=f"{name} cannot learn weights, since .*{why}"):
        cleaning.clean(tiny(), algorithm=name, progress=False)


@pytest.mark.parametrize("weights", ["per-row", "shared"])
def test_sparse_rows_are_cleaned_as_dense_ones_are(weights):
    random = np.random.default_rng(0)
    centres = random.random((3, 400)) < 0.05
    truth = (np.arange(400) % 3).astype(np.int32)
    words = (random.random((400, 400)) < 0.02 + 0.2 * centres[truth]).astype(np.float32)
    words[5] = 0
    dataset = Dataset("words", scipy.sparse.csr_matrix(words), truth, ["a", "b", "c"])
    bench, truth = cleaning.split(dataset, trusted_rows=60, noise=0.3)
    result = cleaning.clean(bench, truth, weights=weights, steps=200, progress=False)
    # 60 trusted rows for 340 free weights: they overfit, the shared net does not (0.90 and 0.97).
    assert result.summary["detection"]["auroc"] > (0.8 if weights == "per-row" else 0.95)
    assert result.images is None


def test_hard_rows_are_doubted_and_not_flagged(bench):
    dataset, truth = bench
    clean_rows = dataset._replace(labels=truth)
    result = cleaning.clean(clean_rows, truth, steps=300, progress=False)
    assert result.summary["flagged"] < result.summary["doubted"]
    assert np.all(result.suggested[result.flagged] != result.given[result.flagged])
    assert result.summary["flagged"] < 0.1 * len(truth)


@pytest.mark.parametrize("sparse", [False, True])
def test_trusted_rows_among_the_training_rows_are_a_warning(bench, sparse):
    dataset, _ = bench
    rows = dataset.features.reshape(len(dataset.labels), -1)
    rows = scipy.sparse.csr_matrix(rows) if sparse else rows
    both = dataset._replace(
        features=rows, trusted_features=rows[:30], trusted_labels=dataset.labels[:30], test_features=None
    )
    assert any("30 of" in warning and "also trusted rows" in warning for warning in validate(both))


def test_a_loss_that_is_not_finite_counts_as_infinite():
    def chosen(*means):
        return _stop_early([np.array([mean - 0.1, mean + 0.1]) for mean in means])

    assert chosen(3.0, np.nan, 1.0, 0.95, np.nan) == 2
    assert chosen(1.0, np.inf, 3.0, 2.0) == 3
    assert chosen(np.nan) == 0
    outputs = np.array([[np.nan, 1.0], [2.0, 1.0], [np.nan, np.nan]])
    assert accuracy(outputs, np.zeros(3, int)) == pytest.approx(1 / 3)
    unknown = {"inner_residual": np.nan, "linear_residual": np.nan}
    assert len(list(_warn_of_residuals(unknown))) == 2
