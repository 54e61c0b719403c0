"""The numbers of a report as a short aligned table of plain text."""

from collections.abc import Mapping, Sequence
from typing import Any

from bilevel.cleaning.result import Cleaning
from bilevel.report.methods import SCORES, methods
from bilevel.report.numerals import ABSENT, duration, numeral, share
from bilevel.report.runs import standings


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: Sequence[str] = ()) -> str:
    """Columns two blanks apart, the first and those of words to the left, numbers to the right."""
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


def cleaning_table(cleaning: Cleaning) -> str:
    """What the run found in one line, then its methods with accuracy and detection, then warnings."""
    summary = cleaning.summary
    count, rows = int(cleaning.flagged.sum()), len(cleaning.given)
    lines = [f"{numeral(count)} of {numeral(rows)} labels look wrong ({duration(summary.get('seconds'))})"]
    table = [
        [method.title, share(method.test_accuracy), *map(share, method.detection)]
        for method in methods(summary)
    ]
    if any(cell != ABSENT for row in table for cell in row[1:]):
        lines += ["", text_table(["", "test accuracy", *SCORES], table)]
    lines += [f"warning: {warning}" for warning in summary.get("warnings") or []]
    return "\n".join(lines)


def comparison_table(records: Sequence[Mapping[str, Any]]) -> str:
    """One line an algorithm: mean and spread over seeds, costs, compile time, diverged runs."""
    table = standings(records)
    return text_table(
        [column.title for column in table.columns], [[cell.text for cell in row] for row in table.rows]
    )
