"""Noise made on purpose, test benches, and the scores of flags."""

import numpy as np
import pytest

from bilevel import cleaning
from bilevel.cleaning.rows import deal
from bilevel.cleaning.scoring import accuracy, detection
from bilevel.datasets import Dataset


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


def test_deal_spreads_every_class_over_all_parts():
    labels = np.repeat([0, 1, 2], [50, 25, 10])
    parts = deal(labels, 5, seed=0)
    for label, count in ((0, 10), (1, 5), (2, 2)):
        assert np.bincount(parts[labels == label]).tolist() == [count] * 5


def test_detection_counts():
    flagged, wrong = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    expected = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "auroc": 0.75}
    assert detection(flagged, np.array([4.0, 2.0, 3.0, 1.0]) - [0, 0, 2, 0], wrong) != expected
    assert detection(flagged, np.array([4.0, 3.0, 2.0, 1.0]), wrong) == expected


def test_outputs_that_are_not_finite_are_wrong():
    outputs = np.array([[np.nan, 1.0], [2.0, 1.0], [np.nan, np.nan]])
    assert accuracy(outputs, np.zeros(3, int)) == pytest.approx(1 / 3)
