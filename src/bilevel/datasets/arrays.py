"""Data sets from rows and labels in memory: arrays, tables, sparse matrices, texts."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse

from bilevel.datasets.assemble import assemble, with_checked
from bilevel.datasets.frames import TableForm, as_frame
from bilevel.datasets.labels import count, label_texts
from bilevel.datasets.rows import Scale, image_scaler, sparse_scaler, vector_scaler
from bilevel.datasets.types import Dataset
from bilevel.datasets.vectors import note_extremes, text_vectorizer
from bilevel.extras import extra


def from_arrays(X: Any, y: Any, *, trusted: Any = None, test: Any = None, name: str = "data") -> Dataset:
    """Return a data set of rows and labels in memory, scaled for learning.

    Rows may be an array (n, d), images (n, h, w[, c]), a frame of pandas or polars, a SciPy sparse matrix,
    or n texts. Each becomes finite float32 features, with the statistics of the training rows:

    - Columns of numbers are centred at the median and divided by the interquartile range, and values far
      outside are bent back, so that no row decides the scale. Missing values become the median, and an
      indicator is appended.
    - Images of integers are divided by 255; images of floats stay as they are.
    - Sparse columns are divided by their largest absolute value.
    - Texts become tf-idf vectors of their words.
    - Frames are vectorised by skrub's `TableVectorizer`: few categories one-hot, text by its letters or
      words, dates by their parts. Columns that number the rows and ids are left out.

    Args:
      X: n rows.
      y: n labels: integers, text, Booleans or categories. Rows without a label are left out.
      trusted: `(X, y)` of rows whose labels are right, or a Boolean mask of such rows of `X`; None means no
        trusted rows.
      test: `(X, y)` of test rows, or None.
      name: name of the data set.

    Returns:
      A `Dataset`. Its `notes` list everything unusual.

    Raises:
      ValueError: when rows or labels break a rule; the message is one line.

    >>> data = from_arrays([[1.0, 2.0], [3.0, 4.0]], ["cat", "dog"])
    >>> data.classes, data.labels.tolist(), data.features.shape
    (['cat', 'dog'], [0, 1], (2, 2))
    """
    given = {"training": (X, y)}
    mask = None
    if trusted is not None:
        if _is_mask(trusted):
            mask = np.asarray(trusted, bool)
        else:
            given["trusted"] = _pair("trusted", trusted)
    if test is not None:
        given["test"] = _pair("test", test)
    parts, keys = {}, ()
    for part, (rows, labels) in given.items():
        rows, index = as_rows(part, rows)
        if part == "training":
            keys = index
        elif index:
            rows = rows.drop(index)
        parts[part] = rows, labels
    data = dataset(name, parts, keys=keys)
    if mask is None:
        return data
    total = len(data.labels) if data.rows is None else _length(y)
    if mask.shape != (total,):
        raise ValueError(
            f"a mask of trusted rows must have {total} values, one a row, got shape {mask.shape}"
        )
    if not mask.any():
        raise ValueError("a mask of trusted rows must mark some rows, got none; leave out trusted")
    labels = np.full(total, -1, np.int32)
    labels[slice(None) if data.rows is None else data.rows] = data.labels
    marked = np.flatnonzero(mask)
    return with_checked(data, marked, labels[marked])


def dataset(
    name: str,
    parts: dict[str, tuple[Any, Any]],
    *,
    where: str = "",
    keys: Sequence[str] = (),
    shown: Any = None,
) -> Dataset:
    """Return the data set of rows and labels of some parts.

    Args:
      name: name of the data set.
      parts: `{part: (rows, labels)}`; rows are from `as_rows`.
      where: the beginning of error messages.
      keys: columns of a table that are keys.
      shown: polars.DataFrame of the training rows as read, or None.
    """
    with extra("clean"):
        import polars

    texts = {part: label_texts(f"{where}{part}", labels) for part, (_, labels) in parts.items()}
    for part, (rows, _) in parts.items():
        _require_rows(f"{where}{part}", rows, texts[part])
    rows = parts["training"][0]
    form = _form(rows)
    for part, (others, _) in parts.items():
        if _form(others) != form:
            raise ValueError(
                f"{where}{part} rows must have the form of training rows, {form}, got {_form(others)}; "
                "give both in the same form"
            )
    notes: list[str] = []
    found: tuple[str, ...] = ()
    if isinstance(rows, polars.DataFrame):
        table = TableForm(rows, source=name, keys=keys)
        notes, found = table.notes, table.keys
        fit, shown = table.fit, rows.select(table.shown)
    elif isinstance(rows, polars.Series):
        fit, shown = _fit_texts, rows.to_frame("text")
    elif scipy.sparse.issparse(rows):
        fit = _fit_sparse
    elif rows.ndim > 2:
        fit = partial(_fit_images, where.rstrip(": ") or name)
    else:
        fit = _fit_vectors
    image_shape = rows.shape[1:] if isinstance(rows, np.ndarray) and rows.ndim > 2 else None
    pairs = {part: (part_rows, texts[part]) for part, (part_rows, _) in parts.items()}
    return assemble(
        name, pairs, fit, where=where, notes=notes, shown=shown, keys=found, image_shape=image_shape
    )


def as_rows(part: str, rows: Any) -> tuple[Any, list[str]]:
    """Return rows as a polars.DataFrame, a polars.Series of texts, a CSR matrix or an array, and keys.

    Args:
      part: the part, the beginning of error messages.
      rows: n rows of any supported kind.

    Returns:
      The rows, and the names of the columns of a frame that are the index of a frame of pandas.
    """
    with extra("clean"):
        import polars

    if scipy.sparse.issparse(rows):
        matrix = scipy.sparse.csr_matrix(rows, copy=True)
        matrix.sum_duplicates()
        return matrix, []
    if isinstance(rows, Mapping):
        return polars.DataFrame(rows, strict=False), []
    if isinstance(rows, list | tuple) and rows and isinstance(rows[0], Mapping):
        return polars.DataFrame(rows, infer_schema_length=None, strict=False), []
    if isinstance(rows, polars.LazyFrame) or hasattr(rows, "columns"):
        return as_frame(rows)
    if not isinstance(rows, list | tuple) and hasattr(rows, "to_list"):  # a Series
        rows = rows.to_list()
    if isinstance(rows, list | tuple) and any(isinstance(row, str) for row in rows):
        return _texts(part, rows), []
    try:
        array = np.asarray(rows)
    except ValueError:
        raise ValueError(
            f"{part} rows must have the same number of features, got rows of different lengths; pad them"
        ) from None
    if array.ndim == 1 and array.dtype.kind in "UOT" and any(isinstance(row, str) for row in array.tolist()):
        return _texts(part, array.tolist()), []
    if array.dtype.kind in "OUT" and array.ndim == 2:
        columns = {f"column {place}": array[:, place].tolist() for place in range(array.shape[1])}
        frame = polars.DataFrame(columns, strict=False, nan_to_null=True)
        # Missing values turn numbers into objects.
        numbers = all(kind.is_numeric() or kind == polars.Null for kind in frame.dtypes)
        return (frame.cast(polars.Float64).to_numpy() if numbers else frame), []
    return array, []


def _texts(part, rows):
    import polars

    texts = [row if isinstance(row, str) else None for row in rows]
    for row, text in zip(rows, texts, strict=True):
        if text is None and row is not None and str(row) not in ("nan", "<NA>"):
            raise ValueError(f"{part} texts must all be strings, got {row!r}; convert it")
    return polars.Series("text", texts, polars.String)


def _length(labels):
    return labels.shape[0] if hasattr(labels, "shape") else len(labels)


def _is_mask(trusted):
    if isinstance(trusted, tuple | list) and len(trusted) == 2:
        return all(isinstance(value, bool | np.bool_) for value in trusted)
    kinds = np.asarray(trusted).dtype.kind
    if kinds != "b":
        raise ValueError(
            "trusted must be (X, y) or a Boolean mask of the rows whose labels are right, "
            f"got {type(trusted).__name__}; give one of them"
        )
    return True


def _pair(part, pair) -> tuple[Any, Any]:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"{part} must be the pair (X, y), got {type(pair).__name__}; give rows and labels")
    return pair[0], pair[1]


def _fit_images(where, images, notes, places):
    scale = image_scaler(where, images)
    return lambda rows, part: scale(rows)


def _fit_vectors(rows, notes, places):
    scale = Scale(rows)
    gaps = np.isnan(rows) if rows.dtype.kind == "f" else np.zeros(0, bool)
    if gaps.any():
        columns = count(int(gaps.any(axis=0).sum()), "column")
        notes.append(f"{count(int(gaps.sum()), 'missing value')} in {columns} imputed, with indicators")
    note_extremes(notes, rows, [f"column {place}" for place in range(rows.shape[1])], scale, places)
    vectorize = vector_scaler(rows, scale)
    return lambda rows, part: vectorize(rows)


def _fit_texts(texts, notes, places):
    empty = int((texts.fill_null("").str.strip_chars() == "").sum())
    if empty:
        notes.append(f"{count(empty, 'row')} without text")
    first, vectorize = text_vectorizer(texts.fill_null("").to_list())
    return lambda rows, part: first if rows is texts else vectorize(rows.fill_null("").to_list())


def _fit_sparse(matrix, notes, places):
    bad = int((~np.isfinite(matrix.data)).sum())
    if bad:
        notes.append(f"{count(bad, 'missing or infinite value')} of the sparse matrix taken as 0")
    scale = sparse_scaler(_finite(matrix))
    return lambda rows, part: scale(_finite(rows))


def _finite(matrix):
    if np.isfinite(matrix.data).all():
        return matrix
    matrix = matrix.copy()
    matrix.data = np.nan_to_num(matrix.data, nan=0, posinf=0, neginf=0)
    return matrix


def _require_rows(where, rows, labels):
    import polars

    total = rows.shape[0] if rows.shape else 0
    if isinstance(rows, np.ndarray) or scipy.sparse.issparse(rows):
        if rows.ndim not in (2, 3, 4):
            hint = "; for one feature, give features.reshape(-1, 1)" if rows.ndim == 1 else ""
            raise ValueError(
                f"{where} features must be (n, d), (n, h, w) or (n, h, w, c), got shape {rows.shape}{hint}"
            )
        if rows.dtype.kind not in "biuf":
            raise ValueError(
                f"{where} features must be real numbers, got {rows.dtype}; convert them to float32"
            )
    if len(labels) != total:
        raise ValueError(f"{where} rows need one label each, got {total} rows and {len(labels)} labels")
    if total == 0:
        raise ValueError(f"{where} rows are missing, got shape {rows.shape}; add at least 2 rows")
    if isinstance(rows, polars.Series):
        return
    if 0 in rows.shape:
        raise ValueError(f"{where} rows need at least 1 feature, got shape {rows.shape}; add some")
    if isinstance(rows, np.ndarray) and rows.ndim > 2 and not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows)).sum())
        raise ValueError(
            f"{where} images must be finite, got {bad} NaN or infinite values; fill them or remove these rows"
        )


def _form(rows):
    import polars

    if isinstance(rows, polars.DataFrame):
        return "a table"
    if isinstance(rows, polars.Series):
        return "texts"
    container = "a CSR matrix" if scipy.sparse.issparse(rows) else "an array"
    return f"{container} of rows of shape {rows.shape[1:]}"
