"""Rules that a data set must meet to be cleaned."""

from typing import Any

import numpy as np
import scipy.sparse

from bilevel.datasets.types import Dataset

FEWEST_ROWS = 10


def validate(dataset: Dataset) -> list[str]:
    """Return warnings about a data set that can be cleaned.

    Raises:
      ValueError: when it cannot be cleaned; the message is one line with the rule, the value and the
        remedy.
    """
    classes = len(dataset.classes)
    if classes < 2:
        raise ValueError(f"labels need at least 2 classes, got {classes}; check the label column")
    parts: dict[str, tuple[Any, Any]] = {"training": (dataset.features, dataset.labels)}
    if dataset.trusted_features is not None:
        parts["trusted"] = (dataset.trusted_features, dataset.trusted_labels)
    if dataset.test_features is not None:
        parts["test"] = (dataset.test_features, dataset.test_labels)
    for part, (features, labels) in parts.items():
        _require_rows(part, features, labels, classes)
        _require_same_shape(part, features, dataset.features)
    if len(dataset.labels) < FEWEST_ROWS:
        raise ValueError(
            f"cleaning needs at least {FEWEST_ROWS} training rows, got {len(dataset.labels)}; add more"
        )
    trusted = [] if dataset.trusted_labels is None else np.unique(dataset.trusted_labels).tolist()
    if not trusted:
        return []
    present = set(trusted)
    if len(present) < 2:
        raise ValueError(
            f"trusted rows need at least 2 classes, got only {dataset.classes[present.pop()]!r}; "
            "check rows of the other classes too"
        )
    repeated = [] if dataset.checked_rows is not None else _warn_of_repeated_rows(dataset)
    return [*repeated, *_warn_of_missing_classes(dataset, present)]


def _require_rows(part, features, labels, classes):
    if labels is None:
        raise ValueError(f"{part} rows need labels, got none; add one label for each row")
    labels = np.asarray(labels)
    if labels.ndim != 1 or features.shape[0] != len(labels):
        raise ValueError(
            f"{part} rows need one label each, got {features.shape[0]} rows and labels of shape "
            f"{labels.shape}"
        )
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{part} labels must be class indices (integers), got {labels.dtype}")
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"{part} labels must be between 0 and {classes - 1}, got {labels[row]} in row {row}; correct it"
        )
    if not scipy.sparse.issparse(features) and features.ndim not in (2, 3, 4):
        raise ValueError(f"{part} features must be (n, d) or (n, h, w[, c]), got shape {features.shape}")
    stored = features.data if scipy.sparse.issparse(features) else features
    if not np.isfinite(stored).all():
        count = int(np.size(stored) - np.isfinite(stored).sum())
        raise ValueError(
            f"{part} features must be finite, got {count} NaN or infinite values; fill or remove them"
        )


def _require_same_shape(part, features, training):
    if features.shape[1:] != training.shape[1:]:
        raise ValueError(
            f"{part} rows must have the shape of training rows, {training.shape[1:]}, "
            f"got {features.shape[1:]}; store the same features in both"
        )


def _warn_of_repeated_rows(dataset):
    repeated = _count_repeated(dataset.features, dataset.trusted_features)
    if repeated:
        yield (
            f"{repeated} of {len(dataset.labels)} training rows are also trusted rows; "
            "keep rows whose labels you have checked out of the training rows"
        )


def _count_repeated(features: Any, trusted: Any) -> int:
    """Return the number of rows that are equal to a trusted row."""

    def rows(matrix):
        if not scipy.sparse.issparse(matrix):
            return (row.tobytes() for row in np.ascontiguousarray(matrix))
        ends = zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
        return ((matrix.indices[a:b].tobytes(), matrix.data[a:b].tobytes()) for a, b in ends)

    known = set(rows(trusted))
    return sum(row in known for row in rows(features))


def _warn_of_missing_classes(dataset, present):
    missing = sorted(set(np.unique(dataset.labels).tolist()) - present)
    if missing:
        names = ", ".join(str(dataset.classes[label]) for label in missing[:5])
        names += ", ..." if len(missing) > 5 else ""
        yield (
            f"no trusted row has the class {names}; "
            "such labels are judged by trusted rows of the other classes alone"
        )
