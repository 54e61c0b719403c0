"""Tables of findings: numbers by method, ends of runs, values along them and what they cost."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bilevel.report.numerals import duration
from bilevel.report.tables import Cell, Column, Table
from bilevel_claims.experiment import Axis, Trajectory


def table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """Return a table of plain values.

    A column with a text in it sorts by text, all others by number.

    Args:
      titles: of the columns.
      rows: values of each row; a `Cell` stays as it is.

    >>> table(["method", "loss"], [["soba", 0.12345]]).rows[0][1].text
    '0.1235'
    """
    cells = [[value if isinstance(value, Cell) else Cell.of(value) for value in row] for row in rows]
    texts = [any(isinstance(row[place], str) and row[place] for row in rows) for place in range(len(titles))]
    return Table([Column(title, not text) for title, text in zip(titles, texts, strict=True)], cells)


def ends_table(
    runs: Sequence[Trajectory],
    quantities: Sequence[str] | Mapping[str, str],
    more: Sequence[Sequence[Any]] = (),
) -> Table:
    """Return the last value of some quantities by method, medians over the seeds.

    Args:
      runs: of the methods.
      quantities: names of values, or such names by the title of their column.
      more: further rows below.
    """
    titles = quantities if isinstance(quantities, Mapping) else {name: name for name in quantities}
    rows = [[run.label, *map(run.last, titles.values())] for run in runs]
    return table(["method", *titles], [*rows, *more])


def value_table(
    runs: Sequence[Trajectory],
    quantity: str,
    places: Sequence[int],
    along: Axis,
) -> Table:
    """Return a quantity by method at given places of an axis, medians over the seeds.

    Args:
      runs: of the methods.
      quantity: of their values.
      places: on the axis. A method that was not measured there shows its last value before.
      along: the axis, such as `STEPS` or `CALLS`.
    """
    rows = []
    for run in runs:
        at = np.searchsorted(along.of(run), places, side="right") - 1
        rows.append([run.label, *run.median(quantity)[at]])
    return table(["method", *(f"{place:,}" for place in places)], rows)


def cost_table(runs: Sequence[Trajectory]) -> Table:
    """Return the calls of one step, and the steps, calls and seconds of a whole run by method."""
    titles = ["method", "gradients a step", "Hessian products a step", "cross products a step"]
    titles += ["steps", "oracle calls", "seconds"]
    rows = [
        [
            run.label,
            *run.cost,
            int(run.steps[-1]),
            int(run.calls[-1]),
            Cell(duration(run.seconds), run.seconds),
        ]
        for run in runs
    ]
    return table(titles, rows)
