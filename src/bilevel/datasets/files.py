"""Data sets from files of the user: `.npz` archives, `.csv` and `.parquet` tables."""

from os import PathLike
from pathlib import Path

import numpy as np
import scipy.sparse

from bilevel.datasets.archive import read_archive
from bilevel.datasets.errors import DataNotFoundError, did_you_mean
from bilevel.datasets.rows import class_indices, plain_labels, scaler
from bilevel.datasets.table import TABLES, read_tables
from bilevel.datasets.types import Dataset


def read_file(
    path: str | PathLike, *, label: str | None = None, trusted: str | PathLike | None = None
) -> Dataset:
    """Read a file of training and trusted rows, and scale the features for learning.

    An `.npz` file holds `features`, `labels`, `trusted_features` and `trusted_labels`, and may hold
    `test_features` and `test_labels`. Rows are vectors (n, d) or images (n, h, w[, c]). A CSR matrix is
    stored as `features_data`, `features_indices`, `features_indptr` and `features_shape` instead of
    `features`, and as `trusted_features_data`, ... instead of `trusted_features`. Pickled arrays are
    refused.

    A `.csv` or `.parquet` table has one row for each example. The column `label` holds the labels, the
    other columns the features. Numeric columns are used as they are. A text column of at most 20
    distinct values becomes one feature for each value. The trusted rows are a second table with the
    same columns.

    Labels are integers or strings. The classes are the sorted labels of the training rows.

    Features are scaled by the statistics of the training rows. Vectors are standardised, CSR columns
    divided by their largest absolute value, and images of integers (0 to 255) divided by 255. Images of
    floats stay as they are.

    Args:
      path: file of the training rows.
      label: name of the column of labels (`--label`); tables only.
      trusted: file of the trusted rows (`--trusted`); tables only.

    Returns:
      A `Dataset` with trusted rows, named after the file.

    Raises:
      DataNotFoundError: when a file does not exist.
      ValueError: when the content breaks a rule; the message is one line.
    """
    path = _existing(path)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        if label is not None or trusted is not None:
            raise ValueError(
                f"{path.name}: label and trusted (--label, --trusted) are for tables only; leave them out "
                "and store the arrays `labels`, `trusted_features` and `trusted_labels` in the .npz file"
            )
        parts = read_archive(path)
    elif suffix in TABLES:
        parts = read_tables(path, label, trusted if trusted is None else _existing(trusted))
    else:
        known = [".npz", *TABLES]
        raise ValueError(f"{path.name}: unknown file type {suffix!r}; {did_you_mean(suffix, known)}")
    return _dataset(path, parts)


def _existing(path):
    path = Path(path)
    if not path.is_file():
        raise DataNotFoundError(
            f"no such file: {str(path)!r}; give the path of an .npz, .csv or .parquet file"
        )
    return path


def _dataset(path, parts):
    for part, (features, labels) in parts.items():
        _require_rows(f"{path.name}: {part}", features, labels)
    features, _ = parts["training"]
    for part, (others, _) in parts.items():
        if _form(others) != _form(features):
            raise ValueError(
                f"{path.name}: {part} rows must have the form of training rows, {_form(features)}, "
                f"got {_form(others)}; store both in the same form"
            )

    labels = {
        part: plain_labels(f"{path.name}: {part}", part_labels) for part, (_, part_labels) in parts.items()
    }
    values = np.unique(labels["training"])
    if len(values) < 2:
        raise ValueError(
            f"{path.name}: training labels must have at least 2 classes, got only {str(values[0])!r}; "
            "add rows of other classes"
        )
    indices = {part: class_indices(f"{path.name}: {part}", labels[part], values) for part in parts}
    if len(np.unique(indices["trusted"])) < 2:
        raise ValueError(
            f"{path.name}: trusted labels must have at least 2 classes, got only "
            f"{str(labels['trusted'][0])!r}; add trusted rows of other classes"
        )

    scale = scaler(path.name, features)
    rows = {part: scale(part_features) for part, (part_features, _) in parts.items()}
    return Dataset(
        name=path.stem,
        features=rows["training"],
        labels=indices["training"],
        classes=[str(value) for value in values],
        test_features=rows.get("test"),
        test_labels=indices.get("test"),
        trusted_features=rows["trusted"],
        trusted_labels=indices["trusted"],
        image_shape=features.shape[1:] if features.ndim > 2 else None,
    )


def _require_rows(where, features, labels):
    if features.ndim not in (2, 3, 4):
        raise ValueError(
            f"{where} features must be (n, d), (n, h, w) or (n, h, w, c), got shape {features.shape}"
        )
    if features.dtype.kind not in "biuf":
        raise ValueError(
            f"{where} features must be real numbers, got {features.dtype}; convert them to float32"
        )
    if labels.ndim != 1 or len(labels) != features.shape[0]:
        raise ValueError(
            f"{where} rows need one label each, got {features.shape[0]} rows and labels of shape "
            f"{labels.shape}"
        )
    if features.shape[0] == 0:
        raise ValueError(f"{where} rows are missing, got shape {features.shape}; add at least 2 rows")
    if 0 in features.shape:
        raise ValueError(f"{where} rows need at least 1 feature, got shape {features.shape}; add some")
    values = features.data if scipy.sparse.issparse(features) else features
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise ValueError(
            f"{where} features must be finite, got {bad} NaN or infinite values{_first_bad(features)}; "
            "fill them or remove these rows"
        )


def _first_bad(features):
    if scipy.sparse.issparse(features):
        return ""
    row = int(np.argmin(np.isfinite(features).reshape(len(features), -1).all(axis=1)))
    return f", the first in row {row}"


def _form(features):
    container = "a CSR matrix" if scipy.sparse.issparse(features) else "an array"
    return f"{container} of rows of shape {features.shape[1:]}"
