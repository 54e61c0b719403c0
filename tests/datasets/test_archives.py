"""Archives of arrays: what is read from them, and one clear line for each fault."""

from typing import Any

import numpy as np
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


def test_vectors_are_scaled_by_the_training_rows(tmp_path):
    arrays = good()
    path = save(tmp_path / "mine.npz", **arrays, test_features=np.ones((2, 3)), test_labels=[1, 5])
    data: Any = read_file(path)
    assert data.name == "mine" and data.classes == ["1", "5"] and data.image_shape is None
    assert data.labels.tolist() == [0, 1] * 6 and data.trusted_labels.tolist() == [1, 0, 0, 1]
    assert {rows.dtype for rows in (data.features, data.trusted_features, data.test_features)} == {
        np.dtype("f4")
    }
    low, middle, high = np.quantile(arrays["features"], [0.25, 0.5, 0.75], axis=0)
    for rows, scaled in ((arrays["features"], data.features), (np.ones((2, 3)), data.test_features)):
        plain = 1.349 * (rows - middle) / (high - low)
        near = abs(plain) <= 3
        np.testing.assert_allclose(scaled[near], plain[near], rtol=1e-5, atol=1e-6)
    assert data.test_labels.dtype == np.int32 and data.notes == () and data.rows is None


def test_trusted_rows_are_optional(tmp_path):
    data = read_file(save(tmp_path / "a.npz", trusted_features=None, trusted_labels=None))
    assert data.trusted_features is None and data.trusted_labels is None and data.checked_rows is None


def test_a_constant_column_becomes_zero(tmp_path):
    features = np.stack([np.full(12, 0.1), np.arange(12)], axis=1)
    data: Any = read_file(save(tmp_path / "a.npz", features=features, trusted_features=features[:4]))
    assert abs(data.features[:, 0]).max() == 0 and data.features[:, 1].std() > 0.5


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
    "complex": (
        {"features": np.ones((12, 3), complex)},
        "training features must be real numbers, got complex128",
    ),
    "lengths": ({"labels": np.arange(11)}, "training rows need one label each, got 12 rows and 11 labels"),
    "NaN in images": (
        {"features": NAN.reshape(12, 3, 1), "trusted_features": NAN[:4].reshape(4, 3, 1)},
        "training images must be finite, got 1 NaN or infinite values; fill them or remove",
    ),
    "no rows": (
        {"features": np.ones((0, 3)), "labels": np.ones(0, int)},
        r"training rows are missing, got shape \(0, 3\)",
    ),
    "no trusted": (
        {"trusted_features": np.ones((0, 3)), "trusted_labels": np.ones(0, int)},
        r"trusted rows are missing, got shape \(0, 3\); add at least 2 rows",
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
    (tmp_path / "a.doc").write_text("")
    says("unknown file type '.doc'; .*known: .npz, .csv", tmp_path / "a.doc")
    (tmp_path / "a.npz").write_bytes(b"\x80\x04no archive")
    says("a.npz must be an .npz file, got other content", tmp_path / "a.npz")
    content = save(tmp_path / "c.npz").read_bytes()
    (tmp_path / "c.npz").write_bytes(content[:200] + b"\0" * 40 + content[240:])
    says("cannot be read", tmp_path / "c.npz")


@pytest.mark.parametrize(
    "option", [{"label": "a"}, {"id": "a"}, {"drop": ["a"]}, {"sep": ";"}, {"encoding": "utf-8"}]
)
def test_options_of_tables_are_refused(tmp_path, option):
    name = next(iter(option))
    says(
        f"a.npz: --{name} can be used with tables only, got an .npz file", save(tmp_path / "a.npz"), **option
    )


def test_checked_rows_of_an_archive(tmp_path):
    path = save(tmp_path / "a.npz")
    (tmp_path / "to_check.csv").write_text("row,given,checked_label\n3,5,1\n0,1,1\n5,5,\n")
    data: Any = read_file(path, trusted=tmp_path / "to_check.csv")
    assert data.checked_rows.tolist() == [0, 3] and data.trusted_labels.tolist() == [0, 0]
    np.testing.assert_array_equal(data.trusted_features, data.features[[0, 3]])
    assert data.labels.tolist() == [0, 1] * 6  # the given labels stay


def test_missing_values_become_the_median_with_an_indicator(tmp_path):
    features = RANDOM.normal(3, 2, (12, 3))
    features[5, 1] = np.nan
    path = save(tmp_path / "a.npz", features=features)
    data: Any = read_file(path)
    assert data.features.shape == (12, 4) and data.features[5, 1] == 0
    assert data.features[:, 3].tolist() == [float(row == 5) for row in range(12)]
    assert data.notes == ("1 missing value in 1 column imputed, with indicators",)
