"""Output of `bilevel clean`: labels, numbers, figures, page, and table."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bilevel.cleaning.result import Cleaning
from bilevel.report.clean_baselines import SCORES, methods
from bilevel.report.clean_figures import clean_figures
from bilevel.report.contact_sheet import SHOWN, picture_png, pictures
from bilevel.report.files import write_files
from bilevel.report.labels import labels_csv, suspects
from bilevel.report.page import render
from bilevel.report.strict import strict_json
from bilevel.report.tables import Cell, Column, Table
from bilevel.text import ABSENT, duration, is_number, numeral, share, text_table

LISTED = 500  # flagged rows on the page
WEIGHTS = {"shared": "one weighting net shared by all rows", "per-row": "one free weight per row"}
OPTIONS = ("weights", "algorithm", "model", "steps", "seed")


class Tile(NamedTuple):
    """A flagged image on the page.

    Attributes:
      row: row of the training data.
      given: name of the given class.
      suggested: name of the suggested class.
      mark: "right" for a wrong label, "alarm" for a false alarm, "" where the truth is not known.
      png: the image.
      small: whether the browser should enlarge the image without smoothing.
    """

    row: int
    given: str
    suggested: str
    mark: str
    png: bytes
    small: bool


def write_cleaning(cleaning: Cleaning, out: str | os.PathLike) -> list[Path]:
    """Write `labels.csv`, `summary.json`, `report.html` and figures; return the paths.

    Args:
      cleaning: result of `bilevel.cleaning.clean`.
      out: output folder, created if missing; other files in it are kept.

    Raises:
      ValueError: the folder cannot be created or written.
    """
    figures = clean_figures(cleaning)
    files: dict[str, str | bytes] = {
        "labels.csv": labels_csv(cleaning),
        "summary.json": strict_json(cleaning.summary),
        "report.html": clean_page(cleaning, figures),
    }
    return write_files(out, files | {f"{name}.png": png for name, png in figures.items()})


def clean_page(cleaning: Cleaning, figures: Mapping[str, bytes] | None = None) -> str:
    """Return the HTML page of a cleaning run.

    Args:
      cleaning: result of `bilevel.cleaning.clean`.
      figures: PNG bytes by name, from `clean_figures`; None draws them.
    """
    summary = cleaning.summary
    count = int(cleaning.flagged.sum())
    note = f"The {numeral(LISTED)} of {numeral(count)} with the smallest weight; labels.csv lists all."
    return render(
        "clean.html.jinja",
        title=f"{numeral(count)} of {numeral(len(cleaning.given))} labels look wrong",
        warnings=summary["warnings"],
        source=summary["source"],
        flagged=numeral(count),
        rows=numeral(len(cleaning.given)),
        lead=(
            f"Learnt by {summary['algorithm']} with {WEIGHTS[summary['weights']]} "
            f"and a {summary['model']} model from {numeral(summary['trusted'])} trusted rows "
            f"in {duration(summary['seconds'])}."
        ),
        methods=_methods_table(summary),
        meanings=[(method.title, method.meaning) for method in methods(summary)],
        truth_known=cleaning.truth is not None,
        oracle_known=summary["test_accuracy"]["oracle"] is not None,
        # The template reads figures that not every run has.
        figures=dict.fromkeys(("test_accuracy", "precision_recall", "corrections"))
        | dict(clean_figures(cleaning) if figures is None else figures),
        sheet=_sheet(cleaning),
        flagged_table=_flagged_table(cleaning),
        flagged_note=note if count > LISTED else "Most suspicious first. Click a header to sort.",
        settings=[
            (name.replace("_", " "), duration(value) if name == "seconds" else numeral(value))
            for name, value in summary.items()
            if name != "command" and (is_number(value) or isinstance(value, str | bool))
        ],
        command=_command(summary),
    )


def cleaning_table(cleaning: Cleaning) -> str:
    """Return text for the terminal: flagged rows, table of methods, warnings."""
    summary = cleaning.summary
    count, rows = int(cleaning.flagged.sum()), len(cleaning.given)
    lines = [f"{numeral(count)} of {numeral(rows)} labels look wrong ({duration(summary['seconds'])})"]
    table = [
        [method.title, share(method.test_accuracy), *map(share, method.detection)]
        for method in methods(summary)
    ]
    if any(cell != ABSENT for row in table for cell in row[1:]):
        lines += ["", text_table(["", "test accuracy", *SCORES], table)]
    return "\n".join([*lines, *[f"warning: {warning}" for warning in summary["warnings"]]])


def _methods_table(summary: Mapping[str, Any]) -> Table:
    columns = [Column("method", numeric=False), *map(Column, ("test accuracy", *SCORES))]
    rows = [
        [
            Cell(method.title, mark="chosen" if method.name == "cleaned" else ""),
            *[Cell(share(value), value) for value in (method.test_accuracy, *method.detection)],
        ]
        for method in methods(summary)
    ]
    # Columns without numbers are left out.
    kept = [
        place
        for place in range(len(columns))
        if not place or any(row[place].value is not None for row in rows)
    ]
    return Table([columns[place] for place in kept], [[row[place] for place in kept] for row in rows])


def _sheet(cleaning: Cleaning) -> list[Tile]:
    rows = suspects(cleaning)[:SHOWN]
    if cleaning.images is None or not len(rows):
        return []
    tiles = pictures(cleaning.images[rows])
    small = max(tiles.shape[1:3]) < 48
    sheet = []
    for row, tile in zip(rows, tiles, strict=True):
        given, suggested = _names(cleaning, row)
        mark = _mark(cleaning, row)
        sheet.append(
            Tile(
                row=int(row), given=given, suggested=suggested, mark=mark, png=picture_png(tile), small=small
            )
        )
    return sheet


def _flagged_table(cleaning: Cleaning) -> Table:
    truth = cleaning.truth
    columns = [
        Column("row"), Column("given", numeric=False), Column("suggested", numeric=False), Column("weight"),
    ]  # fmt: skip
    columns += [] if truth is None else [Column("truth", numeric=False)]
    rows = []
    for row in suspects(cleaning)[:LISTED]:
        given, suggested = _names(cleaning, row)
        weight = float(cleaning.weights[row])
        cells = [Cell(str(row), float(row)), Cell(given), Cell(suggested), Cell(f"{weight:.4f}", weight)]
        if truth is not None:
            name, mark = str(cleaning.classes[truth[row]]), _mark(cleaning, row)
            cells.append(Cell(f"{name} ✗" if mark == "alarm" else name, mark=mark))
        rows.append(cells)
    return Table(columns, rows)


def _names(cleaning: Cleaning, row: np.integer) -> tuple[str, str]:
    return str(cleaning.classes[cleaning.given[row]]), str(cleaning.classes[cleaning.suggested[row]])


def _mark(cleaning: Cleaning, row: np.integer) -> str:
    if cleaning.truth is None:
        return ""
    return "right" if cleaning.truth[row] != cleaning.given[row] else "alarm"


def _command(summary: Mapping[str, Any]) -> str:
    # `bilevel clean` adds its command line; a run from Python has none.
    if "command" in summary:
        return summary["command"]
    options = [f"--{name} {shlex.quote(str(summary[name]))}" for name in OPTIONS]
    return " ".join(["bilevel clean", shlex.quote(summary["source"]), *options])
