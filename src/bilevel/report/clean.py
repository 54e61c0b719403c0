"""Output of `bilevel clean`: labels, numbers, figures, page, and table."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bilevel.cleaning.result import Cleaning
from bilevel.report.clean_baselines import SCORES, methods
from bilevel.report.clean_figures import clean_figures, probability_histogram
from bilevel.report.contact_sheet import SHOWN, picture_png, pictures
from bilevel.report.figures import brief_names, image_files, png, pngs
from bilevel.report.files import write_files
from bilevel.report.labels import labels_csv, suspects, to_check_csv
from bilevel.report.next_steps import next_steps
from bilevel.report.page import fragment, render
from bilevel.report.review import SMALL, mark_of, review
from bilevel.report.strict import strict_json
from bilevel.report.tables import Cell, Column, Table
from bilevel.text import ABSENT, duration, is_number, numeral, share, text_table

LISTED = 500  # flagged rows on the page
FIRST = 10  # flagged rows in a notebook
# Figures that not every run has.
OPTIONAL = ("noise", "precision_recall", "test_accuracy", "corrections", "learning_curves")
# Entries of the summary that the page shows elsewhere.
SHOWN_ELSEWHERE = ("command", "paragraph", "model_reason", "no_signal")


class Tile(NamedTuple):
    """An image on the contact sheet of the page.

    Attributes:
      row: row of the data.
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
    """Write the files of a cleaning run; return the paths.

    They are `labels.csv`, `summary.json`, `report.html`, every figure as PNG and as PDF and, where no
    trusted rows were given, `to_check.csv`.

    Args:
      cleaning: result of `bilevel.cleaning.clean`.
      out: output folder, created if missing; other files in it are kept.

    Raises:
      ValueError: the folder cannot be created or written.
    """
    figures = clean_figures(cleaning)
    drawn = pngs(figures)
    by_class = [entry._asdict() for entry in cleaning.estimates.classes]
    files: dict[str, str | bytes] = {
        "labels.csv": labels_csv(cleaning),
        "summary.json": strict_json(cleaning.summary | {"estimates_by_class": by_class}),
        "report.html": clean_page(cleaning, drawn, folder=str(out)),
    }
    if cleaning.to_check is not None:
        files["to_check.csv"] = to_check_csv(cleaning)
    return write_files(out, files | image_files(figures, drawn))


def clean_page(cleaning: Cleaning, figures: Mapping[str, bytes] | None = None, folder: str = "") -> str:
    """Return the HTML page of a cleaning run.

    Args:
      cleaning: result of `bilevel.cleaning.clean`.
      figures: PNG bytes by name, from `clean_figures` and `pngs`; None draws them.
      folder: output folder, for the commands on the page.
    """
    summary = cleaning.summary
    order = suspects(cleaning)
    return render(
        "clean.html.jinja",
        title=headline(cleaning),
        scripts=("page.js", "review.js"),
        warnings=summary["warnings"],
        source=summary["source"],
        flagged=numeral(len(order)),
        rows=numeral(len(cleaning.given)),
        paragraph=summary["paragraph"],
        notes=summary["notes"],
        signal=summary["signal"],
        no_signal=summary["no_signal"],
        steps=next_steps(cleaning, folder),
        estimates=_estimates_table(cleaning),
        trusted=summary["trusted"],
        by_class=_class_table(cleaning),
        methods=_methods_table(summary),
        meanings=[(method.title, method.meaning) for method in methods(summary)],
        truth_known=cleaning.truth is not None,
        influence_known=cleaning.influence is not None,
        oracle_known=summary["test_accuracy"].get("oracle") is not None,
        figures=dict.fromkeys(OPTIONAL) | dict(pngs(clean_figures(cleaning)) if figures is None else figures),
        sheet=_sheet(cleaning, order),
        flags=review(cleaning, order[:LISTED], "flagged", "reviewed.csv") if len(order) else None,
        flags_left_out=max(len(order) - LISTED, 0) and f"{numeral(LISTED)} of {numeral(len(order))}",
        to_check=None
        if cleaning.to_check is None or not len(cleaning.to_check)
        else review(cleaning, cleaning.to_check, "to_check", "checked.csv"),
        settings=_settings(summary),
        model=(summary["model"], summary["model_reason"]),
        command=summary.get("command"),
    )


def cleaning_table(cleaning: Cleaning, folder: str = "") -> str:
    """Return text for the terminal: flags, estimates, methods, notes, warnings, and the next step.

    Args:
      cleaning: result of `bilevel.clean`.
      folder: output folder, for the command of the next step.
    """
    summary, estimates = cleaning.summary, cleaning.estimates
    lines = [f"{headline(cleaning)} ({duration(summary['seconds'])})"]
    if summary["signal"]:
        quality = (
            f", precision {share(estimates.precision)} and recall {share(estimates.recall)} of the flags"
        )
        lines.append(
            f"expected: {numeral(round(estimates.wrong))} wrong labels in all"
            + (quality if cleaning.flagged.any() else "")
        )
    else:
        lines.append(f"nothing is flagged: {summary['no_signal']}")
    lines.append(summary["model_reason"])
    table = [
        [method.title, share(method.test_accuracy), *map(share, method.detection)]
        for method in methods(summary)
    ]
    if any(cell != ABSENT for row in table for cell in row[1:]):
        lines += ["", text_table(["", "test accuracy", *SCORES], table), ""]
    lines += [f"note: {note}" for note in summary["notes"]]
    lines += [f"warning: {warning}" for warning in summary["warnings"]]
    for step in next_steps(cleaning, folder)[:1]:
        lines += [f"next: {step.text}", *([f"  {step.command}"] if step.command else [])]
    return "\n".join(lines)


def cleaning_fragment(cleaning: Cleaning) -> str:
    """Return HTML for a notebook: headline, estimates, class table, first flags, and a figure."""
    order = suspects(cleaning)
    wrong = None if cleaning.truth is None else cleaning.given != cleaning.truth
    figure = probability_histogram(
        cleaning.probability, cleaning.flagged, cleaning.summary["threshold"], wrong
    )
    return fragment(
        "notebook.html.jinja",
        headline=headline(cleaning),
        paragraph=cleaning.summary["paragraph"],
        warnings=cleaning.summary["warnings"],
        tables=[
            ("Estimates", _estimates_table(cleaning)),
            ("By class", _class_table(cleaning)),
            ("Most suspicious rows", _first_flags(cleaning, order[:FIRST])),
        ],
        png=png(figure),
    )


def headline(cleaning: Cleaning) -> str:
    """Return how many labels look wrong, as a sentence."""
    count, rows = int(cleaning.flagged.sum()), len(cleaning.given)
    return f"{numeral(count)} of {numeral(rows)} labels {'looks' if count == 1 else 'look'} wrong"


def _estimates_table(cleaning: Cleaning) -> Table:
    estimates, truth = cleaning.estimates, cleaning.truth
    flags = int(cleaning.flagged.sum())
    rows = [
        ["wrong labels", numeral(round(estimates.wrong))],
        ["share of the labels", share(estimates.rate)],
        ["precision of the flags", share(estimates.precision)],
        ["recall of the flags", share(estimates.recall)],
    ]
    columns = [Column("of this run", numeric=False), Column("expected")]
    if truth is not None:
        wrong = cleaning.given != truth
        count, hits = int(wrong.sum()), int((wrong & cleaning.flagged).sum())
        columns.append(Column("true"))
        for row, value in zip(
            rows,
            (
                numeral(count),
                share(count / len(wrong)),
                share(hits / flags) if flags else ABSENT,
                share(hits / count) if flags and count else ABSENT,
            ),
            strict=True,
        ):
            row.append(value)
    return Table(columns, [[Cell(text) for text in row] for row in rows])


def _class_table(cleaning: Cleaning) -> Table:
    """Return the estimates by given class; true counts stand beside them where they are known."""
    truth = cleaning.truth
    titles = ["rows", "trusted", "flagged", "expected wrong", "precision", "recall", "false alarms"]
    columns = [Column("class", numeric=False), *map(Column, titles)]
    if truth is not None:
        columns.insert(5, Column("wrong, true"))
    table = []
    for label, entry in enumerate(cleaning.estimates.classes):
        shares = [entry.precision, entry.recall, entry.false_alarms]
        cells = [Cell(str(entry.name)), *map(Cell.of, (entry.rows, entry.trusted, entry.flagged))]
        cells.append(Cell(_count(entry.wrong), _number(entry.wrong)))
        if truth is not None:
            of_class = cleaning.given == label
            cells.append(Cell.of(int((truth[of_class] != label).sum())))
        table.append([*cells, *[Cell(share(value), _number(value)) for value in shares]])
    return Table(columns, table)


def _count(value: float) -> str:
    return numeral(round(value) if is_number(value) and value >= 10 else round(float(value), 1))


def _number(value: float) -> float | None:
    return float(value) if is_number(value) else None


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


def _sheet(cleaning: Cleaning, order: np.ndarray) -> list[Tile]:
    rows = order[:SHOWN]
    names = brief_names(cleaning.classes, 22)
    if cleaning.images is None or not len(rows):
        return []
    tiles = pictures(cleaning.images[rows])
    small = max(tiles.shape[1:3]) < SMALL
    return [
        Tile(
            row=int(cleaning.numbers[row]),
            given=names[cleaning.given[row]],
            suggested=names[cleaning.suggested[row]],
            mark=mark_of(cleaning, row),
            png=picture_png(tile),
            small=small,
        )
        for row, tile in zip(rows, tiles, strict=True)
    ]


def _first_flags(cleaning: Cleaning, rows: Sequence[int] | np.ndarray) -> Table:
    found = review(cleaning, np.asarray(rows), "first", "")
    # A notebook's table holds text only.
    columns = [column for column in found.columns if column.title != "image"]
    table = [[Cell(str(item.row), float(item.row)), *item.cells] for item in found.items]
    return Table(columns, table)


def _settings(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = [
        (name.replace("_", " "), duration(value) if name == "seconds" else numeral(value))
        for name, value in summary.items()
        if name not in SHOWN_ELSEWHERE and (is_number(value) or isinstance(value, str | bool))
    ]
    models = [
        (f"accuracy of {name} in the choice of the model", share(value))
        for name, value in summary["models"].items()
    ]
    return pairs + models
