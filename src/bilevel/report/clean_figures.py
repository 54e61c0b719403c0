"""Figures of a cleaning run."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bilevel.cleaning.result import Cleaning
from bilevel.extras import extra
from bilevel.report.clean_baselines import Method, methods
from bilevel.report.contact_sheet import contact_sheet
from bilevel.report.figures import (
    BLUE,
    GREEN,
    GRID,
    INK,
    ORANGE,
    PURPLE,
    QUIET,
    SKY,
    VERMILLION,
    brief_names,
    panel,
    spans_decades,
    styled,
)

# A noise matrix is drawn if some class is confused with another at least this often.
CONFUSED = 0.005
NOISE_CLASSES, NUMBERED_CLASSES = 30, 12  # classes in the noise matrix, and most with numbers in its cells


def clean_figures(cleaning: Cleaning) -> dict[str, Figure]:
    """Return every figure that the run has data for, by name."""
    table = methods(cleaning.summary)
    wrong = None if cleaning.truth is None else cleaning.given != cleaning.truth
    probability, flagged = np.asarray(cleaning.probability), np.asarray(cleaning.flagged)
    threshold = cleaning.summary["threshold"]
    figures = {"probabilities": probability_histogram(probability, flagged, threshold, wrong)}
    if shows_noise(cleaning):
        figures["noise"] = noise_matrix(cleaning.estimates.noise, cleaning.classes)
    if wrong is not None and wrong.any():
        figures["precision_recall"] = precision_recall(probability, flagged, wrong, table)
    if sum(method.test_accuracy is not None for method in table) > 1:
        figures["test_accuracy"] = accuracy_chart(table)
    if (flagged & (cleaning.given != cleaning.suggested)).any():
        figures["corrections"] = correction_chart(cleaning)
    if cleaning.history is not None:
        figures["learning_curves"] = learning_curves(cleaning.history)
    if cleaning.images is not None and flagged.any():
        figures["contact_sheet"] = contact_sheet(cleaning)
    return figures


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
def probability_histogram(
    probability: np.ndarray,
    flagged: np.ndarray,
    threshold: float | None = None,
    wrong: np.ndarray | None = None,
) -> Figure:
    """Draw a histogram of the probability that a label is wrong.

    Two histograms lie over each other: those of right and of wrong labels or, where the truth is not
    known, those of kept and of flagged rows.
    """
    figure, axes = panel("Probability that a label is wrong", "probability", "rows")
    edges = np.linspace(0.0, 1.0, 41)
    second = flagged if wrong is None else wrong
    names = ("kept", "flagged") if wrong is None else ("label is right", "label is wrong")
    counts = []
    for part, name, colour in ((~second, names[0], BLUE), (second, names[1], VERMILLION)):
        if not part.any():
            continue
        count, _ = np.histogram(np.clip(probability[part], 0, 1), edges)
        label = f"{name} ({part.sum():,})"
        axes.stairs(count, edges, fill=True, color=colour, alpha=0.3, linewidth=0)
        axes.stairs(count, edges, color=colour, linewidth=1.4, label=label)
        counts.append(count)
    counts = np.concatenate(counts)
    if spans_decades(counts[counts > 0], ratio=50.0):
        # A bar of one row has its top above the axis.
        axes.set_yscale("log")
        axes.set_ylim(0.7, 1.6 * counts.max())
    else:
        axes.set_ylim(0, 1.08 * max(counts.max(), 1))
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if threshold is not None and np.isfinite(threshold) and flagged.any():
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle=(0, (2, 2)), label="flagged above")
    axes.set_xlim(-0.01, 1.01)
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside lower center", ncols=3, columnspacing=1.4, handlelength=1.4)
    return figure


def shows_noise(cleaning: Cleaning) -> bool:
    """Return whether the estimated noise matrix says more than that nearly all labels are right."""
    noise = np.asarray(cleaning.estimates.noise, float)
    off = noise[~np.eye(len(noise), dtype=bool)]
    known = off.size > 0 and bool(np.isfinite(noise).all())
    return bool(cleaning.summary["signal"]) and known and off.max() >= CONFUSED


@styled
def noise_matrix(noise: np.ndarray, classes: Sequence[str]) -> Figure:
    """Draw the probability of each given class for each true class; at most 30 classes.

    Where there are more, those that are confused most are drawn.
    """
    noise = np.asarray(noise, float)
    confused = noise * ~np.eye(len(noise), dtype=bool)
    order = np.argsort(-(confused.sum(axis=0) + confused.sum(axis=1)), kind="stable")
    kept = np.sort(order[:NOISE_CLASSES])
    shown, size = confused[np.ix_(kept, kept)], len(kept)
    names = brief_names([classes[label] for label in kept], 14)
    part = "" if size == len(noise) else f", the {size} most confused of {len(noise)} classes"
    side = min(1.9 + 0.42 * size, 6.2)
    figure, axes = panel(
        f"Estimated noise{part}", "given label", "true label", width=max(side + 0.9, 3.6), height=side + 0.3
    )
    values = np.ma.array(shown, mask=np.eye(size, dtype=bool))
    colours = LinearSegmentedColormap.from_list("noise", ["#ffffff", SKY, BLUE, "#003a5d"])
    colours = colours.with_extremes(bad=GRID)
    # A scale from 0 to the largest cell would make uniform noise look dark.
    top = max(float(shown.max()), 0.1)
    picture = axes.imshow(values, cmap=colours, vmin=0, vmax=top, interpolation="nearest")
    if size <= NUMBERED_CLASSES:
        for row, column in np.ndindex(size, size):
            value = noise[kept[row], kept[column]]
            if value >= 0.005:
                dark = row != column and value > 0.45 * top
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                          color="white" if dark else INK)  # fmt: skip
    turned = max(map(len, names)) > 3
    axes.set_xticks(range(size), names, rotation=90 if turned else 0)
    axes.set_yticks(range(size), names)
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        label.set_parse_math(False)
        label.set_fontsize(9 if size <= 20 else 7)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    bar = figure.colorbar(
        picture, ax=axes, shrink=0.8, aspect=24, format=lambda value, _: f"{100 * value:.3g} %"
    )
    bar.outline.set_visible(False)
    return figure


@styled
def correction_chart(cleaning: Cleaning, shown: int = 10) -> Figure:
    """Draw the most frequent pairs of given and suggested class of flagged rows."""
    changed = cleaning.flagged & (cleaning.given != cleaning.suggested)
    pairs = np.stack([cleaning.given[changed], cleaning.suggested[changed]], axis=1)
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:shown][::-1]
    names = brief_names(cleaning.classes, 18)
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
    probability: np.ndarray, flagged: np.ndarray, wrong: np.ndarray, others: Sequence[Method]
) -> Figure:
    """Draw precision against recall over all thresholds on the probability.

    A marker shows the flags of each method.
    """
    figure, axes = panel(
        "Finding the wrong labels", "recall: share of the wrong labels found", "precision", height=4.2
    )
    with extra("clean"):
        from sklearn.metrics import average_precision_score, precision_recall_curve

    precision, recall, _ = precision_recall_curve(wrong, probability)
    area = average_precision_score(wrong, probability)
    axes.plot(recall, precision, color=BLUE, label=f"all thresholds, area {area:.3f}", clip_on=False)
    right = float((flagged & wrong).sum())
    chosen = (right / wrong.sum(), right / max(flagged.sum(), 1))
    axes.plot(*chosen, "o", color=BLUE, markersize=9, markeredgecolor="white", markeredgewidth=1.5, zorder=4,
              clip_on=False, label=f"flagged: {chosen[1]:.3f} at recall {chosen[0]:.3f}")  # fmt: skip
    markers = iter(zip("Ds^v", (VERMILLION, ORANGE, GREEN, PURPLE), strict=True))
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
    figure.legend(loc="outside lower center", ncols=2, columnspacing=1.4, handlelength=1.6)
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
