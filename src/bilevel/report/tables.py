"""A table as data: what the terminal aligns and the page sorts."""

from typing import Any, NamedTuple

from bilevel.report.numerals import is_number, numeral


class Column(NamedTuple):
    """A header cell: its title, and whether the column sorts by number."""

    title: str
    numeric: bool = True


class Cell(NamedTuple):
    """What a reader sees.

    Attributes:
      text: the value as written.
      value: the number to sort by, where there is one.
      mark: what the style sheet knows it by.
    """

    text: str
    value: float | None = None
    mark: str = ""

    @classmethod
    def of(cls, value: Any) -> "Cell":
        """A cell that shows a value in the usual way and sorts by it."""
        return cls(numeral(value), value if is_number(value) else None)


class Table(NamedTuple):
    """Columns and the rows under them."""

    columns: list[Column]
    rows: list[list[Cell]]
