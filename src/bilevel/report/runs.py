"""The runs of a comparison, brought together: one line an algorithm, mean and spread over seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bilevel.report.numerals import ABSENT, duration, is_number, numeral
from bilevel.report.tables import Cell, Column, Table

CALLS = ("gradients", "hessian_products", "cross_products")
COUNTERS = ("step", "seconds", "oracle_calls", *CALLS)
Record = Mapping[str, Any]


class Curve(NamedTuple):
    """A quantity of one algorithm against one axis.

    Attributes:
      x: (points,) the axis.
      mean, low, high: (points,) mean, least and greatest over the seeds that ended well.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def by_algorithm(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each algorithm, in the order of first appearance."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["algorithm"], []).append(record)
    return groups


def quantities(records: Sequence[Record]) -> list[str]:
    """What the histories measure: the outer loss, then the task's metrics, then the inner residual."""
    names = dict.fromkeys(name for record in records for name in record["history"] if name not in COUNTERS)
    ends = ("outer_loss", "inner_residual")
    inside = [name for name in names if name not in ends]
    return [name for name in (ends[0], *inside, ends[1]) if name in names]


def track(record: Record, name: str) -> np.ndarray:
    """(points,) history of a quantity; `oracle_calls` is the sum of the three counters."""
    history = record["history"]
    if name == "oracle_calls":
        return np.sum([np.asarray(history[call], float) for call in CALLS if call in history], axis=0)
    # None stands for a number that was not finite.
    return np.asarray(history.get(name, []), float)


def curve(records: Sequence[Record], quantity: str, against: str) -> Curve | None:
    """Mean and range over the seeds that ended well, or None when there is nothing to draw."""
    pairs = [
        (track(record, against), track(record, quantity)) for record in records if not record.get("diverged")
    ]
    # Log points are the same steps for every seed; a time budget may cut some seeds short.
    length = min((min(x.size, y.size) for x, y in pairs), default=0)
    if not length:
        return None
    x, y = (np.stack([pair[part][:length] for pair in pairs]) for part in (0, 1))
    return Curve(x.mean(0), y.mean(0), y.min(0), y.max(0))


def last(record: Record, name: str) -> float | None:
    """Final value of a quantity, or None where it is unknown or not finite."""
    values = track(record, name)
    value = record.get("final", {}).get(name, values[-1] if values.size else None)
    return value if is_number(value) else None


def standings(records: Sequence[Record]) -> Table:
    """One row an algorithm: final values over the runs that ended well, costs, diverged runs."""
    measured = quantities(records)
    columns = [Column("algorithm", numeric=False), Column("runs")]
    columns += [Column(name.replace("_", " ")) for name in measured]
    columns += [Column("seconds"), Column("oracle calls"), Column("compile")]
    rows = []
    for name, runs in by_algorithm(records).items():
        well = [run for run in runs if not run.get("diverged")]
        row = [Cell(name), _count(len(runs), len(runs) - len(well))]
        row += [_spread([last(run, quantity) for run in well]) for quantity in measured]
        row += [
            _spread([last(run, "seconds") for run in well], duration, spread=False),
            _spread([last(run, "oracle_calls") for run in well], _whole, spread=False),
            _spread([run.get("compile_seconds") for run in runs], duration, spread=False),
        ]
        rows.append(row)
    return Table(columns, rows)


def _spread(values: Sequence[float | None], look=numeral, spread: bool = True) -> Cell:
    known = [value for value in values if value is not None and is_number(value)]
    if not known:
        return Cell(ABSENT)
    mean = float(np.mean(known))
    if not spread or len(known) < 2:
        return Cell(look(mean), mean)
    return Cell(_with_deviation(mean, float(np.std(known, ddof=1))), mean)


def _with_deviation(mean: float, deviation: float) -> str:
    # Two digits of the deviation say how many digits of the mean mean something.
    places = 1 - math.floor(math.log10(deviation)) if deviation > 0 else 4
    if places > 7 or abs(mean) + deviation >= 1e7:
        return f"{mean:.3g} ± {deviation:.2g}"
    return f"{mean:,.{max(places, 0)}f} ± {deviation:,.{max(places, 0)}f}"


def _count(runs: int, diverged: int) -> Cell:
    if not diverged:
        return Cell.of(runs)
    return Cell(f"{runs}, {diverged} diverged", float(runs - diverged), mark="alarm")


def _whole(value: float) -> str:
    return numeral(round(value))
