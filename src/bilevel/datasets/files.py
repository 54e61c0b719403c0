"""Data sets from files of the user: tables, `.npz` archives, and folders of images."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from bilevel.datasets.archive import read_archive
from bilevel.datasets.arrays import as_rows, dataset
from bilevel.datasets.assemble import assemble
from bilevel.datasets.checked import CHECKED, add_checked
from bilevel.datasets.errors import DataNotFoundError, did_you_mean
from bilevel.datasets.folder import ImageFolder
from bilevel.datasets.frames import TableForm
from bilevel.datasets.labels import label_texts
from bilevel.datasets.tablefiles import TABLES, read_table, split_name
from bilevel.datasets.types import Dataset
from bilevel.extras import extra


def read_file(
    path: str | PathLike,
    *,
    label: str | None = None,
    trusted: str | PathLike | None = None,
    test: str | PathLike | None = None,
    id: str | None = None,
    drop: Sequence[str] = (),
    sep: str | None = None,
    encoding: str | None = None,
    missing: Sequence[str] | None = None,
) -> Dataset:
    """Return the rows and labels of a file or a folder, scaled for learning.

    A table (.csv, .tsv, .txt, .jsonl, .ndjson, .json, .parquet; text may be compressed) has one row for
    each example. The column `label` holds the labels, the other columns the features. Separator, encoding,
    decimal commas, dates, columns that number the rows and ids are detected. Labels and cells keep their
    text; labels are stripped of blanks and composed to Unicode NFC. See `from_arrays` for how columns
    become features.

    An `.npz` file holds `features` and `labels`, and may hold `trusted_features`, `trusted_labels`,
    `test_features` and `test_labels`. Rows are vectors (n, d) or images (n, h, w[, c]). A CSR matrix is
    stored as `features_data`, `features_indices`, `features_indptr` and `features_shape` instead of
    `features`. Pickled arrays are refused.

    A folder holds images in one sub-folder for each class.

    Args:
      path: file or folder of the training rows.
      label: name of the column of labels (`--label`); tables only.
      trusted: table, or folder, of rows whose labels are right (`--trusted`), or a `to_check.csv` whose
        column `checked_label` holds the checked labels of some of the rows.
      test: table, or folder, of test rows (`--test`).
      id: name of a column that is a key and no feature (`--id`); tables only.
      drop: names of columns to leave out (`--drop`); tables only.
      sep: separator of the cells (`--sep`); None means that it is detected; text tables only.
      encoding: encoding of the text (`--encoding`); None means that it is detected; text tables only.
      missing: markers of missing values and labels (`--missing`); None means the usual ones, such as NA,
        nan, null and ?; tables only.

    Returns:
      A `Dataset`, named after the file. Its `notes` list everything unusual, and `shown` holds the rows as
      read.

    Raises:
      DataNotFoundError: when a file does not exist.
      ValueError: when the content breaks a rule; the message is one line.
    """
    path = Path(path)
    tables_only = {
        "label": label,
        "id": id,
        "drop": drop,
        "sep": sep,
        "encoding": encoding,
        "missing": missing,
    }
    if path.is_dir() or split_name(path)[1] == ".npz":
        given = [f"--{name}" for name, value in tables_only.items() if value]
        if given:
            what = "a folder of images" if path.is_dir() else "an .npz file"
            raise ValueError(
                f"{path.name}: {', '.join(given)} can be used with tables only, got {what}; leave it out"
            )
        reader = _read_folder if path.is_dir() else _read_archive
        return reader(path, _path(trusted), _path(test))
    if not path.exists():
        raise DataNotFoundError(
            f"no such file: {str(path)!r}; give a table, an .npz file or a folder of images"
        )
    kind = split_name(path)[1]
    if kind not in TABLES:
        hint = "save the sheet as CSV; " if kind.startswith(".xls") else ""
        known = [".npz", *TABLES]
        raise ValueError(f"{path.name}: unknown file type {kind!r}; {hint}{did_you_mean(kind, known)}")
    drop, missing = _listed(drop), None if missing is None else _listed(missing)
    return _read_tables(path, label, _path(trusted), _path(test), id, drop, sep, encoding, missing)


def _path(path):
    return None if path is None else Path(path)


def _listed(names):
    return [names] if isinstance(names, str) else list(names)


def _read_tables(path, label, trusted, test, key, drop, sep, encoding, missing):
    table = read_table(path, sep=sep, encoding=encoding, label=label)
    columns = table.frame.columns
    if label is None:
        raise ValueError(
            f"{path.name}: a table needs the name of its column of labels, got none; "
            f"give one (--label COLUMN) of {', '.join(columns[:12])}"
        )
    for name in [label, *([key] if key else []), *drop]:
        _require_column(path, name, columns)
    if label in (key, *drop):
        raise ValueError(
            f"{path.name}: the labels {label!r} can be neither key nor left out; name another column"
        )
    features = table.frame.drop([label, *drop])
    form = TableForm(
        features,
        source=path.name,
        keys=[key] if key else [],
        missing=missing,
        separator=table.separator,
    )
    notes = [*table.notes, *form.notes]
    parts: dict[str, tuple[Any, Any]] = {
        "training": (features, label_texts(f"{path.name}: training", table.frame[label]))
    }
    checks = None
    for part, file in (("trusted", trusted), ("test", test)):
        if file is None:
            continue
        other = _other_table(file, sep, encoding, label)
        notes += [f"{file.name}: {note}" for note in other.notes]
        if part == "trusted" and _is_checks(other.frame, label):
            checks = other.frame
            continue
        _require_column(file, label, other.frame.columns)
        rows = other.frame.drop([label, *[name for name in drop if name in other.frame.columns]])
        parts[part] = rows, label_texts(f"{file.name}: {part}", other.frame[label])
    data = assemble(
        split_name(path)[0],
        parts,
        form.fit,
        where=f"{path.name}: ",
        missing=missing,
        notes=notes,
        shown=features.select(form.shown),
        keys=form.keys,
    )
    return data if checks is None else add_checked(data, checks, Path(trusted).name)


def _other_table(file, sep, encoding, label):
    """Return a second table; what it was not written with may hold for the first one only."""
    if sep is None and encoding is None:
        return read_table(file, label=label)
    try:
        table = read_table(file, label=label)
        if table.frame.width > 1 and not any("encoding" in note for note in table.notes):
            return table
    except ValueError:
        pass
    return read_table(file, sep=sep, encoding=encoding, label=label)


def _is_checks(frame, label):
    return CHECKED in frame.columns and label != CHECKED


def _require_column(path, name, columns):
    if name not in columns:
        numbers = sum(column.lstrip("+-").replace(".", "", 1).isdigit() for column in columns)
        hint = "the first line must name the columns; " if 2 * numbers >= len(columns) else ""
        raise ValueError(f"{path.name}: unknown column {name!r}; {hint}{did_you_mean(name, columns)}")


def _read_archive(path, trusted, test):
    if not path.is_file():
        raise DataNotFoundError(
            f"no such file: {str(path)!r}; give a table, an .npz file or a folder of images"
        )
    if test is not None:
        raise ValueError(
            f"{path.name}: --test can be used with tables and folders only, got an .npz file; store "
            "`test_features` and `test_labels` in it"
        )
    parts = {part: (as_rows(part, rows)[0], labels) for part, (rows, labels) in read_archive(path).items()}
    if trusted is not None:
        parts.pop("trusted", None)
    data = dataset(path.stem, parts, where=f"{path.name}: ")
    return data if trusted is None else add_checked(data, _checks(trusted, path), trusted.name)


def _read_folder(path, trusted, test):
    with extra("clean"):
        import polars

    folder = ImageFolder(path)
    notes, checks = list(folder.notes), None
    parts = {"training": (folder.images, folder.labels)}
    for part, other in (("trusted", trusted), ("test", test)):
        if other is None:
            continue
        if part == "trusted" and not other.is_dir():
            checks = _checks(other, path)
            continue
        if not other.is_dir():
            raise DataNotFoundError(f"no such folder: {str(other)!r}; give a folder of images by class")
        images = ImageFolder(other, like=folder.images)
        notes += [f"{other.name}: {note}" for note in images.notes]
        parts[part] = images.images, images.labels
    shown = polars.DataFrame({"file": folder.files})
    data = dataset(path.resolve().name, parts, where=f"{path.name}: ", shown=shown)
    data = data._replace(notes=(*notes, *data.notes))
    return data if checks is None else add_checked(data, checks, trusted.name)


def _checks(file, path):
    """Return the table of checked labels for data that are no table."""
    frame = read_table(file).frame
    if CHECKED not in frame.columns:
        raise ValueError(
            f"{file.name}: trusted labels of {path.name} must be a to_check.csv with the column {CHECKED!r}; "
            f"{did_you_mean(CHECKED, frame.columns)}"
        )
    return frame
