"""Review mode of the page: rows that a reader accepts, rejects or relabels."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from bilevel.cleaning.result import Cleaning
from bilevel.report.contact_sheet import picture_png, pictures
from bilevel.report.figures import brief
from bilevel.report.labels import Field, as_text, fields
from bilevel.report.tables import Cell, Column
from bilevel.text import is_number

# Columns of the data in the table, columns in the panel, and letters of a cell in each.
COLUMNS, COLUMNS_IN_PANEL = 5, 40
LETTERS, LETTERS_OF_TEXT, LETTERS_IN_PANEL = 60, 280, 4000
SMALL = 48  # an image with fewer pixels a side is enlarged without smoothing


class Item(NamedTuple):
    """A row to review.

    Attributes:
      row: row of the data.
      given: index of the given class.
      suggested: index of the suggested class.
      png: image of the row, or None.
      cells: cells of the table after row and image.
      details: names and values of the columns of the data, for the panel.
    """

    row: int
    given: int
    suggested: int
    png: bytes | None
    cells: list[Cell]
    details: list[tuple[str, str]]


class Review(NamedTuple):
    """Rows to review, and what the page needs to know of them.

    Attributes:
      name: name of the list, for the elements of the page.
      file: name of the file that the reader downloads.
      run: digest of the run: decisions are kept under it in the browser.
      classes: names of the classes.
      keys: index of a class by the digit that chooses it.
      small: whether images are enlarged without smoothing.
      columns: headers of the table, with those of row and image.
      items: the rows.
      left_out: columns of the data that the table does not show.
    """

    name: str
    file: str
    run: str
    classes: list[str]
    keys: dict[str, int]
    small: bool
    columns: list[Column]
    items: list[Item]
    left_out: int


def review(cleaning: Cleaning, rows: np.ndarray, name: str, file: str) -> Review:
    """Return the review of the given rows, in their order."""
    rows = np.asarray(rows, int)
    names = [str(entry) for entry in cleaning.classes]
    data = fields(cleaning, rows)
    # Images speak for themselves: of their columns, only keys are shown.
    shown = [field for field in data if field.key or cleaning.images is None][:COLUMNS]
    text = sum(not field.key for field in shown) == 1
    pngs: list[bytes | None] = [None] * len(rows)
    columns, small = [Column("row")], False
    if cleaning.images is not None and len(rows):
        tiles = pictures(cleaning.images[rows])
        small = max(tiles.shape[1:3]) < SMALL
        pngs = [picture_png(tile) for tile in tiles]
        columns.append(Column("image", numeric=False))
    numeric = [_is_numeric(field) for field in shown]
    columns += [Column(field.name, numeric=number) for field, number in zip(shown, numeric, strict=True)]
    columns += [Column("given", numeric=False), Column("suggested", numeric=False), Column("probability")]
    columns += [] if cleaning.influence is None else [Column("influence")]
    columns += [] if cleaning.truth is None else [Column("truth", numeric=False)]
    items = []
    for place, row in enumerate(rows):
        given, suggested = int(cleaning.given[row]), int(cleaning.suggested[row])
        cells = [
            _cell(field.values[place], number, LETTERS_OF_TEXT if text and not field.key else LETTERS)
            for field, number in zip(shown, numeric, strict=True)
        ]
        probability = float(cleaning.probability[row])
        cells += [Cell(names[given]), Cell(names[suggested]), Cell(f"{probability:.3f}", probability)]
        if cleaning.influence is not None:
            cells.append(Cell.of(float(cleaning.influence[row])))
        if cleaning.truth is not None:
            mark = mark_of(cleaning, row)
            truth = names[cleaning.truth[row]]
            cells.append(Cell(f"{truth} ✗" if mark == "alarm" else truth, mark=mark))
        details = [(field.name, _detail(field.values[place])) for field in data[:COLUMNS_IN_PANEL]]
        items.append(
            Item(
                row=int(cleaning.numbers[row]),
                given=given,
                suggested=suggested,
                png=pngs[place],
                cells=cells,
                details=details,
            )
        )
    return Review(
        name=name,
        file=file,
        run=_digest(cleaning, name),
        classes=names,
        keys=digit_keys(names),
        small=small,
        columns=columns,
        items=items,
        left_out=len(data) - len(shown),
    )


def mark_of(cleaning: Cleaning, row: np.integer | int) -> str:
    """Return "right" for a wrong label, "alarm" for a right one, "" where the truth is not known."""
    if cleaning.truth is None:
        return ""
    return "right" if cleaning.truth[row] != cleaning.given[row] else "alarm"


def digit_keys(names: list[str]) -> dict[str, int]:
    """Return the class that each digit key chooses.

    A class whose name is one digit has that key. If there is none, the keys 1 to 9 choose the first
    nine classes.

    >>> digit_keys(["7", "8", "ten"]), digit_keys(["cat", "dog"])
    ({'7': 0, '8': 1}, {'1': 0, '2': 1})
    """
    by_name = {name: place for place, name in enumerate(names) if len(name) == 1 and name in "0123456789"}
    return by_name or {str(place + 1): place for place in range(min(len(names), 9))}


def _is_numeric(field: Field) -> bool:
    known = [value for value in field.values if value is not None]
    return bool(known) and all(map(is_number, known))


def _cell(value: Any, numeric: bool, letters: int) -> Cell:
    if numeric and value is not None:
        return Cell(_detail(value), float(value))
    return Cell(brief(as_text(value), letters))


def _detail(value: Any) -> str:
    # An integer may be a key, so it has no separators.
    text = f"{value:.6g}" if isinstance(value, float) else as_text(value)
    return text if len(text) <= LETTERS_IN_PANEL else f"{text[: LETTERS_IN_PANEL - 1]}…"


def _digest(cleaning: Cleaning, name: str) -> str:
    parts: list[Any] = [name, cleaning.summary["source"], cleaning.classes]
    parts += [np.asarray(a).tolist() for a in (cleaning.given, cleaning.flagged, cleaning.suggested)]
    return hashlib.sha256(repr(parts).encode("utf-8", errors="replace")).hexdigest()[:16]
