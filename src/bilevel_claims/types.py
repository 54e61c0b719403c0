"""The records of a reproduction: a claim, what was found, and what stands behind it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from bilevel.report.tables import Table

SIZES = ("small", "paper")
VERDICTS = ("holds", "holds in part", "does not hold")


class Picture(NamedTuple):
    """A figure of a finding.

    Attributes:
      title: a few words; names the file, too.
      png: the bytes of a PNG file, from `report.reproduce_figures`.
      caption: what it shows and how to read it.
    """

    title: str
    png: bytes
    caption: str


class Search(NamedTuple):
    """How the hyper-parameters of one method were chosen, see `search.grid`.

    Attributes:
      method: as the page calls it.
      axes: the values that were tried, by hyper-parameter.
      scores: one number a trial, shaped as the axes, the lower the better, inf where it diverged.
      best: the chosen values.
      edge: hyper-parameters whose chosen value is the first or last of its axis.
      score: what was scored, in words.
      budget: of each trial, in words.
    """

    method: str
    axes: Mapping[str, Sequence[Any]]
    scores: Any
    best: dict[str, Any]
    edge: tuple[str, ...]
    score: str
    budget: str


class Finding(NamedTuple):
    """What one run of a claim found.

    Attributes:
      verdict: "holds", "holds in part" or "does not hold", see `verdict`.
      words: a short paragraph, the plain truth with its numbers; its first sentence stands alone
        on the index.
      numbers: what the verdict rests on, by quantity: entries of `at_most`, `at_least`, `near`,
        `shown`.
      figures: pictures, the one that shows the claim first.
      tables: further numbers, `(title, table)`.
      searches: how each method was tuned; empty when the claim fixes all settings.
    """

    verdict: str
    words: str
    numbers: Mapping[str, Mapping[str, Any]]
    figures: Sequence[Picture] = ()
    tables: Sequence[tuple[str, Table]] = ()
    searches: Sequence[Search] = ()


class Claim(NamedTuple):
    """A claim of a paper and the experiment that tests it.

    Attributes:
      name: what the command calls it, lower case with hyphens.
      title: a few words.
      paper: the reference, "authors, title, venue year, arXiv:id".
      statement: the claim in our words, with where it stands in parentheses, or "not the paper's
        word".
      known: settings that the paper or its code gives, each marked with its source.
      ours: settings that we chose; a name that is also in `known` shows beside it.
      run: `size -> Finding`, size one of `SIZES`.
      float64: whether it runs in double precision; else in single, as JAX does by itself.
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
    """One claim, run or not.

    Attributes:
      claim: what was run.
      size: of the run.
      finding: what it found, None when it failed or has not been run.
      seconds: of the whole entry, compiling included.
      environment: versions, device, cores, precision.
      command: that makes it again.
      failure: why there is no finding, "" when it has not been run.
    """

    claim: Claim
    size: str
    finding: Finding | None = None
    seconds: float | None = None
    environment: Mapping[str, Any] = {}
    command: str = ""
    failure: str = ""


def at_most(value: Any, limit: float) -> dict[str, Any]:
    """A number that must not be above its limit; one that is not finite never holds.

    >>> at_most(0.2, 0.5)
    {'value': 0.2, 'rule': 'at most 0.5', 'holds': True}
    """
    return _number(value, f"at most {limit:.4g}", float(value) <= limit)


def at_least(value: Any, limit: float) -> dict[str, Any]:
    """A number that must not be below its limit; one that is not finite never holds."""
    return _number(value, f"at least {limit:.4g}", float(value) >= limit)


def near(value: Any, target: float, tolerance: float) -> dict[str, Any]:
    """A number that must lie within `tolerance`, a share, of its target.

    >>> near(1.2, 1.0, 0.1)
    {'value': 1.2, 'rule': 'within 10 % of 1', 'holds': False}
    """
    close = abs(float(value) - target) <= tolerance * abs(target)
    return _number(value, f"within {100 * tolerance:.3g} % of {target:.4g}", close)


def shown(value: Any) -> dict[str, Any]:
    """A number to know that decides nothing."""
    return {"value": float(value), "rule": "", "holds": None}


def verdict(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """What numbers with thresholds amount to: all hold, none, or some.

    >>> verdict({"gap": at_most(0.1, 0.2), "slope": at_least(0.3, 0.5)})
    'holds in part'
    """
    held = [number["holds"] for number in numbers.values() if number["holds"] is not None]
    return VERDICTS[0] if all(held) else VERDICTS[1] if any(held) else VERDICTS[2]


def _number(value, rule, holds):
    return {"value": float(value), "rule": rule, "holds": bool(holds and math.isfinite(value))}
