"""Rows and labels out of an .npz file."""

import lzma
import zipfile
import zlib

import numpy as np
import scipy.sparse

from bilevel.datasets.errors import did_you_mean

_PREFIXES = {"training": "", "trusted": "trusted_", "test": "test_"}
_CSR = ("data", "indices", "indptr", "shape")


def read_archive(path):
    """`{part: (features, labels)}` of the training, the trusted and, where present, the test rows."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path.name} is not an .npz file; write one with numpy.savez")
    with np.load(path, allow_pickle=False) as file:
        stored = set(file.files)
        parts = {}
        for part, prefix in _PREFIXES.items():
            if part == "test" and not any(name.startswith(prefix) for name in stored):
                continue
            features = _read_features(path, file, f"{prefix}features")
            parts[part] = features, _read(path, file, f"{prefix}labels")
        return parts


def _read_features(path, file, name):
    if f"{name}_data" not in file.files:
        return _read(path, file, name)
    data, indices, indptr, shape = (_read(path, file, f"{name}_{key}") for key in _CSR)
    try:
        # SciPy's sparse matrices know no float16, and a maximum of booleans is no number.
        data = data.astype(np.result_type(data, np.float32))
        matrix = scipy.sparse.csr_matrix((data, indices, indptr), tuple(shape.tolist()))
        matrix.check_format(full_check=True)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path.name}: {name} is not a valid CSR matrix ({error})") from error
    matrix.sum_duplicates()
    return matrix


def _read(path, file, name):
    if name not in file.files:
        raise ValueError(f"{path.name}: array {name!r} is missing; {did_you_mean(name, file.files)}")
    try:
        return file[name]
    except (
        ValueError,
        OSError,
        EOFError,
        NotImplementedError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
    ) as error:
        if "Object arrays" in str(error):
            remedy = "store numbers or fixed-width strings (`array.astype(str)`)"
            raise ValueError(
                f"{path.name}: {name} is a pickled object array, which is not read; {remedy}"
            ) from None
        raise ValueError(
            f"{path.name}: array {name!r} cannot be read ({error}); write the file again"
        ) from error
