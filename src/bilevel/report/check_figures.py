"""Figures of a check: error against inner steps and against linear steps."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from bilevel.checking.report import Report
from bilevel.report.figures import COLOURS, DASHES, QUIET, panel, styled

TITLES = {
    "inner_steps": ("Error against inner steps", "inner steps"),
    "linear_steps": ("Error against linear steps", "Hessian products of the linear solver"),
}


def check_figures(report: Report) -> dict[str, Figure]:
    """Return a figure of each measured curve, by name."""
    return {
        f"error_by_{axis}": errors(curves, axis, report.settings["tolerance"])
        for axis, curves in report.curves.items()
        if any(len(curve) > 1 for curve in curves.values())
    }


@styled
def errors(curves: Mapping[str, Sequence[tuple[int, float]]], axis: str, tolerance: float) -> Figure:
    """Draw the relative error of the hypergradient, one line per method, with the tolerance."""
    title, label = TITLES[axis]
    figure, axes = panel(title, label, "relative error", height=3.7)
    lowest = tolerance
    for place, (name, curve) in enumerate(curves.items()):
        # A logarithmic axis cannot show an error of zero.
        steps, values = zip(*[(steps, max(error, 1e-17)) for steps, error in curve], strict=True)
        axes.plot(steps, values, "o", color=COLOURS[place], linestyle=DASHES[place], markersize=4, label=name)
        lowest = min(lowest, *values)
    axes.axhline(tolerance, color=QUIET, linewidth=1, linestyle=DASHES[2], label=f"tolerance {tolerance:g}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.set_yscale("log")
    axes.set_ylim(bottom=max(lowest / 3, 1e-17))
    figure.legend(loc="outside lower center", ncols=3, columnspacing=1.4, handlelength=1.8)
    return figure
