"""Data sets that come with scikit-learn: nothing to download."""

import numpy as np

from bilevel.datasets.rows import scaler
from bilevel.datasets.types import Dataset


def digits() -> Dataset:
    """Handwritten digits, 8x8: 1,400 and 397 test images, embedded.

    Pixels, 0 to 16, are divided by 16. The test part is drawn once and is the same everywhere.
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 8, 8)
    classes = [str(digit) for digit in range(10)]
    return _split(Dataset("digits", images, labels, classes, image_shape=(8, 8)), 397)


def breast_cancer() -> Dataset:
    """Measurements of cell nuclei: 455 and 114 test rows of 30 features, embedded.

    Features are standardised with the mean and standard deviation of the training part.
    """
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    dataset = _split(Dataset("breast_cancer", features, labels, ["malignant", "benign"]), 114)
    scale = scaler("breast_cancer", dataset.features)
    return dataset._replace(features=scale(dataset.features), test_features=scale(dataset.test_features))


def _split(dataset, test_rows):
    # RandomState: its stream is frozen, so that the split never changes.
    order = np.random.RandomState(0).permutation(len(dataset.labels))
    test, train = np.sort(order[:test_rows]), np.sort(order[test_rows:])
    labels = dataset.labels.astype(np.int32)
    return dataset._replace(
        features=dataset.features[train],
        labels=labels[train],
        test_features=dataset.features[test],
        test_labels=labels[test],
    )
