"""Reader of rows and labels in `.npz` files."""

import lzma
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from bilevel.datasets.errors import did_you_mean

_PREFIXES = {"training": "", "trusted": "trusted_", "test": "test_"}
_CSR = ("data", "indices", "indptr", "shape")


def read_archive(path: Path) -> dict[str, tuple[Any, np.ndarray]]:
    """Return `{part: (features, labels)}` of training rows, and of trusted and test rows where stored.

    Raises:
      ValueError: when the file is not an archive of such arrays.
    """
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path.name} must be an .npz file, got other content; write it with numpy.savez")
    with np.load(path, allow_pickle=False) as file:
        stored = set(file.files)
        parts = {}
        for part, prefix in _PREFIXES.items():
            if prefix and not any(name.startswith(prefix) for name in stored):
                continue
            features = _read_features(path, file, f"{prefix}features")
            parts[part] = features, _read(path, file, f"{prefix}labels")
        return parts


def _read_features(path, file, name):
    if f"{name}_data" not in file.files:
        return _read(path, file, name)
    data, indices, indptr, shape = (_read(path, file, f"{name}_{key}") for key in _CSR)
    try:
        # SciPy has no sparse float16, and the largest value of booleans is not a number.
        data = data.astype(np.result_type(data, np.float32))
        matrix = scipy.sparse.csr_matrix((data, indices, indptr), tuple(shape.tolist()))
        matrix.check_format(full_check=True)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path.name}: {name} is not a valid CSR matrix ({error}); write the file again"
        ) from error
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
            raise ValueError(
                f"{path.name}: array {name!r} must hold numbers or fixed-width strings, got pickled objects; "
                "convert it, for example with array.astype(str)"
            ) from None
        raise ValueError(
            f"{path.name}: array {name!r} cannot be read ({error}); write the file again"
        ) from error
