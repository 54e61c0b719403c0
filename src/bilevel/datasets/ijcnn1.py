"""ijcnn1: a two-class problem of the IJCNN 2001 challenge, 22 features."""

import hashlib

import numpy as np

from bilevel.datasets.source import Source, originals, packed, reject
from bilevel.datasets.types import Dataset

# The collection publishes no checksums: the arrays read from its files are checked instead.
IJCNN1 = Source(
    "ijcnn1",
    ("https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/binary/{file}",),
    {"ijcnn1.tr.bz2": None, "ijcnn1.val.bz2": None, "ijcnn1.t.bz2": None},
)

FINGERPRINTS = {
    "train": "9a82e456643a192a933a62a44dc5c097175bc43d9d6ccf7dc89db51dbcbdb938",
    "test": "49819e71fafff8b8e31c3dfa3b399c9f65e0de9092c81172b325154397d7a94c",
}


def ijcnn1() -> Dataset:
    """IJCNN 2001 challenge: 49,990 and 91,701 test rows of 22 features.

    Features are as the LIBSVM collection scales them, in [-1, 1]. The first 35,000 rows are the usual
    training part, the other 14,990 the usual validation part. One row in ten is of class "1"; logistic
    regression reaches 92.0 % on the test part.
    """
    path = packed("ijcnn1.npz")
    if path is None:
        parts = _read_originals()
    else:
        with np.load(path) as data:
            parts = [data[key] for key in ("train_x", "train_y", "test_x", "test_y")]
    features, labels, test_features, test_labels = parts
    return Dataset("ijcnn1", features, _classes(labels), ["-1", "1"], test_features, _classes(test_labels))


def fingerprint(features, labels) -> str:
    """SHA-256 of the float32 features followed by the labels, -1 or 1, as bytes."""
    # Adding zero turns -0.0 into 0.0: equal numbers, equal bytes.
    digest = hashlib.sha256((np.ascontiguousarray(features, np.float32) + np.float32(0)).tobytes())
    digest.update(np.asarray(labels).astype(np.int8).tobytes())
    return digest.hexdigest()


def _read_originals():
    from sklearn.datasets import load_svmlight_file

    paths = originals(IJCNN1)
    parts = []
    for path in paths:
        try:
            features, labels = load_svmlight_file(str(path), n_features=22)[:2]
        except (OSError, EOFError, ValueError):
            reject(IJCNN1, path, "it is no LIBSVM file of 22 features")
        parts.append((features.toarray().astype(np.float32), labels))
    (first, first_labels), (second, second_labels), test = parts
    train = np.concatenate([first, second]), np.concatenate([first_labels, second_labels])
    for path, part, arrays in ((paths[0], "train", train), (paths[2], "test", test)):
        if fingerprint(*arrays) != FINGERPRINTS[part]:
            reject(IJCNN1, path, f"its {part} rows differ")
    return [*train, *test]


def _classes(labels):
    return (labels > 0).astype(np.int32)
