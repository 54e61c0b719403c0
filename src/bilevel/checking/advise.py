"""Advice on which response to use, from measured time, memory and error."""

from dataclasses import dataclass
from typing import Any

from bilevel.checking.check import check
from bilevel.checking.report import Report, size
from bilevel.checking.rows import Row
from bilevel.text import duration, numeral
from bilevel.types import Batch, Optimizer, Problem, PyTree, require


@dataclass(frozen=True)
class Advice:
    """The result of `advise`.

    Attributes:
      recommended: name of the response to use, or None if no one is accurate enough.
      reasons: plain sentences; the first one is the recommendation.
      report: the `Report` with time, memory and error of each response on this device.
    """

    recommended: str | None
    reasons: tuple[str, ...]
    report: Report

    def __str__(self) -> str:
        return "\n".join([*self.reasons, "", str(self.report)])

    def numbers(self) -> dict[str, Any]:
        """Return the advice and its report as nested dicts and lists, for JSON."""
        advice = {"recommended": self.recommended, "reasons": list(self.reasons)}
        return self.report.numbers() | {"advice": advice}


def advise(
    problem: Problem,
    x: PyTree,
    y: PyTree,
    batch: Batch,
    *,
    key: Any = None,
    inner_optimizer: Optimizer | None = None,
    inner_steps: int | None = None,
    linear_steps: int | None = None,
    tolerance: float = 0.01,
    memory: int | None = None,
) -> Advice:
    """Recommend a response for a problem on this device, with reasons.

    The fastest response whose error is at most the tolerance is recommended. Time is measured on a few
    calls, memory is read from the compiled program, and the error is measured by `check`.

    Args:
      problem: the two losses.
      x, y: outer variable, and the start of the inner solver.
      batch: the data, as `run` takes them.
      key: random key of `zeroth_order`; default: `jax.random.key(0)`.
      inner_optimizer, inner_steps, linear_steps: settings of the responses, see `check`.
      tolerance: largest relative error.
      memory: largest number of bytes of the compiled program besides its arguments; default: no limit.

    Returns:
      An `Advice`.

    Raises:
      ValueError: if the losses cannot be evaluated.

    Cost: the cost of `check`.

    >>> import jax.numpy as jnp
    >>> from bilevel import full
    >>> ridge = Problem(
    ...     outer=lambda x, y, batch: jnp.sum((y - 1) ** 2),
    ...     inner=lambda x, y, batch: jnp.sum((y - 2) ** 2 + jnp.exp(x) * y**2),
    ... )
    >>> "first_order" == advise(ridge, 0.5, jnp.zeros(3), full(None, None)).recommended
    False
    """
    require(memory is None or memory > 0, "memory must be positive", memory)
    report = check(
        problem,
        x,
        y,
        batch,
        key=key,
        inner_optimizer=inner_optimizer,
        inner_steps=inner_steps,
        linear_steps=linear_steps,
        tolerance=tolerance,
    )
    return recommend(report, tolerance, memory)


def recommend(report: Report, tolerance: float, memory: int | None = None) -> Advice:
    """Return the advice that follows from a report.

    Args:
      report: a report with rows.
      tolerance: largest relative error.
      memory: largest number of bytes, or None.
    """

    def fits(row):
        return memory is None or row.bytes is None or row.bytes <= memory

    accurate = [row for row in report.rows if row.relative_error <= tolerance]
    fitting = [row for row in accurate if fits(row)]
    if not fitting:
        return Advice(None, tuple(_no_choice(report, accurate, tolerance, memory)), report)
    best = min(fitting, key=lambda row: row.seconds)
    reasons = [
        f"Use {best.response}: it is the fastest with an error of at most {tolerance:g}. Its error is "
        f"{best.relative_error:.1g}, and it takes {duration(best.seconds)} and {size(best.bytes)} on this "
        f"device: about {duration(1000 * best.seconds)} for 1,000 hypergradients."
    ]
    reasons += [_against(row, best, tolerance, fits(row)) for row in report.rows if row is not best]
    reasons += _enough(report, tolerance)
    if not report.ok:
        count = len(report.findings)
        reasons.append(
            f"The check found {count} {'fault: mend it' if count == 1 else 'faults: mend them'} first."
        )
    return Advice(best.response, tuple(reasons), report)


def _no_choice(report, accurate, tolerance, memory):
    if not report.rows:
        return ["No response was measured: mend the faults first."]
    if accurate:
        least = min(accurate, key=lambda row: row.bytes)
        return [
            f"No response with an error of at most {tolerance:g} fits into {size(memory)}: {least.response} "
            f"needs {size(least.bytes)}. Take a smaller batch, or fewer inner steps."
        ]
    known = [row for row in report.rows if row.relative_error == row.relative_error]
    if not known:
        return ["The errors are unknown, since there is no reference: mend the faults first."]
    nearest = min(known, key=lambda row: row.relative_error)
    return [
        f"No response reaches an error of {tolerance:g}. The nearest is {nearest.response} with "
        f"{nearest.relative_error:.2g}: mend the faults first, or take more inner steps."
    ]


def _against(row: Row, best: Row, tolerance: float, fits: bool) -> str:
    """Return why a response is not the recommended one."""
    if not row.relative_error <= tolerance:
        return f"{row.response} has an error of {row.relative_error:.2g}."
    if not fits:
        return f"{row.response} needs {size(row.bytes)}, which is above the limit."
    longer = f"{row.response} is accurate too, but takes {_times(row.seconds, best.seconds)} as long"
    if row.bytes and best.bytes:
        return f"{longer} and {_times(row.bytes, best.bytes)} the memory."
    return f"{longer}."


def _times(number, base):
    return f"{number / base:.1f} times" if number < 10 * base else f"{numeral(round(number / base))} times"


def _enough(report, tolerance):
    """Return the smallest numbers of steps that reach the tolerance."""
    found = []
    for axis, name, what in (
        ("inner_steps", "implicit, exact adjoint", "inner steps"),
        ("inner_steps", "unrolled", "unrolled inner steps"),
        ("linear_steps", "conjugate gradients", "steps of conjugate gradients"),
        ("linear_steps", "Neumann series", "terms of the Neumann series"),
    ):
        curve = report.curves[axis].get(name, [])
        enough = [steps for steps, error in curve if error <= tolerance]
        if enough:
            found.append(f"{enough[0]} {what}")
    return [f"Enough for an error of {tolerance:g}, each alone: {', '.join(found)}."] if found else []
