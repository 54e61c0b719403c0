"""Rows and labels in memory: every kind of rows, every kind of labels, trusted rows and faults."""

import warnings
from typing import Any

import numpy as np
import polars
import pytest
import scipy.sparse

from bilevel.datasets import from_arrays

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pandas

RANDOM = np.random.default_rng(0)
ROWS = 60
X = RANDOM.normal(size=(ROWS, 4))
Y = (X[:, 0] > 0).astype(int)
TEXTS = [f"{'good' if label else 'bad'} word number {row % 7} here" for row, label in enumerate(Y)]
FRAME = pandas.DataFrame(
    {
        "a": X[:, 0],
        "b": RANDOM.integers(0, 3, ROWS),
        "c": RANDOM.choice(["x", "y"], ROWS),
        "day": pandas.date_range("2020-01-01", periods=ROWS, freq="37D"),
    }
)

KINDS = {
    "float64": X,
    "float32": X.astype(np.float32),
    "integers": (10 * X).astype(int),
    "Booleans": X > 0,
    "lists": X.tolist(),
    "tuples": tuple(map(tuple, X)),
    "objects": np.array([[None if value > 2 else value for value in row] for row in X.tolist()], object),
    "mixed objects": np.array([[1.5, "a"], [2.5, "b"]] * 30, object),
    "grey images": RANDOM.integers(0, 256, (ROWS, 5, 6)).astype(np.uint8),
    "colour images": RANDOM.random((ROWS, 5, 6, 3)),
    "csr matrix": scipy.sparse.csr_matrix(X * (X > 0)),
    "csc array": scipy.sparse.csc_array(X * (X > 0)),
    "coo matrix": scipy.sparse.coo_matrix(X * (X > 0)),
    "texts": TEXTS,
    "array of texts": np.array(TEXTS),
    "objects of texts": np.array(TEXTS, object),
    "pandas texts": pandas.Series(TEXTS),
    "polars texts": polars.Series(TEXTS),
    "pandas": FRAME,
    "pandas numbers": pandas.DataFrame(X),
    "polars": polars.DataFrame(FRAME.to_dict("list")),
    "lazy polars": polars.LazyFrame({"a": X[:, 0], "c": TEXTS}),
    "records": [{"a": value, "c": "x" if value > 1 else "y"} for value in X[:, 0].tolist()],
    "columns": {"a": X[:, 0].tolist(), "c": ["x", "y"] * 30},
}


def pick(rows, index):
    """Return some rows of any kind."""
    if isinstance(rows, polars.LazyFrame):
        return rows.collect()[index]
    if hasattr(rows, "iloc"):
        return rows.iloc[index]
    if isinstance(rows, dict):
        return {name: [column[row] for row in index] for name, column in rows.items()}
    if isinstance(rows, list | tuple):
        return type(rows)(rows[row] for row in index)
    return rows.tocsr()[index] if scipy.sparse.issparse(rows) else rows[index]


def dense(features):
    return features.toarray() if scipy.sparse.issparse(features) else features


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_rows_becomes_finite_features(kind):
    rows = KINDS[kind]
    index = [5, 3, 40, 41]
    data: Any = from_arrays(
        rows,
        Y,
        trusted=(pick(rows, index), Y[index]),
        test=(pick(rows, index[:2]), Y[index[:2]]),
        name="mine",
    )
    assert data.name == "mine" and data.labels.tolist() == Y.tolist() and data.classes == ["0", "1"]
    assert len(data.labels) == data.features.shape[0] == ROWS
    for features in (data.features, data.trusted_features, data.test_features):
        assert features.dtype == np.float32 and np.isfinite(dense(features)).all()
    np.testing.assert_allclose(dense(data.trusted_features), dense(data.features)[index], atol=1e-5)
    np.testing.assert_allclose(dense(data.test_features), dense(data.features)[index[:2]], atol=1e-5)
    assert data.test_labels.tolist() == Y[index[:2]].tolist() and data.checked_rows is None
    assert (data.image_shape is not None) == ("images" in kind)
    sparse = any(word in kind for word in ("csr", "csc", "coo", "texts"))
    assert scipy.sparse.issparse(data.features) == sparse


LABELS = {
    "integers": (Y, ["0", "1"]),
    "floats": (Y.astype(float), ["0", "1"]),
    "Booleans": (Y > 0, ["False", "True"]),
    "list of Booleans": ((Y > 0).tolist(), ["False", "True"]),
    "texts": (np.array(["no", "yes"])[Y], ["no", "yes"]),
    "list of texts": (np.array(["no", "yes"])[Y].tolist(), ["no", "yes"]),
    "bytes": (np.array([b"no", b"yes"])[Y], ["no", "yes"]),
    "numbers as text": (np.array(["007", "008"])[Y], ["007", "008"]),
    "list of integers": ((Y + 9).tolist(), ["9", "10"]),
    "pandas": (pandas.Series(Y), ["0", "1"]),
    "pandas texts": (pandas.Series(np.array(["no", "yes"])[Y]), ["no", "yes"]),
    "pandas categories": (pandas.Series(np.array(["no", "yes"])[Y], dtype="category"), ["no", "yes"]),
    "pandas strings": (pandas.Series(np.array(["no", "yes"])[Y], dtype="string"), ["no", "yes"]),
    "pandas nullable": (pandas.Series(Y, dtype="Int64"), ["0", "1"]),
    "pandas frame": (pandas.DataFrame({"y": Y}), ["0", "1"]),
    "polars": (polars.Series(Y), ["0", "1"]),
    "polars categories": (polars.Series(np.array(["no", "yes"])[Y]).cast(polars.Categorical), ["no", "yes"]),
    "polars Booleans": (polars.Series(Y > 0), ["False", "True"]),
    "polars frame": (polars.DataFrame({"y": Y}), ["0", "1"]),
    "one column": (Y[:, None], ["0", "1"]),
    "blanks": ([("no " if row % 2 else "no", "yes")[label] for row, label in enumerate(Y)], ["no", "yes"]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_every_kind_of_labels_becomes_classes(kind):
    labels, classes = LABELS[kind]
    data = from_arrays(X, labels)
    assert data.classes == classes and data.labels.tolist() == Y.tolist() and data.labels.dtype == np.int32


@pytest.mark.parametrize(
    "labels",
    [
        [None if row == 2 else int(label) for row, label in enumerate(Y)],
        np.where(np.arange(ROWS) == 2, np.nan, Y),
        pandas.Series([pandas.NA if row == 2 else int(label) for row, label in enumerate(Y)], dtype="Int64"),
        pandas.Series([None if row == 2 else str(label) for row, label in enumerate(Y)]),
        polars.Series([None if row == 2 else int(label) for row, label in enumerate(Y)]),
    ],
    ids=["list", "numpy", "pandas integers", "pandas texts", "polars"],
)
def test_rows_without_a_label_are_left_out(labels):
    data: Any = from_arrays(FRAME, labels, trusted=np.arange(ROWS) < 6)
    assert data.classes == ["0", "1"] and data.rows.tolist() == [0, 1, *range(3, ROWS)]
    assert data.labels.tolist() == Y[data.rows].tolist() and data.shown.height == ROWS - 1
    assert data.rows[data.checked_rows].tolist() == [0, 1, 3, 4, 5]
    assert data.trusted_labels.tolist() == Y[[0, 1, 3, 4, 5]].tolist()


@pytest.mark.parametrize("kind", [np.asarray, list, pandas.Series, polars.Series])
@pytest.mark.parametrize("rows", ["float64", "csr matrix", "texts", "pandas", "grey images"])
def test_a_mask_marks_trusted_rows(kind, rows):
    mask = np.arange(ROWS) % 7 == 3
    data: Any = from_arrays(KINDS[rows], Y, trusted=kind(mask))
    assert data.checked_rows.tolist() == np.flatnonzero(mask).tolist()
    assert data.trusted_labels.tolist() == Y[mask].tolist() and len(data.labels) == ROWS
    np.testing.assert_array_equal(dense(data.trusted_features), dense(data.features)[mask])


@pytest.mark.parametrize(
    "rows", [X, pandas.DataFrame(X), polars.DataFrame(X)], ids=["numpy", "pandas", "polars"]
)
def test_one_wild_row_does_not_harm_the_others(rows):
    wild = np.array(rows)
    wild[7] = 999999
    data: Any = from_arrays(type(rows)(wild) if not isinstance(rows, np.ndarray) else wild, Y)
    plain: Any = from_arrays(rows, Y)
    others = np.arange(ROWS) != 7
    np.testing.assert_allclose(data.features[others], plain.features[others], atol=0.2)
    assert np.abs(data.features).max() <= 6 and len(data.notes) == 1
    assert "extreme values in most columns of 1 row (7, counted from 0)" in data.notes[0]


def test_a_sparse_column_with_one_wild_value_keeps_the_others():
    matrix = X * (X > 0)
    row = int(np.flatnonzero(matrix[:, 0])[0])
    wild = matrix.copy()
    wild[row, 0] = 999999
    data, plain = (
        from_arrays(scipy.sparse.csr_matrix(wild), Y),
        from_arrays(scipy.sparse.csr_matrix(matrix), Y),
    )
    largest = dense(data.features).max(axis=0)
    np.testing.assert_allclose(largest, 1)
    others = np.arange(ROWS) != row
    assert dense(data.features)[others, 0].max() > 0.1
    np.testing.assert_allclose(dense(data.features)[:, 1:], dense(plain.features)[:, 1:], rtol=1e-6)


def test_scaling_keeps_the_order_of_values():
    column = np.sort(np.concatenate([RANDOM.standard_cauchy(ROWS - 2), [-np.inf, np.inf]]))
    scaled = np.asarray(from_arrays(column[:, None], Y).features)[:, 0]
    assert (np.diff(scaled) >= 0).all() and scaled[0] == -6 and scaled[-1] == 6


@pytest.mark.parametrize("size", [1e308, 1e-308, 1e30, 1e-30])
def test_numbers_of_any_size_become_finite(size):
    data: Any = from_arrays(np.sign(X) * size * RANDOM.random((ROWS, 4)), Y)
    assert np.isfinite(data.features).all() and np.abs(data.features).max() <= 6


@pytest.mark.parametrize(
    "texts",
    [
        [chr(0x4E00 + row) for row in range(ROWS)],
        ["." * (row + 1) for row in range(ROWS)],
        [chr(97 + row % 26) + chr(97 + row % 3) for row in range(ROWS)],
        [f"Zoë Ünal {row}" for row in range(ROWS)],
    ],
    ids=["one sign", "dots", "two letters", "names"],
)
def test_text_of_any_letters_becomes_features(texts):
    mixed: Any = from_arrays(polars.DataFrame({"text": texts, "x": X[:, 0]}), Y)
    assert mixed.features.shape[1] > 2 and np.isfinite(mixed.features).all()
    alone: Any = from_arrays(texts, Y)
    assert scipy.sparse.issparse(alone.features) and alone.features.nnz


def test_the_index_of_a_frame_is_a_key():
    data: Any = from_arrays(FRAME.set_axis([f"k{row}" for row in range(ROWS)]), Y, test=(FRAME, Y))
    assert data.shown.columns == ["index", "a", "b", "c", "day"] and data.shown["index"][3] == "k3"
    assert data.notes == ()
    plain: Any = from_arrays(FRAME, Y)
    assert plain.shown.columns == ["a", "b", "c", "day"]
    np.testing.assert_array_equal(data.features, plain.features)


def test_pandas_types_with_missing_values():
    half = [None, 1] * (ROWS // 2)
    frame = pandas.DataFrame(
        {
            "integer": pandas.array([None, 1, 2] * 20, "Int64"),
            "Boolean": pandas.array([None, True, False] * 20, "boolean"),
            "string": pandas.array([None, "u", "v"] * 20, "string"),
            "category": pandas.Categorical([None, "u", "v"] * 20),
            "time": pandas.to_timedelta(np.arange(ROWS) % 11, unit="h"),
            "zone": pandas.date_range("2020-01-01", periods=ROWS, freq="31h", tz="Europe/Berlin"),
            "object": [None, 1, "a"] * 20,
            "half": half,
        }
    )
    data: Any = from_arrays(frame, Y)
    assert np.isfinite(data.features).all() and data.shown.columns == list(frame.columns)
    assert data.notes[0].startswith(
        "130 missing values imputed, with an indicator for each column: 'integer' (20)"
    )


def test_the_users_rows_are_not_changed():
    matrix = scipy.sparse.csr_matrix(([1.0, 2.0, 3.0] * 20, ([0, 0, 1] * 20, [0, 0, 1] * 20)), (ROWS, 2))
    rows, frame = X.copy(), FRAME.copy()
    before = matrix.copy()
    for kind in (matrix, rows, frame):
        from_arrays(kind, Y, trusted=Y > 0)
    assert (matrix != before).nnz == 0 and matrix.data.tolist() == before.data.tolist()
    np.testing.assert_array_equal(rows, X)
    pandas.testing.assert_frame_equal(frame, FRAME)


MASK = np.arange(ROWS) < 5
BAD = {
    "one-hot labels": (
        (X, np.eye(2)[Y]),
        {},
        r"training labels must be one column, got shape \(60, 2\); give",
    ),
    "measurements": (
        (X, X[:, 0]),
        {},
        "training labels must be integers or strings, got .*replace measurements",
    ),
    "one class": (
        (X, np.ones(ROWS)),
        {},
        "must have at least 2 classes, got only '1'; add rows of other classes",
    ),
    "no labels": ((X, [None] * ROWS), {}, "must have at least 2 classes, got none"),
    "lists as labels": (
        (X, [[1]] * 59 + [[1, 2]]),
        {},
        "must be integers or strings, got list; give one label each",
    ),
    "dates as labels": ((X, FRAME["day"]), {}, "must be integers or strings, got datetime64.*; convert them"),
    "lengths": ((X, Y[:-1]), {}, "training rows need one label each, got 60 rows and 59 labels"),
    "one axis": ((X[:, 0], Y), {}, r"got shape \(60,\); for one feature, give features.reshape\(-1, 1\)"),
    "a number": ((3.0, Y), {}, r"features must be \(n, d\), .*got shape \(\)"),
    "no rows": ((X[:0], Y[:0]), {}, "training rows are missing, got shape .*; add at least 2 rows"),
    "no columns": ((X[:, :0], Y), {}, "rows need at least 1 feature, got shape"),
    "lists of two lengths": (
        ([[1, 2], [3]] * 30, Y),
        {},
        "must have the same number of features, .*; pad them",
    ),
    "texts and numbers": ((["a", 1] * 30, Y), {}, "training texts must all be strings, got 1; convert it"),
    "texts without letters": (([""] * ROWS, Y), {}, "texts must share some words or letters, got none"),
    "complex": ((X + 1j, Y), {}, "training features must be real numbers, got complex128; convert"),
    "names twice": (
        (pandas.DataFrame(X[:, :2], columns=["a", "a"]), Y),
        {},
        "columns .* must have different names",
    ),
    "lists in cells": (
        (polars.DataFrame({"a": [[1]] * ROWS}), Y),
        {},
        "column 'a' must hold numbers, text or",
    ),
    "nothing varies": ((polars.DataFrame({"a": [1] * ROWS}), Y), {}, "needs columns of features that vary"),
    "images": ((np.full((ROWS, 2, 2), np.nan), Y), {}, "training images must be finite, got 240 NaN"),
    "mask length": ((X, Y), {"trusted": MASK[:3]}, r"must have 60 values, one a row, got shape \(3,\)"),
    "mask of none": ((X, Y), {"trusted": MASK & False}, "must mark some rows, got none; leave out trusted"),
    "trusted": (
        (X, Y),
        {"trusted": [1, 2, 3]},
        "must be .* a Boolean mask of .*, got list; give one of them",
    ),
    "trusted width": ((X, Y), {"trusted": (X[:, :2], Y)}, "trusted rows must have the form of training rows"),
    "trusted kind": ((X, Y), {"trusted": (FRAME, Y)}, "an array of rows of shape .*, got a table"),
    "trusted class": ((X, Y), {"trusted": (X, Y + 5)}, "trusted label '[56]' is not a class .*; known: 0, 1"),
    "trusted column": (
        (FRAME, Y),
        {"trusted": (FRAME[["a", "b"]], Y)},
        "trusted: column 'c' of data is missing",
    ),
    "test": ((X, Y), {"test": X}, r"test must be the pair \(X, y\), got ndarray; give rows and labels"),
    "test class": ((X, Y), {"test": (X, Y + 5)}, "test label '[56]' is not a class"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_rows_and_labels_are_refused_in_one_line(case):
    arguments, options, message = BAD[case]
    with pytest.raises(ValueError, match=message) as caught:
        from_arrays(*arguments, **options)
    assert "\n" not in str(caught.value)
