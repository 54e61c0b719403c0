"""Records of a reproduction: a claim, its finding, and the run that made it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bilevel.report.tables import Table

SIZES = ("small", "paper")
VERDICTS = ("holds", "holds in part", "does not hold")


class Picture(NamedTuple):
    """A figure of a finding: the bytes of a PNG file, its caption, and a title that names it."""

    title: str
    png: bytes
    caption: str


class Search(NamedTuple):
    """Hyper-parameter search of one method, see `search.grid`.

    Attributes:
      method: label of the method.
      axes, best: values that were tried, and those chosen, by hyper-parameter.
      scores: score of each trial, shaped as the axes; lower is better, inf where the trial diverged.
      edge: hyper-parameters whose chosen value is the first or last of its axis.
      score, budget: scored quantity and budget of each trial, in words.
    """

    method: str
    axes: Mapping[str, Sequence[Any]]
    scores: Any
    best: dict[str, Any]
    edge: tuple[str, ...]
    score: str
    budget: str


class Finding(NamedTuple):
    """Result of one run of a claim.

    Attributes:
      words: two or three sentences; the first stands alone on the index.
      numbers: numbers that decide, by quantity: entries of `at_most`, `at_least`, `near`, `shown`.
      figures, tables: pictures, the first of which shows the claim; `(title, table)` of further numbers.
      searches: searches of the methods; empty when the claim fixes all settings.
    """

    words: str
    numbers: Mapping[str, Mapping[str, Any]]
    figures: Sequence[Picture] = ()
    tables: Sequence[tuple[str, Table]] = ()
    searches: Sequence[Search] = ()

    @property
    def verdict(self) -> str:
        """Return "holds", "holds in part" or "does not hold", see `verdict`."""
        return verdict(self.numbers)


class Claim(NamedTuple):
    """A claim of a paper and the experiment that tests it.

    Attributes:
      name, title: for the command, lower case with hyphens; for readers, a few words.
      paper: a constant of `references`.
      statement: the claim in our words, in parentheses its place or "not the paper's word".
      known, ours: settings of the paper or its code, each with its source, see `cited`; and ours.
      run: `size -> Finding`; size is one of `SIZES`.
      float64: whether it runs in double precision.
    """

    name: str
    title: str
    paper: str
    statement: str
    known: Mapping[str, Any]
    ours: Mapping[str, Any]
    run: Callable[[str], Finding]
    float64: bool = True


class Run(NamedTuple):
    """Run of a claim: finished, failed, or still to come.

    Attributes:
      claim, size: what runs; the size is one of `SIZES`.
      finding: result; None if the run failed or has not started.
      seconds: time of the whole entry, compiling included.
      environment, command: versions, device, cores and precision; the command that runs it again.
      failure: the error, or "".
    """

    claim: Claim
    size: str
    finding: Finding | None = None
    seconds: float | None = None
    environment: Mapping[str, Any] = {}
    command: str = ""
    failure: str = ""


def cited(source: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings with a common source in parentheses after each.

    >>> cited("official code", {"batch": "64"})
    {'batch': '64 (official code)'}
    """
    return {name: f"{value} ({source})" for name, value in settings.items()}


def at_most(value: Any, limit: float) -> dict[str, Any]:
    """Return a number that must not exceed its limit; it never holds if not finite.

    >>> at_most(0.2, 0.5)
    {'value': 0.2, 'rule': 'at most 0.5', 'holds': True}
    """
    return _number(value, f"at most {limit:.4g}", float(value) <= limit)


def at_least(value: Any, limit: float) -> dict[str, Any]:
    """Return a number that must not fall below its limit; it never holds if not finite."""
    return _number(value, f"at least {limit:.4g}", float(value) >= limit)


def near(value: Any, target: float, tolerance: float) -> dict[str, Any]:
    """Return a number that must lie within a relative `tolerance` of its target.

    >>> near(1.2, 1.0, 0.1)
    {'value': 1.2, 'rule': 'within 10 % of 1', 'holds': False}
    """
    close = abs(float(value) - target) <= tolerance * abs(target)
    return _number(value, f"within {100 * tolerance:.3g} % of {target:.4g}", close)


def shown(value: Any) -> dict[str, Any]:
    """Return a number that is shown and decides nothing."""
    return {"value": float(value), "rule": "", "holds": None}


def verdict(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """Return whether all numbers with a threshold hold, some of them, or none.

    >>> verdict({"gap": at_most(0.1, 0.2), "slope": at_least(0.3, 0.5)})
    'holds in part'
    """
    held = [number["holds"] for number in numbers.values() if number["holds"] is not None]
    return VERDICTS[0] if all(held) else VERDICTS[1] if any(held) else VERDICTS[2]


def _number(value, rule, holds):
    return {"value": float(value), "rule": rule, "holds": bool(holds and math.isfinite(value))}
