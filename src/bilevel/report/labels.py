"""Rows of a cleaning run as CSV files: `labels.csv` and `to_check.csv`."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bilevel.cleaning.result import Cleaning
from bilevel.extras import extra

# Columns of the files that have a meaning for `bilevel clean`.
RESERVED = (
    "row", "given", "suggested", "probability", "flagged", "influence", "checked", "checked_label"
)  # fmt: skip


class Field(NamedTuple):
    """A column of the user's data.

    Attributes:
      name: its name, distinct from those of the reports.
      values: its values at the chosen rows, as Python objects; None for a missing value.
      key: whether it identifies a row.
    """

    name: str
    values: list[Any]
    key: bool


def suspects(cleaning: Cleaning) -> np.ndarray:
    """Return the flagged rows, the most suspicious first."""
    rows = np.flatnonzero(cleaning.flagged)
    return rows[np.argsort(-np.asarray(cleaning.probability)[rows], kind="stable")]


def fields(cleaning: Cleaning, rows: np.ndarray, keys_only: bool = False) -> list[Field]:
    """Return the columns of the data, or only its key columns, at the given rows; key columns first."""
    frame = cleaning.columns
    if frame is None:
        return []
    rows = np.asarray(rows)
    found, taken = [], {*RESERVED}
    for place, name in enumerate(frame.columns):
        if keys_only and name not in cleaning.keys:
            continue
        if hasattr(frame, "iloc"):  # pandas
            values = frame.iloc[rows, place].astype(object).tolist()
        else:
            values = frame.to_series(place)[rows].to_list()
        shown = str(name)
        while shown in taken:
            shown += " (data)"
        taken.add(shown)
        # Only a missing value differs from itself.
        values = [value if _is_known(value) else None for value in values]
        found.append(Field(shown, values, name in cleaning.keys))
    return sorted(found, key=lambda field: not field.key)


def _is_known(value: Any) -> bool:
    try:
        return value is not None and bool(value == value)
    except (TypeError, ValueError):  # pandas' NA has no truth value, and an array has none either
        return type(value).__name__ != "NAType"


def as_text(value: Any) -> str:
    """Return a value of the user's data as text; text stays as it is.

    >>> as_text("dog "), as_text(0.1), as_text(None), as_text(True)
    ('dog ', '0.1', '', 'true')
    """
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    return str(value)


def labels_csv(cleaning: Cleaning) -> str:
    """Return the contents of `labels.csv`, one line per row of the data, in its order.

    The columns are row (from 0), the key columns, given, probability, flagged, suggested, influence
    (where known) and checked. Labels and keys keep their text.
    """
    columns: dict[str, Sequence[Any]] = {"row": cleaning.numbers.tolist()}
    columns |= _texts(fields(cleaning, np.arange(len(cleaning.given)), keys_only=True))
    columns |= {
        "given": _names(cleaning, cleaning.given),
        "probability": _six_digits(cleaning.probability),
        "flagged": cleaning.flagged.tolist(),
        "suggested": _names(cleaning, cleaning.suggested),
    }
    if cleaning.influence is not None:
        columns["influence"] = _six_digits(cleaning.influence)
    return _csv(columns | {"checked": cleaning.checked.tolist()})


def to_check_csv(cleaning: Cleaning) -> str:
    """Return the contents of `to_check.csv`: the rows most worth checking, with `checked_label` empty."""
    rows = np.asarray(cleaning.to_check)
    columns: dict[str, Sequence[Any]] = {
        "row": cleaning.numbers[rows].tolist(),
        "given": _names(cleaning, cleaning.given[rows]),
        "suggested": _names(cleaning, cleaning.suggested[rows]),
        "probability": _six_digits(cleaning.probability[rows]),
    }
    columns |= _texts(fields(cleaning, rows))
    return _csv(columns | {"checked_label": [None] * len(rows)})


def _texts(found: Sequence[Field]) -> dict[str, list[str | None]]:
    # A missing value is an empty cell, unlike a text of no letters, which is written as "".
    return {
        field.name: [None if value is None else as_text(value) for value in field.values] for field in found
    }


def _names(cleaning: Cleaning, labels: np.ndarray) -> list[str]:
    return [str(cleaning.classes[label]) for label in labels]


def _six_digits(values: np.ndarray) -> list[str]:
    return [f"{value:.6g}" for value in values]


def _csv(columns: Mapping[str, Sequence[Any]]) -> str:
    with extra("clean"):
        import polars

    series = [polars.Series(_utf8(name), list(map(_utf8, values))) for name, values in columns.items()]
    return polars.DataFrame(series).write_csv()


def _utf8(value: Any) -> Any:
    # File names can hold characters that UTF-8 cannot encode.
    return value.encode("utf-8", errors="replace").decode() if isinstance(value, str) else value
