"""Files of the user: what is read from them, and one clear line for each fault."""

from typing import Any

import numpy as np
import polars
import pytest
import scipy.sparse

from bilevel.datasets import DataNotFoundError, read_file

RANDOM = np.random.default_rng(0)


def good():
    """Return the arrays of a valid file: 12 rows of 3 features, classes 1 and 5, four trusted rows."""
    return {
        "features": RANDOM.normal(3, 2, (12, 3)),
        "labels": np.array([1, 5] * 6),
        "trusted_features": RANDOM.normal(3, 2, (4, 3)),
        "trusted_labels": np.array([5, 1, 1, 5]),
    }


def save(path, **changes):
    """Write a valid file with some arrays changed, or left out where None."""
    np.savez(path, **{name: array for name, array in (good() | changes).items() if array is not None})
    return path


def csr(prefix, matrix):
    arrays = {key: getattr(matrix, key) for key in ("data", "indices", "indptr", "shape")}
    return {f"{prefix}_{key}": np.asarray(array) for key, array in arrays.items()}


def test_vectors_are_standardised_by_the_training_rows(tmp_path):
    arrays = good()
    data: Any = read_file(
        save(tmp_path / "mine.npz", **arrays, test_features=np.ones((2, 3)), test_labels=[1, 5])
    )
    assert data.name == "mine" and data.classes == ["1", "5"] and data.image_shape is None
    assert data.labels.tolist() == [0, 1] * 6 and data.trusted_labels.tolist() == [1, 0, 0, 1]
    assert {rows.dtype for rows in (data.features, data.trusted_features, data.test_features)} == {
        np.dtype("f4")
    }
    mean, deviation = arrays["features"].mean(0), arrays["features"].std(0)
    np.testing.assert_allclose(data.features, (arrays["features"] - mean) / deviation, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(data.test_features[0], (1 - mean) / deviation, rtol=1e-5)
    assert data.test_labels.dtype == np.int32


def test_a_constant_column_becomes_zero(tmp_path):
    features = np.stack([np.full(12, 0.1), np.arange(12)], axis=1)
    data = read_file(save(tmp_path / "a.npz", features=features, trusted_features=features[:4]))
    assert abs(data.features[:, 0]).max() < 1e-12 and data.features[:, 1].std() == pytest.approx(1)


def test_string_labels_become_sorted_classes(tmp_path):
    labels = np.array(["dog", "cat"] * 6)
    data = read_file(save(tmp_path / "a.npz", labels=labels, trusted_labels=np.array([b"cat", b"dog"] * 2)))
    assert data.classes == ["cat", "dog"] and data.labels.tolist() == [1, 0] * 6
    assert data.trusted_labels is not None and data.trusted_labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("shape", [(12, 4, 5), (12, 4, 5, 3)])
def test_images_of_integers_are_divided_by_255(tmp_path, shape):
    images = RANDOM.integers(0, 256, shape, np.uint8)
    data = read_file(save(tmp_path / "a.npz", features=images, trusted_features=images[:4]))
    assert isinstance(data.features, np.ndarray)
    assert data.image_shape == shape[1:] and data.features.dtype == np.float32
    np.testing.assert_allclose(data.features, images / 255, rtol=1e-6)
    floats = read_file(save(tmp_path / "b.npz", features=images / 7, trusted_features=images[:4] / 7))
    assert isinstance(floats.features, np.ndarray)
    np.testing.assert_allclose(floats.features, images / 7, rtol=1e-6)


def test_sparse_rows_stay_sparse_and_are_scaled_by_column(tmp_path):
    matrix = scipy.sparse.random(12, 1_000_000, 1e-5, "csr", rng=RANDOM)
    matrix.data -= 0.5
    arrays = csr("features", matrix) | csr("trusted_features", matrix[:4])
    data = read_file(save(tmp_path / "a.npz", features=None, trusted_features=None, **arrays))
    assert isinstance(data.features, scipy.sparse.csr_matrix)
    assert isinstance(data.trusted_features, scipy.sparse.csr_matrix)
    assert data.features.dtype == np.float32
    assert data.features.nnz == matrix.nnz and data.trusted_features.shape == (4, 1_000_000)
    greatest = abs(data.features).max(axis=0).toarray()
    np.testing.assert_allclose(greatest[greatest > 0], 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.float16])
def test_sparse_rows_of_small_types_become_float32(tmp_path, dtype):
    matrix = scipy.sparse.random(12, 30, 0.2, "csr", rng=RANDOM)
    small = csr("features", matrix) | {"features_data": np.ones(matrix.nnz, dtype)}
    small["features_indices"] = small["features_indices"].astype(np.uint16)
    trusted = {f"trusted_{name}": array for name, array in small.items()}
    labels = good()["labels"]
    arrays = {"features": None, "trusted_features": None, "trusted_labels": labels} | small | trusted
    data = read_file(save(tmp_path / "a.npz", **arrays))
    assert data.features.dtype == np.float32 and set(data.features.data) == {1}


NAN = np.where(np.arange(36).reshape(12, 3) == 16, np.nan, 1.0)

BAD_ARRAYS = {
    "missing array": (
        {"trusted_labels": None, "trusted_label": np.arange(4)},
        "array 'trusted_labels' is missing; did you mean 'trusted_label'?",
    ),
    "test labels missing": ({"test_features": np.ones((2, 3))}, "array 'test_labels' is missing"),
    "one column": ({"features": np.ones(12)}, r"features must be \(n, d\).*got shape \(12,\)"),
    "text features": ({"features": np.full((12, 3), "a")}, "features must be real numbers, got <U1"),
    "lengths": (
        {"labels": np.arange(11)},
        r"training rows need one label each, got 12 rows and labels of shape \(11,\)",
    ),
    "NaN": ({"features": NAN}, "got 1 NaN or infinite values, the first in row 5"),
    "no rows": (
        {"features": np.ones((0, 3)), "labels": np.ones(0, int)},
        r"training rows are missing, got shape \(0, 3\)",
    ),
    "no trusted": (
        {"trusted_features": np.ones((0, 3)), "trusted_labels": np.ones(0, int)},
        r"trusted rows are missing, got shape \(0, 3\); add at least 2 rows",
    ),
    "one trusted class": (
        {"trusted_labels": np.full(4, 5)},
        "trusted labels must have at least 2 classes, got only '5'; add trusted",
    ),
    "one class": ({"labels": np.ones(12, int)}, "training labels must have at least 2 classes, got only '1'"),
    "strange trusted": ({"trusted_labels": np.array([1, 5, 6, 1])}, "trusted label '6' is not a class"),
    "strange test": (
        {"test_features": np.ones((2, 3)), "test_labels": np.array([1, 2])},
        "test label '2' is not a class of the training rows",
    ),
    "measurements": ({"labels": np.linspace(0, 1, 12)}, "must be integers or strings, got 0.09"),
    "widths": (
        {"trusted_features": np.ones((4, 2))},
        r"form of training rows, an array of rows of shape \(3,\), got an array of rows of shape \(2,\)",
    ),
    "no columns": ({"features": np.ones((12, 0))}, "rows need at least 1 feature"),
    "pickled": (
        {"labels": np.array([1, "a"] * 6, object)},
        "must hold numbers or fixed-width strings, got pickled objects",
    ),
    "pixels": (
        {"features": np.full((12, 2, 2), 300), "trusted_features": np.full((4, 2, 2), 300)},
        "must be between 0 and 255, got 300 to 300; scale them",
    ),
    "mixed images": (
        {"features": np.ones((12, 2, 2), int), "trusted_features": np.ones((4, 2, 2))},
        "all be floats, got float64 in one part only",
    ),
    "form": (
        {"features": None, **csr("features", scipy.sparse.eye(12, 3, format="csr"))},
        "a CSR matrix of rows .* got an array of rows",
    ),
    "broken CSR": (
        {
            "features": None,
            **csr("features", scipy.sparse.eye(12, 3, format="csr")),
            "features_shape": (12, 2),
        },
        "is not a valid CSR matrix",
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_a_bad_array_is_refused_in_one_line(tmp_path, case):
    changes, message = BAD_ARRAYS[case]
    says(message, save(tmp_path / "bad.npz", **changes))


def says(message, path, **options):
    with pytest.raises(ValueError, match=message) as caught:
        read_file(path, **options)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path):
    with pytest.raises(DataNotFoundError, match="no such file: .*none.npz"):
        read_file(tmp_path / "none.npz")
    (tmp_path / "a.txt").write_text("")
    says("unknown file type '.txt'", tmp_path / "a.txt")
    (tmp_path / "a.npz").write_bytes(b"\x80\x04no archive")
    says("a.npz must be an .npz file, got other content", tmp_path / "a.npz")
    says("are for tables", save(tmp_path / "b.npz"), label="class")
    content = save(tmp_path / "c.npz").read_bytes()
    (tmp_path / "c.npz").write_bytes(content[:200] + b"\0" * 40 + content[240:])
    says("cannot be read", tmp_path / "c.npz")


ROWS = {
    "size": [1.0, 2.0, 3.0, 4.0],
    "old": [True, False, True, False],
    "colour": ["red", "blue", "red", "blue"],
}
TABLE = ROWS | {"kind": ["b", "a", "b", "a"]}


def write(path, columns):
    table = polars.DataFrame(columns)
    table.write_csv(path) if path.suffix == ".csv" else table.write_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_are_matched_by_column_name(tmp_path, suffix):
    path = write(tmp_path / f"rows{suffix}", TABLE)
    shuffled = {name: TABLE[name][::-1] for name in ("kind", "colour", "size", "old")}
    data = read_file(path, label="kind", trusted=write(tmp_path / f"trusted{suffix}", shuffled))
    assert data.name == "rows" and data.classes == ["a", "b"] and data.labels.tolist() == [1, 0, 1, 0]
    # size, old, colour=blue, colour=red, standardised; the trusted columns are matched by name.
    assert isinstance(data.features, np.ndarray) and isinstance(data.trusted_features, np.ndarray)
    assert data.features.shape == (4, 4) and data.trusted_features.shape == (4, 4)
    np.testing.assert_array_equal(data.trusted_features, data.features[::-1])
    np.testing.assert_allclose(data.features[:, 2], [-1, 1, -1, 1])
    np.testing.assert_allclose(data.features.std(axis=0), 1, rtol=1e-6)


def test_integer_labels_of_a_table_are_sorted_as_numbers(tmp_path):
    path = write(tmp_path / "rows.csv", ROWS | {"kind": [10, 9, 10, 9]})
    data = read_file(path, label="kind", trusted=path)
    assert data.trusted_labels is not None
    assert data.classes == ["9", "10"] and data.trusted_labels.tolist() == [1, 0, 1, 0]


MANY = {"size": list(range(21)), "word": [f"w{i}" for i in range(21)], "kind": ["a", "b", "c"] * 7}

BAD_TABLES = {
    "no label": (
        TABLE,
        TABLE,
        {"label": None},
        r"none; give one \(--label COLUMN\) of size, old, colour, kind",
    ),
    "no trusted": (
        TABLE,
        None,
        {},
        r"rows.csv: a table needs a second table of trusted rows, got none; .*--trusted FILE",
    ),
    "label": (TABLE, TABLE, {"label": "kimd"}, "unknown column 'kimd'; did you mean 'kind'?"),
    "features": (
        {"kind": [1, 2]},
        {"kind": [1, 2]},
        {},
        "a table needs columns of features, got only the labels 'kind'",
    ),
    "gap": (
        TABLE | {"size": [1, None, 3, 4]},
        TABLE,
        {},
        "column 'size' must have no missing values, got 1; fill",
    ),
    "gap in text": (
        TABLE | {"colour": ["red", "", "red", "NA"]},
        TABLE,
        {},
        "column 'colour' must have no missing values, got 2",
    ),
    "gap in labels": (
        TABLE | {"kind": ["a", "b", None, "a"]},
        TABLE,
        {},
        "column 'kind' must have no missing values, got 1",
    ),
    "words": (MANY, MANY, {}, "text column 'word' must have at most 20 distinct values, got 21"),
    "other column": (
        TABLE,
        {"sizes": ROWS["size"], **{name: TABLE[name] for name in ("old", "colour", "kind")}},
        {},
        "trusted.csv: column 'size' of rows.csv is missing; did you mean 'sizes'?",
    ),
    "extra column": (TABLE, TABLE | {"more": [1] * 4}, {}, "trusted.csv: column 'more' is not in rows.csv"),
    "new value": (
        TABLE,
        TABLE | {"colour": ["rod"] * 4},
        {},
        "has the value 'rod', which no training row has; did you mean 'red'",
    ),
    "new type": (
        TABLE,
        TABLE | {"size": list("abcd")},
        {},
        "column 'size' must have the type of the training rows, number, got String",
    ),
    "new class": (TABLE, TABLE | {"kind": list("abca")}, {}, "trusted label 'c' is not a class"),
    "one class": (TABLE, TABLE | {"kind": list("aaaa")}, {}, "must have at least 2 classes, got only 'a'"),
    "infinite": (TABLE | {"size": [1.0, 2.0, float("inf"), 4]}, TABLE, {}, "the first in row 2"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_is_refused_in_one_line(tmp_path, case):
    rows, trusted, options, message = BAD_TABLES[case]
    path = write(tmp_path / "rows.csv", rows)
    if trusted is not None:
        options = {"trusted": write(tmp_path / "trusted.csv", trusted)} | options
    says(message, path, **({"label": "kind"} | options))


def test_a_table_file_that_cannot_be_read_is_refused_in_one_line(tmp_path):
    path = write(tmp_path / "rows.csv", TABLE)
    with pytest.raises(DataNotFoundError, match="no such file"):
        read_file(path, label="kind", trusted=tmp_path / "none.csv")
    says(
        "a table must be a .csv or .parquet file, got '.npz'",
        path,
        label="kind",
        trusted=save(tmp_path / "t.npz"),
    )
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no table PAR1")
    says("cannot be read as parquet", tmp_path / "broken.parquet", label="kind", trusted=path)
    (tmp_path / "empty.csv").write_text("")
    says("cannot be read as csv", tmp_path / "empty.csv", label="kind", trusted=path)
    dates = polars.DataFrame(TABLE).with_columns(day=polars.date(2020, 1, 1))
    dates.write_parquet(tmp_path / "dates.parquet")
    says(
        "column 'day' must hold numbers or text, got Date",
        tmp_path / "dates.parquet",
        label="kind",
        trusted=tmp_path / "dates.parquet",
    )
