"""Figures of findings: lines with bands, in the style of the reports."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib.ticker import LogFormatterSciNotation, NullLocator

from bilevel.report.figures import COLOURS, DASHES, QUIET, panel, png, spans_decades, styled
from bilevel_claims.experiment import Axis, Trajectory
from bilevel_claims.types import Picture


@dataclass(frozen=True)
class Line:
    """One line of a figure.

    Attributes:
      label: text of the legend; "" means none.
      x: (points,).
      y: (points,), or (seeds, points) for the median with a band over the finite values. NaN counts as
        infinite in the median.
      colour: index into `report.figures.COLOURS`; None means the next one.
      dash: index into `report.figures.DASHES`; None: solid, dashed after the last colour or for a guide.
      marked, guide: whether each point has a dot; whether it is a thin grey line to compare with.
    """

    label: str
    x: Any
    y: Any
    _: KW_ONLY
    colour: int | None = None
    dash: int | None = None
    marked: bool = False
    guide: bool = False


@styled
def picture(
    title: str,
    x: str,
    y: str,
    lines: Sequence[Line],
    caption: str,
    *,
    heading: str = "",
    log: str | None = None,
    height: float = 3.6,
    limits: tuple[float, float] | None = None,
) -> Picture:
    """Return a figure of several lines, at most a dozen, with the legend below them.

    A line ends with a cross where the median of the runs has diverged.

    Args:
      title, caption: a few words, which also name the file; how to read the figure.
      x, y, heading: labels of the axes; text above them, by default the title.
      log: "x", "y", "xy" or "" for logarithmic axes; None decides by the spread of the values.
      height, limits: in inches, at a width of 5.4; limits of the y axis, by default of the values.
    """
    figure, axes = panel(heading or title, x, y, width=5.4, height=height)
    spans = [_span(line) for line in lines]
    if log is None:
        heights = [v for line, span in zip(lines, spans, strict=True) if not line.guide for v in span]
        log = "x" * _decades([line.x for line in lines]) + "y" * _decades(heights)
    place = 0
    for line, (low, middle, high) in zip(lines, spans, strict=True):
        at = np.asarray(line.x, float)
        if "x" in log:
            # A start at 0 has no place on the axis, so it has no say in the heights either.
            at = np.where(at > 0, at, np.nan)
        if line.guide:
            dash = DASHES[1 if line.dash is None else line.dash]
            axes.plot(at, middle, color=QUIET, linewidth=1.1, linestyle=dash, label=line.label, zorder=1)
            continue
        number = place if line.colour is None else line.colour
        place += line.colour is None
        colour = COLOURS[number % len(COLOURS)]
        dash = DASHES[(number // len(COLOURS) if line.dash is None else line.dash) % len(DASHES)]
        axes.fill_between(at, low, high, color=colour, alpha=0.16, linewidth=0)
        dot = "o" if line.marked else ""
        axes.plot(at, middle, color=colour, linestyle=dash, label=line.label, marker=dot, markersize=5)
        fine = np.flatnonzero(np.isfinite(middle))
        if 0 < fine.size < middle.size and fine[-1] + 1 < middle.size:
            axes.plot(at[fine[-1]], middle[fine[-1]], "x", color=colour, markersize=8, markeredgewidth=2.2)
    _scale(axes, log, lines, limits)
    if any(line.label for line in lines):
        # A dot would hide the gap of a short dash.
        size = 4.0 if any(line.marked and line.dash for line in lines) else 2.7
        figure.legend(loc="outside lower center", ncols=_columns(lines), columnspacing=1.4, handlelength=size)
    return Picture(title, png(figure), caption)


def picture_of(
    title: str,
    runs: Sequence[Trajectory],
    quantity: str,
    along: Axis,
    caption: str,
    *,
    y: str = "",
    value: Callable[[Any], Any] = lambda values: values,
    styles: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    more: Sequence[Line] = (),
    **looks: Any,
) -> Picture:
    """Return a figure of one quantity of several methods along an axis.

    Args:
      title, caption, looks: as in `picture`; looks are `heading`, `log`, `height` and `limits`.
      runs, quantity, along: trajectories, name of their values, and an axis such as `STEPS`.
      y: label of the vertical axis; default: the quantity.
      value: function of the values, for example from error to accuracy.
      styles, more: further fields of `Line` by label of the method; further lines, such as guides.
    """
    lines = [
        Line(run.label, along.of(run), value(run.values[quantity]), **styles.get(run.label, {}))
        for run in runs
    ]
    return picture(title, along.name, y or quantity, [*lines, *more], caption, **looks)


def _span(line: Line) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return least finite value, median and greatest finite value over the seeds, NaN where not finite."""
    values = np.atleast_2d(np.asarray(line.y, float))
    finite, middle = np.isfinite(values), np.median(np.where(np.isnan(values), np.inf, values), axis=0)
    low = np.min(values, axis=0, initial=np.inf, where=finite)
    high = np.max(values, axis=0, initial=-np.inf, where=finite)
    low, middle, high = (np.where(np.isfinite(part), part, np.nan) for part in (low, middle, high))
    return low, middle, high


def _decades(values: Sequence[Any]) -> bool:
    together = np.concatenate([np.ravel(np.asarray(v, float)) for v in values])
    # A logarithmic axis leaves out step 0 and a loss of 0.
    return spans_decades(together[together > 0]) and bool((together >= 0).sum() >= 0.99 * together.size)


def _scale(axes, log, lines, limits):
    if "x" in log:
        axes.set_xscale("log", nonpositive="mask")
    if "y" in log:
        axes.set_yscale("log", nonpositive="mask")
    if limits is not None:
        axes.set_ylim(*limits)
    ticks = sorted({float(v) for line in lines if line.marked for v in line.x})
    if ticks and len(ticks) <= 8 and all(line.marked or line.guide for line in lines):
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    if "y" in log and low > 0 and np.floor(np.log10(high)) - np.ceil(np.log10(low)) < 1:
        # A single power of ten does not show the scale.
        axes.yaxis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(3, 1)))


def _columns(lines) -> int:
    """Return the number of columns that the longest label allows, with rows of similar length."""
    longest, count = max(len(line.label) for line in lines), sum(bool(line.label) for line in lines)
    most = max(1, min(6, 78 // (longest + 8)))
    return -(-count // -(-count // most))
