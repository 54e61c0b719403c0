"""Numbers and tables as text, for the terminal and the page."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

ABSENT = "–"


def is_number(value: Any) -> bool:
    """Return whether a value is a finite real number; a Boolean is not."""
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_) and math.isfinite(value)


def numeral(value: Any) -> str:
    """Format a table cell: four significant digits and thousands separators.

    A missing or non-finite value becomes "–", and a Boolean yes or no. Text stays as it is.

    >>> numeral(1397), numeral(0.00001234), numeral(12.3456), numeral(None), numeral("soba")
    ('1,397', '1.234e-05', '12.35', '–', 'soba')
    """
    if value is None or (isinstance(value, Real) and not math.isfinite(value)):
        return ABSENT
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if not isinstance(value, Real):
        return str(value)
    value = float(value)
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e7 else f"{value:.4g}"


def share(value: Any) -> str:
    """Format a number in [0, 1], such as an accuracy, with three decimals."""
    return f"{value:.3f}" if is_number(value) else ABSENT


def duration(value: Any) -> str:
    """Format seconds in a readable unit.

    >>> duration(0.0042), duration(9.83), duration(204.0)
    ('4.2 ms', '9.8 s', '3 min 24 s')
    """
    if not is_number(value):
        return ABSENT
    if value < 1:
        return f"{1e3 * value:.3g} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"


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
