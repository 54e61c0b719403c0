"""Figures of a cleaning run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bilevel.cleaning.result import Cleaning
from bilevel.extras import extra
from bilevel.report.clean_baselines import Method, methods
from bilevel.report.contact_sheet import contact_sheet
from bilevel.report.figures import (
    BLUE,
    INK,
    ORANGE,
    QUIET,
    VERMILLION,
    brief,
    panel,
    png,
    spans_decades,
    styled,
)


def clean_figures(cleaning: Cleaning) -> dict[str, bytes]:
    """Return a PNG of every figure that the run has data for, by name."""
    table = methods(cleaning.summary)
    wrong = None if cleaning.truth is None else cleaning.given != cleaning.truth
    figures = {
        "learning_curves": learning_curves(cleaning.history),
        "weights": weight_histogram(cleaning.weights, cleaning.flagged, wrong),
    }
    if wrong is not None and wrong.any():
        figures["precision_recall"] = precision_recall(cleaning.weights, cleaning.flagged, wrong, table)
    if sum(method.test_accuracy is not None for method in table) > 1:
        figures["test_accuracy"] = accuracy_chart(table)
    if (cleaning.flagged & (cleaning.given != cleaning.suggested)).any():
        figures["corrections"] = correction_chart(cleaning)
    if cleaning.images is not None and cleaning.flagged.any():
        figures["contact_sheet"] = contact_sheet(cleaning)
    return {name: png(figure) for name, figure in figures.items()}


@styled
def learning_curves(history: Mapping[str, Any]) -> Figure:
    """Draw the losses on the trusted rows and on the held-out trusted rows, by step."""
    figure, axes = panel("Learning curves", "step", "loss")
    step = np.asarray(history["step"])
    losses = [np.asarray(history[name], float) for name in ("outer_loss", "held_out_loss")]
    names = ("trusted rows", "held-out trusted rows")
    for loss, name, colour in zip(losses, names, (BLUE, VERMILLION), strict=True):
        finite = np.isfinite(loss)
        axes.plot(step[finite], loss[finite], color=colour, label=name)
    if spans_decades(np.concatenate(losses), ratio=10.0):
        axes.set_yscale("log")
    best = int(history["best_step"])
    axes.axvline(best, color=QUIET, linewidth=1.2, linestyle=(0, (2, 2)), label=f"chosen step, {best:,}")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(x=0.02)
    axes.legend()
    return figure


@styled
def weight_histogram(weights: np.ndarray, flagged: np.ndarray, wrong: np.ndarray | None = None) -> Figure:
    """Draw a histogram of the weights.

    Bars of right labels point upwards, bars of wrong labels downwards. Where the truth is not known,
    they are bars of kept rows and of flagged rows.
    """
    figure, axes = panel("Learnt weights", "weight of a row", "rows")
    bins = np.linspace(0.0, 1.0, 41)
    upper = ~flagged if wrong is None else ~wrong
    names = ("kept", "flagged") if wrong is None else ("label is right", "label is wrong")
    for part, name, colour, sign in ((upper, names[0], BLUE, 1), (~upper, names[1], VERMILLION, -1)):
        count, _ = np.histogram(np.clip(weights[part], 0, 1), bins)
        axes.bar(
            bins[:-1],
            sign * count,
            np.diff(bins) * 0.9,
            align="edge",
            color=colour,
            label=f"{name} ({part.sum():,})",
        )
    axes.axhline(0, color=QUIET, linewidth=0.8)
    threshold = cut(weights, flagged)
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle=(0, (2, 2)), label="flagged below")
    # Counts are positive in both directions.
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
    axes.set_xlim(-0.01, 1.01)
    axes.grid(axis="x", visible=False)
    axes.legend(loc="best")
    return figure


def cut(weights: np.ndarray, flagged: np.ndarray) -> float | None:
    """Return a weight that separates flagged from kept rows, or None."""
    if not flagged.any() or flagged.all():
        return None
    below, above = float(weights[flagged].max()), float(weights[~flagged].min())
    return (below + above) / 2 if below <= above else None


@styled
def correction_chart(cleaning: Cleaning, shown: int = 10) -> Figure:
    """Draw the most frequent pairs of given and suggested class of flagged rows."""
    changed = cleaning.flagged & (cleaning.given != cleaning.suggested)
    pairs = np.stack([cleaning.given[changed], cleaning.suggested[changed]], axis=1)
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:shown][::-1]
    names = [brief(name, 18) for name in cleaning.classes]
    figure, axes = panel("Most frequent corrections", "flagged rows")
    bars = axes.barh(range(most.size), counts[most], height=0.66, color=BLUE)
    axes.bar_label(bars, padding=4, fontsize=9)
    axes.set_yticks(
        range(most.size), [f"{names[given]} → {names[suggested]}" for given, suggested in pairs[most]]
    )
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_xlim(0, 1.12 * counts.max())
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


@styled
def precision_recall(
    weights: np.ndarray, flagged: np.ndarray, wrong: np.ndarray, others: Sequence[Method]
) -> Figure:
    """Draw precision against recall over all thresholds on the weight.

    A marker shows the flags of each method.
    """
    figure, axes = panel("Finding the wrong labels", "recall: share of the wrong labels found", "precision")
    suspicion = 1.0 - np.asarray(weights, float)
    with extra("clean"):
        from sklearn.metrics import average_precision_score, precision_recall_curve

    precision, recall, _ = precision_recall_curve(wrong, suspicion)
    area = average_precision_score(wrong, suspicion)
    axes.plot(recall, precision, color=BLUE, label=f"all thresholds, area {area:.3f}", clip_on=False)
    right = float((flagged & wrong).sum())
    chosen = (right / wrong.sum(), right / max(flagged.sum(), 1))
    axes.plot(*chosen, "o", color=BLUE, markersize=9, markeredgecolor="white", markeredgewidth=1.5, zorder=4,
              clip_on=False, label=f"flagged: {chosen[1]:.3f} at recall {chosen[0]:.3f}")  # fmt: skip
    markers = iter(zip("Ds", (VERMILLION, ORANGE), strict=True))
    for method in others:
        at_precision, at_recall = method.detection[:2]
        if method.name != "cleaned" and at_precision is not None and at_recall is not None:
            marker, colour = next(markers)
            axes.plot(at_recall, at_precision, marker, color=colour, markersize=7, clip_on=False,
                      zorder=3, label=method.title.lower())  # fmt: skip
    base = float(wrong.mean())
    axes.axhline(base, color=QUIET, linewidth=1.2, linestyle=(0, (2, 2)), label=f"by chance, {base:.2f}")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.legend(loc="lower left", bbox_to_anchor=(0.02, min(base + 0.02, 0.45)))
    return figure


@styled
def accuracy_chart(table: Sequence[Method]) -> Figure:
    """Draw the test accuracy of each method as a dot."""
    known = [method for method in table if method.test_accuracy is not None][::-1]
    values = np.array([method.test_accuracy for method in known], float)
    figure, axes = panel("Accuracy on the test rows", "test accuracy", height=1.3 + 0.44 * len(known))
    for place, (method, value) in enumerate(zip(known, values, strict=True)):
        own, ceiling = method.name == "cleaned", method.name == "oracle"
        colour = BLUE if own else QUIET
        axes.plot(value, place, "o", markersize=11 if own else 9, color=colour,
                  markerfacecolor="white" if ceiling else colour, markeredgewidth=1.8)  # fmt: skip
        axes.annotate(f"{value:.3f}", (value, place), (10, 0), textcoords="offset points", va="center",
                      color=colour if own else INK, weight="bold" if own else "normal")  # fmt: skip
    axes.set_yticks(range(len(known)), [method.title for method in known])
    for label, method in zip(axes.get_yticklabels(), known, strict=True):
        label.set_fontweight("bold" if method.name == "cleaned" else "normal")
    # Unlike bars, dots need no axis that starts at 0. The room to the right is for the numbers.
    spread = max(float(np.ptp(values)), 0.01)
    axes.set_xlim(max(values.min() - 0.12 * spread, 0.0), values.max() + 0.25 * spread)
    axes.set_ylim(-0.6, len(known) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure
