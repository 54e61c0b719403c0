"""Benches of wrong labels, with cleanlab and pyDVL as peers of `bilevel.clean`."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn import datasets as embedded
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from bilevel import datasets
from bilevel.cleaning import corrupt


class Bench(NamedTuple):
    """Noisy rows whose truth is known, trusted rows and test rows.

    Attributes:
      features: (n, d) array or CSR matrix.
      given: (n,) class indices, some of them wrong.
      truth: (n,) class indices.
      trusted_features, trusted_labels: rows whose labels are right.
      test_features, test_labels: rows that no method sees before its accuracy is taken.
    """

    features: Any
    given: np.ndarray
    truth: np.ndarray
    trusted_features: Any
    trusted_labels: np.ndarray
    test_features: Any
    test_labels: np.ndarray


def cut(features, labels, rows, trusted, rate, kind, seed, test=None) -> Bench:
    """Return a bench of shuffled rows: trusted rows first, then noisy rows, and the rest for the test.

    Args:
      features, labels: rows whose labels are right.
      rows, trusted: numbers of noisy and of trusted rows.
      rate, kind: share and kind of wrong labels: "uniform", "pair" or "instance".
      seed: seed of the shuffle and of the noise.
      test: features and labels of the test rows, in place of the rest.
    """
    labels = np.asarray(labels, np.int32)
    order = np.random.default_rng(seed).permutation(len(labels))
    safe, noisy, rest = np.split(order, [trusted, trusted + rows])
    truth, classes = labels[noisy], int(labels.max()) + 1
    if kind == "instance":
        given = corrupt_by_instance(features[noisy], truth, rate, seed=seed + 1)
    else:
        given = corrupt(truth, classes, rate, kind=kind, seed=seed + 1)
    test = (features[rest], labels[rest]) if test is None else test
    return Bench(features[noisy], given, truth, features[safe], labels[safe], *test)


def corrupt_by_instance(features: Any, truth: np.ndarray, rate: float, *, seed: int) -> np.ndarray:
    """Return labels with a share of them turned into the runner-up class of a weak model.

    The weak model is a strongly penalised logistic regression, cross-fitted in two parts. The runner-up
    is its most probable class besides the true one. Exactly `round(rate n)` rows are drawn without
    replacement, with weights equal to the probability of their runner-up against their true class.
    """
    weak = LogisticRegression(C=1e-3, max_iter=200)
    probability = cross_val_predict(weak, features, truth, cv=2, method="predict_proba")
    rows = np.arange(len(truth))
    true = probability[rows, truth]
    others = probability.copy()
    others[rows, truth] = -1
    runner_up = others.argmax(axis=1)
    weight = others[rows, runner_up] / (others[rows, runner_up] + true)
    # The largest of log weight + Gumbel noise: draws without replacement.
    keys = np.log(weight) + np.random.default_rng(seed).gumbel(size=len(truth))
    wrong = keys.argsort().argsort() >= len(truth) - round(rate * len(truth))
    return np.where(wrong, runner_up, truth).astype(truth.dtype)


def texts(number: int, topics: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Return made-up texts and their topics.

    Every topic has 60 words of its own, 60 words that it shares with the next topic, and the common words
    of all topics, whose frequencies fall as in natural language. A text has 8 to 60 words; the share
    of its words that tell its topic differs from text to text.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(0, topics, number)
    common = 1 / np.arange(1, 1501)
    common /= common.sum()
    written = []
    for topic in labels:
        length = random.integers(8, 61)
        kinds = random.random(length)
        telling = random.beta(2, 9)
        neighbour = (topic + random.integers(-1, 1, length)) % topics
        own, shared = random.integers(0, 60, length), random.integers(0, 60, length)
        words = random.choice(len(common), length, p=common)
        written.append(
            " ".join(
                f"own{topic}x{own[i]}"
                if kinds[i] < telling
                else f"shared{neighbour[i]}x{shared[i]}"
                if kinds[i] < 2 * telling
                else f"common{words[i]}"
                for i in range(length)
            )
        )
    return written, labels


def _embedded(load, rows, trusted, rate, kind, seed):
    features, labels = load(return_X_y=True)
    return cut(features, labels, rows, trusted, rate, kind, seed)


def _public(name, rows, trusted, rate, kind, seed):
    data = datasets.load(name)
    features, test = data.features, data.test_features
    if isinstance(features, np.ndarray):
        features, test = features.reshape(len(features), -1), test.reshape(len(test), -1)
    return cut(features, data.labels, rows, trusted, rate, kind, seed, (test, data.test_labels))


def _made(rows, trusted, test, rate, first_seed, seed, **options):
    features, labels = embedded.make_classification(
        rows + trusted + test, flip_y=0, random_state=first_seed + seed, **options
    )
    return cut(features.astype(np.float32), labels, rows, trusted, rate, "uniform", seed)


def _text(seed):
    written, labels = texts(3200, 6, seed + 500)
    return cut(TfidfVectorizer().fit_transform(written), labels, 2000, 200, 0.2, "uniform", seed)


_digits = partial(_embedded, embedded.load_digits, 1200)

# Every bench is a function of the seed.
LINES: dict[str, Callable[[int], Bench]] = {
    "wine": partial(_embedded, embedded.load_wine, 110, 40, 20 / 110, "uniform"),
    "breast cancer": partial(_embedded, embedded.load_breast_cancer, 350, 100, 37 / 350, "uniform"),
    "digits 5 %": partial(_digits, 200, 0.05, "uniform"),
    "digits 20 %": partial(_digits, 200, 0.2, "uniform"),
    "digits pair 40 %": partial(_digits, 200, 0.4, "pair"),
    "digits 60 %": partial(_digits, 200, 0.6, "uniform"),
    "digits 0 %": partial(_digits, 200, 0.0, "uniform"),
    "digits 2 %": partial(_digits, 200, 0.02, "uniform"),
    "digits 20 %, 50 trusted": partial(_digits, 50, 0.2, "uniform"),
    "digits pair 40 %, 50 trusted": partial(_digits, 50, 0.4, "pair"),
    "churn": partial(
        _made, 2500, 300, 1000, 0.15, 100, n_features=20, n_informative=8, n_redundant=4, weights=[0.9]
    ),
    "five classes": partial(
        _made,
        *(4000, 300, 1000, 988 / 4000, 200),
        n_features=20,
        n_informative=10,
        n_classes=5,
        n_clusters_per_class=3,
        class_sep=1.5,
    ),
    "three classes": partial(
        _made, 5000, 300, 1000, 0.15, 300, n_features=20, n_informative=8, n_classes=3, n_clusters_per_class=2
    ),
    "text 20 %": _text,
    "newsgroups 20 %": partial(_public, "newsgroups", 4000, 500, 0.2, "uniform"),
    "newsgroups pair 40 %": partial(_public, "newsgroups", 4000, 500, 0.4, "pair"),
    **{
        f"{title} {label}": partial(_public, name, 5000, 500, rate, kind)
        for title, name in (("MNIST", "mnist"), ("Fashion-MNIST", "fashion_mnist"))
        for label, rate, kind in (
            ("20 %", 0.2, "uniform"),
            ("40 %", 0.4, "uniform"),
            ("60 %", 0.6, "uniform"),
            ("pair 40 %", 0.4, "pair"),
            ("instance 20 %", 0.2, "instance"),
            ("instance 40 %", 0.4, "instance"),
        )
    },
    "100,000 x 50": partial(
        _made,
        *(100_000, 1000, 10_000, 0.15, 400),
        n_features=50,
        n_informative=20,
        n_classes=5,
        n_clusters_per_class=2,
    ),
}
SMALL = tuple(LINES)[:14]
