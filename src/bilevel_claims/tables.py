"""Tables of findings: last values, values along runs, and costs by method."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bilevel.report.tables import Cell, Column, Table
from bilevel.text import duration
from bilevel_claims.experiment import Axis, Trajectory


def table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Return a table of plain values and cells.

    A column with a text in it sorts by text, all others by number.

    >>> table(["method", "loss"], [["soba", 0.12345]]).rows[0][1].text
    '0.1235'
    """
    cells = [[value if isinstance(value, Cell) else Cell.of(value) for value in row] for row in rows]
    texts = [any(isinstance(row[place], str) and row[place] for row in rows) for place in range(len(titles))]
    return Table([Column(title, not text) for title, text in zip(titles, texts, strict=True)], cells)


def ends_table(runs: Sequence[Trajectory], quantities: Any, more: Sequence[Any] = ()) -> Table:
    """Return the last values by method, medians over the seeds, above rows of `more`.

    The quantities are names of values, or names by the title of their column.
    """
    titles = quantities if isinstance(quantities, Mapping) else {name: name for name in quantities}
    rows = [[run.label, *map(run.last, titles.values())] for run in runs]
    return table(["method", *titles], [*rows, *more])


def value_table(runs: Sequence[Trajectory], quantity: str, places: Sequence[int], along: Axis) -> Table:
    """Return a quantity by method at places of an axis, medians over the seeds.

    A method that was not measured at a place shows its last value before it.
    """
    at = [np.searchsorted(along.of(run), places, side="right") - 1 for run in runs]
    rows = [[run.label, *run.median(quantity)[last]] for run, last in zip(runs, at, strict=True)]
    return table(["method", *(f"{place:,}" for place in places)], rows)


def cost_table(runs: Sequence[Trajectory]) -> Table:
    """Return the calls of one step, and the steps, calls and seconds of a whole run by method.

    If a seed diverged, a last column says how many did.
    """
    titles = ["method", "gradients a step", "Hessian products a step", "cross products a step"]
    titles += ["steps", "oracle calls", "seconds"]
    rows = [[run.label, *run.cost, int(run.steps[-1]), int(run.calls[-1])] for run in runs]
    seconds = [[Cell(duration(run.seconds), run.seconds)] for run in runs]
    lost = [[run.diverged] for run in runs]
    if any(number for (number,) in lost):
        titles.append("seeds that diverged")
    else:
        lost = [[] for _ in runs]
    return table(titles, [row + cell + end for row, cell, end in zip(rows, seconds, lost, strict=True)])
