"""What `bilevel clean` leaves in its folder: labels, numbers, figures, and the page that shows them."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bilevel.cleaning.result import Cleaning
from bilevel.report.clean_figures import clean_figures
from bilevel.report.files import write_files
from bilevel.report.labels import labels_csv, suspects
from bilevel.report.methods import SCORES, methods
from bilevel.report.numerals import duration, is_number, numeral, share
from bilevel.report.page import render
from bilevel.report.sheet import SHOWN, picture_png, pictures
from bilevel.report.strict import strict_json
from bilevel.report.tables import Cell, Column, Table

LISTED = 500
OPTIONS = ("weights", "algorithm", "model", "steps", "seed")


class Tile(NamedTuple):
    """A flagged image on the page; `mark` is right, alarm, or nothing where the truth is not known."""

    row: int
    given: str
    suggested: str
    mark: str
    png: bytes
    small: bool


def write_cleaning(cleaning: Cleaning, out: str | os.PathLike) -> list[Path]:
    """Paths of `labels.csv`, `summary.json`, `report.html` and the figures, written together.

    Args:
      cleaning: the outcome of a run.
      out: the output folder, made when it does not exist; other files in it stay as they are.

    Raises:
      ValueError: the folder cannot be made or written.
    """
    figures = clean_figures(cleaning)
    files: dict[str, str | bytes] = {
        "labels.csv": labels_csv(cleaning),
        "summary.json": strict_json(cleaning.summary),
        "report.html": clean_page(cleaning, figures),
    }
    return write_files(out, files | {f"{name}.png": png for name, png in figures.items()})


def clean_page(cleaning: Cleaning, figures: Mapping[str, bytes] | None = None) -> str:
    """The HTML page of a cleaning run.

    Args:
      cleaning: the outcome of a run.
      figures: PNG bytes by name from `clean_figures`, drawn when not given.
    """
    summary = cleaning.summary
    known = cleaning.truth is not None
    count = int(cleaning.flagged.sum())
    note = f"The {numeral(LISTED)} of {numeral(count)} with the smallest weight; labels.csv holds all."
    return render(
        "clean.html.jinja",
        title=f"{numeral(count)} of {numeral(len(cleaning.given))} labels look wrong",
        warnings=summary.get("warnings") or [],
        source=summary.get("source", "data"),
        flagged=numeral(count),
        rows=numeral(len(cleaning.given)),
        lead=_lead(summary),
        methods=_methods_table(summary),
        meanings=[(method.title, method.meaning) for method in methods(summary) if method.meaning],
        truth_known=known,
        oracle_known=(summary.get("test_accuracy") or {}).get("oracle") is not None,
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


def _lead(summary: Mapping[str, Any]) -> str:
    shared = {"shared": "one weighting net shared by all rows", "per-row": "one free weight a row"}
    weights = shared.get(summary.get("weights", ""), "a weight for each row")
    parts = [
        f"Learnt by {summary['algorithm']}" if "algorithm" in summary else "Learnt",
        f"with {weights}",
        f"and a {summary['model']} model" if "model" in summary else "",
        f"from {numeral(summary['trusted'])} trusted rows" if "trusted" in summary else "",
        f"in {duration(summary['seconds'])}" if "seconds" in summary else "",
    ]
    return " ".join(part for part in parts if part) + "."


def _methods_table(summary: Mapping[str, Any]) -> Table:
    columns = [Column("method", numeric=False), *map(Column, ("test accuracy", *SCORES))]
    rows = [
        [
            Cell(method.title, mark="chosen" if method.name == "cleaned" else ""),
            *[Cell(share(value), value) for value in (method.test_accuracy, *method.detection)],
        ]
        for method in methods(summary)
    ]
    # A column that says nothing is noise.
    told = [
        0,
        *[place for place in range(1, len(columns)) if any(is_number(row[place].value) for row in rows)],
    ]
    return Table([columns[place] for place in told], [[row[place] for place in told] for row in rows])


def _sheet(cleaning: Cleaning) -> list[Tile]:
    rows = suspects(cleaning)[:SHOWN]
    if cleaning.images is None or not len(rows):
        return []
    tiles = pictures(cleaning.images[rows])
    small = max(tiles.shape[1:3]) < 48
    return [
        Tile(int(row), *_names(cleaning, row), _mark(cleaning, row), picture_png(tile), small)
        for row, tile in zip(rows, tiles, strict=True)
    ]


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
    if "command" in summary:
        return str(summary["command"])
    if "source" not in summary:
        return ""
    options = [f"--{name} {shlex.quote(str(summary[name]))}" for name in OPTIONS if name in summary]
    return " ".join(["bilevel clean", shlex.quote(str(summary["source"])), *options])
