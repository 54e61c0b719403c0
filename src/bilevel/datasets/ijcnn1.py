"""ijcnn1: the two-class problem of the IJCNN 2001 challenge, with 22 features."""

import hashlib

import numpy as np
import numpy.typing as npt

from bilevel.datasets.source import Source, originals, packed, reject
from bilevel.datasets.types import Dataset
from bilevel.extras import extra

# The collection publishes no checksums, so `FINGERPRINTS` verify the arrays read from its files.
IJCNN1 = Source(
    name="ijcnn1",
    homes=("https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary/{file}",),
    files={"ijcnn1.tr.bz2": None, "ijcnn1.val.bz2": None, "ijcnn1.t.bz2": None},
)

FINGERPRINTS = {
    "train": "9a82e456643a192a933a62a44dc5c097175bc43d9d6ccf7dc89db51dbcbdb938",
    "test": "49819e71fafff8b8e31c3dfa3b399c9f65e0de9092c81172b325154397d7a94c",
}


def ijcnn1() -> Dataset:
    """IJCNN 2001 challenge: 49,990 and 91,701 test rows of 22 features.

    The LIBSVM collection has scaled the features to [-1, 1]. By convention the first 35,000 rows are for
    training and the other 14,990 for validation. One row in ten has the class "1". Logistic regression
    reaches 92.0 % on the test part.
    """
    path = packed("ijcnn1.npz")
    if path is None:
        parts = _read_originals()
    else:
        with np.load(path) as data:
            parts = [data[key] for key in ("train_x", "train_y", "test_x", "test_y")]
    features, labels, test_features, test_labels = parts
    return Dataset(
        name="ijcnn1",
        features=features,
        labels=_classes(labels),
        classes=["-1", "1"],
        test_features=test_features,
        test_labels=_classes(test_labels),
    )


def fingerprint(features: npt.ArrayLike, labels: npt.ArrayLike) -> str:
    """Return the SHA-256 of the float32 features followed by the labels, -1 or 1."""
    # Adding zero turns -0.0 into 0.0, so that equal numbers are equal bytes.
    digest = hashlib.sha256((np.ascontiguousarray(features, np.float32) + np.float32(0)).tobytes())
    digest.update(np.asarray(labels).astype(np.int8).tobytes())
    return digest.hexdigest()


def _read_originals():
    with extra("clean"):
        from sklearn.datasets import load_svmlight_file

    paths = originals(IJCNN1)
    parts = []
    for path in paths:
        try:
            features, labels = load_svmlight_file(str(path), n_features=22)[:2]
        except (OSError, EOFError, ValueError):
            reject(IJCNN1, path, "it is not a LIBSVM file of 22 features")
        parts.append((features.toarray().astype(np.float32), labels))
    (first, first_labels), (second, second_labels), test = parts
    train = np.concatenate([first, second]), np.concatenate([first_labels, second_labels])
    for path, part, arrays in ((paths[0], "train", train), (paths[2], "test", test)):
        if fingerprint(*arrays) != FINGERPRINTS[part]:
            reject(IJCNN1, path, f"its {part} rows have another fingerprint")
    return [*train, *test]


def _classes(labels):
    return (labels > 0).astype(np.int32)
