"""Tables as data: the page shows them sortable, the terminal as aligned text."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from bilevel.report.numerals import is_number, numeral


class Column(NamedTuple):
    """A column header.

    Attributes:
      title: text of the header.
      numeric: whether the column is sorted by number and aligned to the right.
    """

    title: str
    numeric: bool = True


class Cell(NamedTuple):
    """A table cell.

    Attributes:
      text: text that the reader sees.
      value: number to sort by, or None where there is none.
      mark: CSS class of the cell: "right", "alarm", "best", or "chosen" in the first cell of a row.
    """

    text: str
    value: float | None = None
    mark: str = ""

    @classmethod
    def of(cls, value: Any) -> "Cell":
        """Return a cell that shows `numeral(value)` and sorts by the value."""
        return cls(numeral(value), value if is_number(value) else None)


class Table(NamedTuple):
    """Columns and the rows under them."""

    columns: list[Column]
    rows: list[list[Cell]]


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: Sequence[str] = ()) -> str:
    """Return a table for the terminal, with two spaces between columns.

    Args:
      header: titles of the columns.
      rows: texts of the cells.
      words: titles of the columns aligned to the left, as the first is; others are aligned to the right.
    """
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = {header[0], *words}
    columns = [
        [cell.ljust(width) if column[0] in left else cell.rjust(width) for cell in column]
        for column, width in zip(zip(*lines, strict=True), widths, strict=True)
    ]
    body = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    body.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(body)
