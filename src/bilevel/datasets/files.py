"""The user's own file as a data set: `.npz`, or a table in `.csv` or `.parquet`."""

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
    """The user's own rows, scaled for learning.

    An `.npz` file holds `features`, `labels`, `trusted_features` and `trusted_labels`, and may hold
    `test_features` and `test_labels`. Rows are vectors (n, d) or images (n, h, w[, c]). A CSR matrix is
    stored in place of `features` as `features_data`, `features_indices`, `features_indptr` and
    `features_shape` (likewise `trusted_features_data` and so on). Pickled arrays are refused.

    A `.csv` or `.parquet` table has one row an example: the column `label`, and features in all others.
    Numbers are features as they are; text columns of at most 20 values become one column a value. The
    trusted rows are a second table with the same columns.

    Labels are integers or strings; the sorted values of the training rows are the classes.

    Scaling uses the statistics of the training rows alone: vectors are standardised, CSR columns divided
    by their greatest absolute value, images of integers (0 to 255) divided by 255. Images of floats are
    left as they are.

    Args:
      path: the file of the training rows.
      label: for tables, the column of the labels (`--label`).
      trusted: for tables, the file of the trusted rows (`--trusted`).

    Returns:
      A `Dataset` with trusted rows, named after the file.

    Raises:
      DataNotFoundError: there is no such file.
      ValueError: one line that names the rule, the value and the remedy.
    """
    path = _existing(path)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        if label is not None or trusted is not None:
            raise ValueError(
                f"{path.name}: label and trusted (--label, --trusted) are for tables; an .npz file holds "
                "`labels`, `trusted_features` and `trusted_labels` itself"
            )
        parts = read_archive(path)
    elif suffix in TABLES:
        parts = read_tables(path, label, trusted if trusted is None else _existing(trusted))
    else:
        known = [".npz", *TABLES]
        raise ValueError(f"{path.name}: unknown kind of file {suffix!r}; {did_you_mean(suffix, known)}")
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
        _check(f"{path.name}: {part}", features, labels)
    features, _ = parts["training"]
    for part, (others, _) in parts.items():
        if _form(others) != _form(features):
            raise ValueError(
                f"{path.name}: {part} rows must be like training rows, got {_form(others)} against "
                f"{_form(features)}; store both in the same form"
            )

    labels = {
        part: plain_labels(f"{path.name}: {part}", part_labels) for part, (_, part_labels) in parts.items()
    }
    values = np.unique(labels["training"])
    if len(values) < 2:
        raise ValueError(
            f"{path.name}: training labels must hold two classes or more, got only {values[0]!r}"
        )
    indices = {part: class_indices(f"{path.name}: {part}", labels[part], values) for part in parts}
    if len(np.unique(indices["trusted"])) < 2:
        raise ValueError(
            f"{path.name}: trusted rows must be of two classes or more, all are of class "
            f"{str(labels['trusted'][0])!r}; add trusted rows of other classes"
        )

    scale = scaler(path.name, features)
    rows = {part: scale(part_features) for part, (part_features, _) in parts.items()}
    return Dataset(
        path.stem,
        rows["training"],
        indices["training"],
        [str(value) for value in values],
        rows.get("test"),
        indices.get("test"),
        rows["trusted"],
        indices["trusted"],
        image_shape=features.shape[1:] if features.ndim > 2 else None,
    )


def _check(where, features, labels):
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
            f"{where} labels must be one a row, got shape {labels.shape} for {features.shape[0]} rows"
        )
    if features.shape[0] == 0:
        raise ValueError(
            f"no {where.rpartition(' ')[2]} rows in {where.partition(':')[0]}; give at least two"
        )
    if 0 in features.shape:
        raise ValueError(f"{where} rows must have features, got shape {features.shape}")
    values = features.data if scipy.sparse.issparse(features) else features
    bad = np.count_nonzero(~np.isfinite(values))
    if bad:
        raise ValueError(
            f"{where} features must be finite, got {bad} NaN or infinite values{_first_bad(features)}; "
            "fill them in or drop these rows"
        )


def _first_bad(features):
    if scipy.sparse.issparse(features):
        return ""
    row = int(np.argmin(np.isfinite(features).reshape(len(features), -1).all(axis=1)))
    return f", the first in row {row}"


def _form(features):
    container = "a CSR matrix" if scipy.sparse.issparse(features) else "an array"
    return f"{container} of rows of shape {features.shape[1:]}"
