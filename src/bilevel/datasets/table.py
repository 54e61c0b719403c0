"""Reader of rows and labels in two tables, `.csv` or `.parquet`."""

from pathlib import Path

import numpy as np

from bilevel.datasets.errors import did_you_mean
from bilevel.extras import extra

TABLES = (".csv", ".parquet")
FEW_VALUES = 20
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL"]


def read_tables(
    path: Path, label: str | None, trusted: Path | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return `(features, labels)` by part, with text columns as one-hot features.

    Args:
      path: table of the training rows.
      label: name of the column of labels.
      trusted: table of the trusted rows.

    Returns:
      `{"training": (features, labels), "trusted": (features, labels)}`.

    Raises:
      ValueError: when an argument is missing or a table breaks a rule; the message is one line.
    """
    table = _read(path)
    if label is None:
        columns = ", ".join(table.columns[:12])
        raise ValueError(
            f"{path.name}: a table needs the name of its column of labels, got none; "
            f"give one (--label COLUMN) of {columns}"
        )
    if trusted is None:
        raise ValueError(
            f"{path.name}: a table needs a second table of trusted rows, got none; "
            "give one whose labels you have checked (--trusted FILE)"
        )
    tables = {path: table, trusted: _read(trusted)}
    for file, other in tables.items():
        if label not in other.columns:
            raise ValueError(f"{file.name}: unknown column {label!r}; {did_you_mean(label, other.columns)}")
    names = [name for name in table.columns if name != label]
    if not names:
        raise ValueError(
            f"{path.name}: a table needs columns of features, got only the labels {label!r}; add some"
        )
    _require_same_columns(path, names, trusted, [name for name in tables[trusted].columns if name != label])
    encoders = [_encoder(path, table[name]) for name in names]
    return {
        part: (_features(file, tables[file], names, encoders), _labels(file, tables[file][label]))
        for part, file in (("training", path), ("trusted", trusted))
    }


def _read(path):
    with extra("clean"):
        import polars

    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise ValueError(f"{path.name}: a table must be a .csv or .parquet file, got {suffix!r}; convert it")
    try:
        if suffix == ".csv":
            return polars.read_csv(path, infer_schema_length=None, null_values=MISSING)
        return polars.read_parquet(path)
    except (polars.exceptions.PolarsError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path.name} cannot be read as {suffix[1:]} ({reason}); write the file again"
        ) from error


def _require_same_columns(path, names, trusted, others):
    missing = [name for name in names if name not in others]
    extra = [name for name in others if name not in names]
    if missing:
        nearest = did_you_mean(missing[0], others)
        raise ValueError(f"{trusted.name}: column {missing[0]!r} of {path.name} is missing; {nearest}")
    if extra:
        raise ValueError(
            f"{trusted.name}: column {extra[0]!r} is not in {path.name}; {did_you_mean(extra[0], names)}"
        )


def _encoder(path, column):
    """Return the sorted values of a text column, or None for a column of numbers."""
    if _is_number(column):
        return None
    if not _is_text(column):
        raise ValueError(
            f"{path.name}: column {column.name!r} must hold numbers or text, got {column.dtype}; "
            "convert or remove it"
        )
    values = sorted(_complete(path, column).cast(str).unique().to_list())
    if len(values) > FEW_VALUES:
        raise ValueError(
            f"{path.name}: text column {column.name!r} must have at most {FEW_VALUES} distinct values, got "
            f"{len(values)}; convert it to numbers or remove it"
        )
    return values


def _features(file, table, names, encoders):
    columns = []
    for name, values in zip(names, encoders, strict=True):
        column = _complete(file, table[name])
        if _is_number(column) != (values is None):
            raise ValueError(
                f"{file.name}: column {name!r} must have the type of the training rows, "
                f"{'number' if values is None else 'text'}, got {column.dtype}; convert it"
            )
        if values is None:
            columns.append(column.to_numpy().astype(np.float64))
            continue
        texts = np.array(column.cast(str).to_list(), dtype=str)
        unknown = sorted(set(texts.tolist()) - set(values))
        if unknown:
            raise ValueError(
                f"{file.name}: column {name!r} has the value {unknown[0]!r}, which no training row has; "
                f"{did_you_mean(unknown[0], values)}"
            )
        columns += [(texts == value).astype(np.float64) for value in values]
    return np.stack(columns, axis=1)


def _labels(file, column):
    column = _complete(file, column)
    if _is_number(column):
        return column.to_numpy()
    if not _is_text(column):
        raise ValueError(
            f"{file.name}: labels {column.name!r} must be integers or strings, got {column.dtype}; "
            "convert them"
        )
    return np.array(column.cast(str).to_list(), dtype=str)


def _complete(file, column):
    missing = column.null_count() + (int(column.is_nan().sum()) if column.dtype.is_float() else 0)
    if missing:
        raise ValueError(
            f"{file.name}: column {column.name!r} must have no missing values, got {missing}; "
            "fill them or remove these rows"
        )
    return column


def _is_number(column):
    import polars

    return column.dtype.is_numeric() or column.dtype == polars.Boolean


def _is_text(column):
    import polars

    return column.dtype in (polars.String, polars.Categorical, polars.Enum)
