"""Data sets that scikit-learn contains, without a download."""

from typing import Any

import numpy as np

from bilevel.datasets.types import Dataset
from bilevel.extras import extra


def digits() -> Dataset:
    """Handwritten digits, 8x8: 1,400 and 397 test images, embedded.

    Pixels, 0 to 16, are divided by 16. The test part is a fixed random sample.
    """
    with extra("clean"):
        from sklearn.datasets import load_digits

    loaded: Any = load_digits(return_X_y=True)
    pixels, labels = loaded
    images = (pixels / 16).astype(np.float32).reshape(-1, 8, 8)
    classes = [str(digit) for digit in range(10)]
    dataset = Dataset(name="digits", features=images, labels=labels, classes=classes, image_shape=(8, 8))
    return _split(dataset, 397)


def breast_cancer() -> Dataset:
    """Measurements of cell nuclei: 455 and 114 test rows of 30 features, embedded.

    Features are standardised with the mean and standard deviation of the training part.
    """
    with extra("clean"):
        from sklearn.datasets import load_breast_cancer

    loaded: Any = load_breast_cancer(return_X_y=True)
    features, labels = loaded
    classes = ["malignant", "benign"]
    dataset = _split(Dataset(name="breast_cancer", features=features, labels=labels, classes=classes), 114)
    training = np.asarray(dataset.features)
    mean, deviation = training.mean(axis=0), training.std(axis=0)

    def scale(rows):
        return ((rows - mean) / deviation).astype(np.float32)

    return dataset._replace(features=scale(training), test_features=scale(dataset.test_features))


def _split(dataset, test_rows):
    # The stream of RandomState is frozen, so the split never changes.
    order = np.random.RandomState(0).permutation(len(dataset.labels))
    test, train = np.sort(order[:test_rows]), np.sort(order[test_rows:])
    labels = dataset.labels.astype(np.int32)
    return dataset._replace(
        features=dataset.features[train],
        labels=labels[train],
        test_features=dataset.features[test],
        test_labels=labels[test],
    )
