"""Reader of `to_check.csv`: labels of some rows that were checked by hand."""

from typing import Any

import numpy as np

from bilevel.datasets.assemble import with_checked
from bilevel.datasets.errors import did_you_mean
from bilevel.datasets.labels import Classes
from bilevel.datasets.types import Dataset
from bilevel.extras import extra

CHECKED = "checked_label"


def add_checked(dataset: Dataset, table: Any, source: str) -> Dataset:
    """Return a data set whose trusted rows are those with a checked label.

    Args:
      dataset: the data set that the table was written for.
      table: polars.DataFrame with the columns `row`, the position in the data from 0, and
        `checked_label`, empty where the label was not checked. A column `given` is compared with the data.
      source: name of the table in error messages.

    Raises:
      ValueError: when the table does not belong to the data, or a checked label is not a class.
    """
    with extra("clean"):
        import polars

    if "row" not in table.columns:
        raise ValueError(f"{source}: column 'row' is missing; {did_you_mean('row', table.columns)}")
    table = table.with_columns(table[CHECKED].cast(polars.String).str.strip_chars())
    table = table.filter((table[CHECKED] != "").fill_null(False))
    if not table.height:
        raise ValueError(
            f"{source}: no row has a {CHECKED}; write the right label of each row that you have checked"
        )
    total = len(dataset.labels) if dataset.rows is None else int(dataset.rows[-1]) + 1
    numbers = table["row"].cast(polars.Float64, strict=False)
    wrong = table["row"].filter(
        (numbers.is_null() | (numbers != numbers.floor()) | (numbers < 0)).fill_null(True)
    )
    if len(wrong):
        raise ValueError(
            f"{source}: a row must be a position in the data from 0, got {wrong[0]!r}; correct it"
        )
    rows = numbers.to_numpy().astype(np.int64)
    if rows.max() >= total and dataset.rows is None:
        raise ValueError(
            f"{source}: a row must be between 0 and {total - 1}, the rows of the data, got {rows.max()}; "
            "use the table that was written for these data"
        )
    known = Classes(source, polars.Series(dataset.classes), missing=())
    labels, _ = known.positions(f"{source}: checked", table[CHECKED])
    _require_same_data(dataset, table, rows, source, known)
    distinct, first, times = np.unique(rows, return_index=True, return_counts=True)
    if (labels != labels[first][np.searchsorted(distinct, rows)]).any():
        row = rows[labels != labels[first][np.searchsorted(distinct, rows)]][0]
        raise ValueError(f"{source}: row {row} has two checked labels; keep the right one")
    return with_checked(dataset, rows[first], labels[first])


def _require_same_data(dataset, table, rows, source, known):
    """Refuse a table whose given labels are not those of the data."""
    import polars

    if "given" not in table.columns:
        return
    places = (
        rows if dataset.rows is None else np.searchsorted(dataset.rows, rows).clip(0, len(dataset.rows) - 1)
    )
    present = np.ones(len(rows), bool) if dataset.rows is None else dataset.rows[places] == rows
    try:
        given, _ = known.positions(source, table["given"].cast(polars.String))
    except ValueError:
        given = np.full(len(rows), -1)
    differs = present & (given != dataset.labels[places])
    if differs.any():
        row = int(np.argmax(differs))
        name = dataset.classes[dataset.labels[places[row]]]
        raise ValueError(
            f"{source} belongs to other data: row {rows[row]} has the given label {table['given'][row]!r}, "
            f"and the data have {name!r}; use the table that was written for these data"
        )
