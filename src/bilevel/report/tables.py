"""Tables as data, which the page shows sortable."""

from typing import Any, NamedTuple

from bilevel.text import is_number, numeral


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
