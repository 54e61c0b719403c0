"""Figures of a comparison: a quantity against steps, seconds or oracle calls."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bilevel.report.compare_statistics import Record, by_algorithm, curve, quantities, track
from bilevel.report.figures import COLOURS, DASHES, panel, spans_decades, styled

AXES = {"step": "steps", "seconds": "seconds without compilation", "oracle_calls": "oracle calls"}


def compare_figures(records: Sequence[Record]) -> dict[str, Figure]:
    """Return a figure of every quantity against every axis, named `quantity_by_axis`."""
    return {
        f"{quantity}_by_{against}": curves(records, quantity, against)
        for quantity in quantities(records)
        for against in AXES
    }


@styled
def curves(records: Sequence[Record], quantity: str, against: str) -> Figure:
    """Draw one line per algorithm: mean over seeds, band from minimum to maximum.

    A diverged run counts as infinite, so its algorithm has no mean: thin lines show each of its runs, and
    those that diverged end in a cross.
    """
    figure, axes = panel(quantity.replace("_", " ").capitalize(), AXES[against], "", height=3.7)
    points, broken = [], []
    for place, (algorithm, runs) in enumerate(by_algorithm(records).items()):
        colour = COLOURS[place % len(COLOURS)]
        dash = DASHES[place // len(COLOURS) % len(DASHES)]
        line = curve(runs, quantity, against)
        label = algorithm
        if line is not None:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.16, linewidth=0)
            axes.plot(line.x, line.mean, color=colour, linestyle=dash, label=label)
            points += [(line.x, line.low), (line.x, line.high)]
            continue
        for run in runs:
            # The history of a diverged run ends before the first value that is not finite.
            x, y = track(run, against), track(run, quantity)
            if not x.size:
                continue
            axes.plot(x, y, color=colour, linewidth=1, label=label and f"{label}, diverged")
            label = None
            if run["diverged"]:
                broken.append((x, y, colour))
            else:
                points.append((x, y))
    _scale(axes, points)
    for x, y, colour in broken:
        # The cross marks where the line leaves the axes, or its last point.
        low, high = axes.get_ylim()
        end = next(iter(np.flatnonzero((y < low) | (y > high))), -1)
        axes.plot(
            x[end],
            np.clip(y[end], low, high),
            "x",
            color=colour,
            markersize=8,
            markeredgewidth=2.2,
            clip_on=False,
            zorder=5,
        )
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=4, columnspacing=1.4, handlelength=1.8)
    return figure


def _scale(axes, points):
    """Choose logarithmic or linear axes for the `(x, y)` of the lines; diverged runs are not among them."""
    points = [(x, y) for x, y in points if x.size]
    ends, starts = [x[-1] for x, _ in points], [x[x > 0][0] for x, _ in points if (x > 0).any()]
    # A linear axis would squeeze the cheap algorithms against the left edge when budgets differ much.
    wide = bool(starts) and max(ends) > 8 * min(ends) > 0
    if wide:
        # The first point, at 0, is masked on a logarithmic axis, so it has no say in the heights.
        axes.set_xscale("log", nonpositive="mask")
        axes.set_xlim(min(starts), max(ends))
    heights = np.concatenate([np.empty(0), *[y[x > 0] if wide else y for x, y in points]])
    if spans_decades(heights):
        axes.set_yscale("log")
    if heights.size:
        low, high = heights.min(), heights.max()
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        axes.set_ylim(*((low / 1.3, high * 1.3) if axes.get_yscale() == "log" else (low - room, high + room)))
