"""What `clean` asks of its input, said in one line each."""

import numpy as np
import scipy.sparse

from bilevel.datasets.types import Dataset


def validate(dataset: Dataset) -> list[str]:
    """Warnings about a data set that can be cleaned.

    Raises:
      ValueError: with the rule, the value and the remedy, when it cannot be cleaned.
    """
    classes = len(dataset.classes)
    if classes < 2:
        raise ValueError(f"labels need at least 2 classes, got {classes}; check the label column")
    if dataset.trusted_labels is None or dataset.trusted_features is None or len(dataset.trusted_labels) == 0:
        raise ValueError(
            "cleaning needs trusted rows, got none; give some rows whose labels you have checked"
        )
    _rows("training", dataset.features, dataset.labels, classes)
    _rows("trusted", dataset.trusted_features, dataset.trusted_labels, classes)
    _same("trusted", dataset.trusted_features, dataset.features)
    if dataset.test_features is not None:
        _rows("test", dataset.test_features, dataset.test_labels, classes)
        _same("test", dataset.test_features, dataset.features)
    trusted = set(np.unique(dataset.trusted_labels).tolist())
    if len(trusted) < 2:
        raise ValueError(
            f"trusted rows need at least 2 classes, got only {dataset.classes[trusted.pop()]!r}; "
            "check rows of the other classes too"
        )
    if len(dataset.trusted_labels) < 10:
        raise ValueError(
            f"cleaning needs at least 10 trusted rows, got {len(dataset.trusted_labels)}; check some more"
        )
    if len(dataset.labels) < 10:
        raise ValueError(
            f"cleaning needs at least 10 training rows, got {len(dataset.labels)}; give more rows"
        )
    warnings = []
    if repeated := _repeated(dataset.features, dataset.trusted_features):
        warnings.append(
            f"{repeated} of {len(dataset.labels)} training rows are also trusted rows; "
            "trusted rows must be rows whose labels you have checked, kept out of the training rows"
        )
    missing = sorted(set(np.unique(dataset.labels).tolist()) - trusted)
    if not missing:
        return warnings
    names = ", ".join(str(dataset.classes[label]) for label in missing[:5])
    names += ", ..." if len(missing) > 5 else ""
    warnings.append(
        f"no trusted row has the class {names}: labels of it are judged by the other classes alone"
    )
    return warnings


def _repeated(features, trusted) -> int:
    """How many rows are equal to a trusted row."""

    def rows(matrix):
        if not scipy.sparse.issparse(matrix):
            return (row.tobytes() for row in np.ascontiguousarray(matrix))
        ends = zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
        return ((matrix.indices[a:b].tobytes(), matrix.data[a:b].tobytes()) for a, b in ends)

    known = set(rows(trusted))
    return sum(row in known for row in rows(features))


def _rows(part, features, labels, classes):
    if labels is None:
        raise ValueError(f"{part} rows need labels, got none")
    labels = np.asarray(labels)
    if labels.ndim != 1 or features.shape[0] != len(labels):
        raise ValueError(
            f"{part} rows need one label each, got {features.shape[0]} rows and labels {labels.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{part} labels must be class indices (integers), got {labels.dtype}")
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"{part} labels must be classes 0 to {classes - 1}, got {labels[row]} in row {row}; correct it"
        )
    if not scipy.sparse.issparse(features) and features.ndim not in (2, 3, 4):
        raise ValueError(f"{part} features must be (n, d) or (n, h, w[, c]), got shape {features.shape}")
    stored = features.data if scipy.sparse.issparse(features) else features
    if not np.isfinite(stored).all():
        count = int(np.size(stored) - np.isfinite(stored).sum())
        raise ValueError(
            f"{part} features must be finite, got {count} NaN or infinite values; fill or remove them"
        )


def _same(part, features, training):
    if features.shape[1:] != training.shape[1:]:
        raise ValueError(
            f"{part} rows need the features of training rows, {training.shape[1:]}, got {features.shape[1:]}"
        )
