"""Statistics of a comparison: records by algorithm, and curves over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

CALLS = ("gradients", "hessian_products", "cross_products")
COUNTERS = ("step", "seconds", *CALLS)
Record = Mapping[str, Any]


class Curve(NamedTuple):
    """A quantity of one algorithm against one axis.

    Attributes:
      x: (points,) positions on the axis.
      mean: (points,) mean over the seeds.
      low: (points,) minimum over the seeds.
      high: (points,) maximum over the seeds.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def by_algorithm(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Group the records by algorithm, in order of first appearance."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record["algorithm"], []).append(record)
    return groups


def quantities(records: Sequence[Record]) -> list[str]:
    """Return the measured quantities: outer loss, metrics of the task, inner residual."""
    metrics = dict.fromkeys(name for record in records for name in record["history"])
    ends = ("outer_loss", "inner_residual")
    return [ends[0], *[name for name in metrics if name not in (*COUNTERS, *ends)], ends[1]]


def track(record: Record, name: str) -> np.ndarray:
    """Return the (points,) history of a quantity; `oracle_calls` sums three counts."""
    history = record["history"]
    if name == "oracle_calls":
        return np.sum([np.asarray(history[call], float) for call in CALLS], axis=0)
    return np.asarray(history[name], float)


def curve(records: Sequence[Record], quantity: str, against: str) -> Curve | None:
    """Return mean and range over the seeds, None if one diverged: it counts as infinite."""
    if any(record["diverged"] for record in records):
        return None
    pairs = [(track(record, against), track(record, quantity)) for record in records]
    # All seeds are measured at the same steps; a budget in seconds may end some of them earlier.
    length = min(x.size for x, _ in pairs)
    x, y = (np.stack([pair[part][:length] for pair in pairs]) for part in (0, 1))
    return Curve(x=x.mean(0), mean=y.mean(0), low=y.min(0), high=y.max(0))


def last(record: Record, name: str) -> float:
    """Return the last value of a quantity; infinity if the run diverged."""
    return np.inf if record["diverged"] else float(track(record, name)[-1])
