"""Output of `bilevel check`: numbers, figures and page."""

import os
from collections.abc import Mapping
from pathlib import Path

from bilevel.checking import Advice, Report
from bilevel.checking.report import COLUMNS, cells
from bilevel.report.check_figures import check_figures
from bilevel.report.figures import image_files, pngs
from bilevel.report.files import write_files
from bilevel.report.page import render
from bilevel.report.strict import strict_json
from bilevel.report.tables import Cell, Column, Table
from bilevel.text import is_number, numeral

CAPTIONS = {
    "error_by_inner_steps": "The adjoint of the implicit hypergradient is exact here, so only the inner "
    "solve causes its error.",
    "error_by_linear_steps": "The inner problem is solved here, so only the linear solve causes the error.",
}


def write_check(result: Report | Advice, out: str | os.PathLike) -> list[Path]:
    """Write `results.json`, `report.html` and figures; return the paths.

    Args:
      result: from `bilevel.check`, or from `bilevel.advise`.
      out: output folder, created if missing; other files in it are kept.

    Raises:
      ValueError: the folder cannot be created or written.
    """
    report, advice = (result.report, result) if isinstance(result, Advice) else (result, None)
    figures = check_figures(report)
    drawn = pngs(figures)
    files: dict[str, str | bytes] = {
        "results.json": strict_json(result.numbers()),
        "report.html": check_page(report, drawn, advice),
    }
    return write_files(out, files | image_files(figures, drawn))


def check_page(
    report: Report, figures: Mapping[str, bytes] | None = None, advice: Advice | None = None
) -> str:
    """Return the HTML page of a check.

    Args:
      report: from `bilevel.check`.
      figures: PNG bytes by name, from `check_figures` and `pngs`; None draws them.
      advice: from `bilevel.advise`, or None.
    """
    figures = pngs(check_figures(report)) if figures is None else figures
    environment = dict(report.environment)
    command = environment.pop("command", "")
    subject = environment.pop("subject", "a problem")
    return render(
        "check.html.jinja",
        title=f"bilevel check · {subject}",
        warnings=[],
        subject=subject,
        findings=report.findings,
        notes=report.notes,
        advice=None if advice is None else advice.reasons,
        responses=responses_table(report),
        figures=[(name, png, CAPTIONS[name]) for name, png in figures.items()],
        reference=_pairs(report.reference),
        spectrum=_pairs(report.spectrum),
        settings=_pairs(report.settings),
        environment=_pairs(environment),
        command=command,
    )


def responses_table(report: Report) -> Table:
    """Return the table of responses, with an alarm where the error is above the tolerance."""
    columns = [Column(title, numeric=place > 0) for place, title in enumerate(COLUMNS)]
    rows = []
    for row in report.rows:
        entries = [
            Cell(text, float(value) if isinstance(value, float | int) and is_number(value) else None)
            for text, value in zip(cells(row), row, strict=True)
        ]
        if not row.relative_error <= report.settings["tolerance"]:
            entries[1] = entries[1]._replace(mark="alarm")
        rows.append(entries)
    return Table(columns, rows)


def _pairs(numbers):
    return [(name.replace("_", " "), numeral(value)) for name, value in numbers.items()]
