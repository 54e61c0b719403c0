"""Figures of a few-shot run: learning curves, accuracy by ways, episodes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from bilevel.report.figures import BLUE, INK, QUIET, VERMILLION, panel, spans_decades, styled
from bilevel.text import ABSENT, is_number

if TYPE_CHECKING:  # at run time it would import flax, which figures do not need
    from bilevel.fewshot import AnsweredEpisode

# In the picture of an episode: query images shown per class and in total, and images that fit side by side.
SHOWN_A_CLASS, SHOWN, ACROSS = 3, 20, 20
# In inches: width of the picture, both margins together, labels at the left, and a line of text.
WIDTH, FRAME, EDGE, LINE = 7.2, 0.16, 0.56, 0.135


def fewshot_figures(
    summary: Mapping[str, Any], history: Mapping[str, Any], examples: "Sequence[AnsweredEpisode]"
) -> dict[str, Figure]:
    """Return every figure by name: curves, ways, episode_1, ...."""
    figures = {
        "curves": learning_curves(history, summary["best_step"], summary["chance"]),
        "ways": ways_chart(summary["accuracy_by_ways"], summary["settings"]["train_ways"]),
    }
    for place, episode in enumerate(examples, 1):
        figures[f"episode_{place}"] = episode_picture(episode, place)
    return figures


@styled
def learning_curves(history: Mapping[str, Any], best_step: int, chance: float) -> Figure:
    """Draw the validation accuracy, and below it the loss of the training tasks."""
    figure, above = panel("Learning curves", y="accuracy on query images", width=6.4, height=4.9)
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 2))
    above.set_subplotspec(grid[0])
    below = figure.add_subplot(grid[1], sharex=above)
    below.set(xlabel="seconds of training, without compiling", ylabel="training query loss")

    seconds, step, loss, accuracy, interval = (
        np.asarray(history[name], float)
        for name in ("seconds", "step", "outer_loss", "validation_accuracy", "validation_interval")
    )
    known = np.isfinite(accuracy)
    x, y, half = seconds[known], accuracy[known], np.nan_to_num(interval[known])
    dot = "o" if x.size <= 40 else ""
    above.fill_between(
        x, np.maximum(y - half, 0), np.minimum(y + half, 1), color=BLUE, alpha=0.2, linewidth=0
    )
    above.plot(x, y, marker=dot, markersize=3.5, color=BLUE, label="validation, with 95 % interval")
    best = np.flatnonzero(known & (step == best_step))
    if best.size:
        above.plot(seconds[best[:1]], accuracy[best[:1]], "*", color=VERMILLION, markersize=14,
                   markeredgecolor="white", zorder=4, clip_on=False,
                   label=f"best checkpoint, step {best_step:,}")  # fmt: skip
    label = f"chance, {_percent_tick(chance)}"
    above.axhline(chance, color=QUIET, linewidth=1.2, linestyle=(0, (2, 2)), label=label)
    above.yaxis.set_major_formatter(_percent_tick)
    above.tick_params(labelbottom=False)

    finite = np.flatnonzero(np.isfinite(loss))
    below.plot(seconds[finite], loss[finite], marker=dot, markersize=3.5, color=INK, linewidth=1.6)
    if finite.size and finite[-1] + 1 < loss.size:
        # A cross marks the last finite loss.
        below.plot(seconds[finite[-1]], loss[finite[-1]], "x", color=VERMILLION, markersize=9,
                   markeredgewidth=2.2, clip_on=False)  # fmt: skip
    if spans_decades(loss):
        below.set_yscale("log")
    below.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    below.xaxis.set_major_formatter(lambda value, _: f"{value:,.4g}" if abs(value) < 1e3 else f"{value:,.0f}")
    below.margins(x=0.02)
    figure.align_ylabels([above, below])
    figure.legend(loc="outside lower center", ncols=3, columnspacing=1.6)
    return figure


@styled
def ways_chart(rows: Sequence[Mapping[str, Any]], trained: int) -> Figure:
    """Draw accuracy and chance by the ways of an episode, and say at how many ways training was."""
    rows = sorted(rows, key=lambda row: row["ways"])
    places = np.arange(len(rows))
    accuracy, interval = (np.array([row[name] for row in rows]) for name in ("accuracy", "interval"))
    chance = np.array([1 / row["ways"] for row in rows])
    figure, axes = panel(
        "Accuracy on new classes", f"ways (classes of an episode); training used {trained}",
        "accuracy on query images", height=4,
    )  # fmt: skip
    bars = axes.errorbar(places, accuracy, interval, fmt="o", color=BLUE, markersize=6,
                         capsize=6, elinewidth=1.8, label="accuracy, with 95 % interval")  # fmt: skip
    (dashes,) = axes.plot(places, chance, "_", color=QUIET, markersize=26, markeredgewidth=2, label="chance")
    # The numbers stand below the axis: beside the dots they would lie over whiskers, dashes or axes.
    numbers = [
        spread(value, half).replace(" ±", "\n±") for value, half in zip(accuracy, interval, strict=True)
    ]
    axes.set_xticks(places, [f"{row['ways']}\n{text}" for row, text in zip(rows, numbers, strict=True)])
    axes.tick_params(axis="x", labelsize=9 if len(rows) <= 6 else 7.5)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylim(0, 1.04)
    axes.yaxis.set_major_formatter(_percent_tick)
    axes.grid(axis="x", visible=False)
    figure.legend(
        handles=[bars, dashes], loc="outside lower center", ncols=2, columnspacing=1.6, markerscale=0.6
    )
    return figure


def drawn(episode: "AnsweredEpisode") -> np.ndarray:
    """Return the query images to draw, by class: wrong answers before right ones, at most 20.

    A class shows as many images as fit beside the others. Where not every class fits, those with wrong
    answers come first.
    """
    ways = len(episode.support)
    most = max(min(SHOWN_A_CLASS, SHOWN // ways), 1)
    labels = np.asarray(episode.labels)
    right = np.asarray(episode.predictions) == labels
    # A stable sort keeps the order of the episode within wrong and within right answers.
    order = np.argsort(right, kind="stable")
    chosen = [order[labels[order] == label][:most] for label in range(ways)]
    candidates = np.concatenate([np.empty(0, int), *chosen])
    kept = candidates[np.argsort(right[candidates], kind="stable")][:SHOWN]
    return kept[np.argsort(labels[kept], kind="stable")]


@styled
def episode_picture(episode: "AnsweredEpisode", number: int = 1) -> Figure:
    """Draw the support images by class, and below them query images with answers.

    A wrong answer has a thick dashed frame, a cross, and the letter of the true class below it.
    """
    shown, support = drawn(episode), _inked(episode.support)
    labels, answers, confidence = (
        np.asarray(a) for a in (episode.labels, episode.predictions, episode.confidence)
    )
    ways, shots = support.shape[:2]
    # A class is a block of columns, as wide as the picture allows.
    most = max(ACROSS // ways, 1)
    lines = -(-shots // most)
    width = -(-shots // lines)
    wide = max(width, int(np.bincount(labels[shown], minlength=1).max()))
    gap = 0.5 if wide > 1 else 0.15
    # If there are few tiles, they do not fill the width, since they would be too large.
    inch = max(ways * (wide + gap), 13.0) / (WIDTH - FRAME - EDGE)
    edge, line = EDGE * inch, LINE * inch
    aspect = support.shape[2] / support.shape[3]
    top = 1.4 * line
    below = top + lines * aspect + 0.8 * line
    wrong = bool((answers[shown] != labels[shown]).any())
    bottom = below + aspect + (3 if wrong else 2) * line

    right = int((answers == labels).sum())
    figure, axes = panel(
        f"Episode {number}: {right} of {labels.size} query images right, {shown.size} shown",
        width=WIDTH,
        height=0.42 + bottom / inch,
    )
    for label in range(ways):
        left = edge + label * (wide + gap)
        centred = {"ha": "center", "va": "center", "parse_math": False}
        axes.text(left + wide / 2, top / 2, letters(label), weight="bold", fontsize=10, **centred)
        for shot in range(shots):
            row, place = divmod(shot, width)
            middle = (wide - min(width, shots - row * width)) / 2
            _tile(axes, support[label, shot], left + middle + place, top + row * aspect, aspect)
        for place, row in enumerate(shown[labels[shown] == label]):
            x, good = left + place, answers[row] == label
            _tile(axes, _inked(episode.query[row]), x, below, aspect, good)
            answer = letters(int(answers[row])) + ("" if good else " ✗")
            colour = INK if good else VERMILLION
            percent = f"{100 * confidence[row]:.0f} %" if np.isfinite(confidence[row]) else ABSENT
            lines_below = [(answer, "bold", colour, 8), (percent, "normal", QUIET, 6.5)]
            lines_below += [] if good else [(f"is {letters(label)}", "bold", colour, 7)]
            for height, (text, weight, ink, size) in enumerate(lines_below, 1):
                y = below + aspect + (height - 0.4) * line
                axes.text(x + 0.5, y, text, weight=weight, color=ink, fontsize=size, **centred)
    axes.axhline(below - 0.4 * line, color=QUIET, linewidth=0.8)
    for name, middle in (("support", (top + below - 0.8 * line) / 2), ("query", below + aspect / 2)):
        axes.text(0, middle, name, va="center", color=QUIET, fontsize=8.5)
    axes.set_xlim(0, (WIDTH - FRAME) * inch)
    axes.set_ylim(bottom, 0)
    axes.set_anchor("NW")
    axes.set_axis_off()
    return figure


def spread(value: Any, half: Any = None) -> str:
    """Format a fraction as percent, with half its interval where that is known.

    >>> spread(0.9712, 0.0031), spread(0.9994, 0.0004), spread(0.5), spread(None)
    ('97.1 % ± 0.3 %', '99.94 % ± 0.04 %', '50.0 %', '–')
    """
    if not is_number(value):
        return ABSENT
    known = is_number(half)
    places = 2 if known and 0 < half < 0.001 else 1
    return f"{100 * value:.{places}f} %" + (f" ± {100 * half:.{places}f} %" if known else "")


def letters(label: int) -> str:
    """Return the letters that stand for a class in a picture.

    >>> letters(0), letters(19), letters(26)
    ('A', 'T', 'AA')
    """
    rest, last = divmod(label, 26)
    return (letters(rest - 1) if rest else "") + chr(ord("A") + last)


def _inked(images: np.ndarray) -> np.ndarray:
    """Return images to draw, (..., 3) bytes, with ink dark on light."""
    images = np.asarray(images)
    return np.repeat(255 - images, 3, axis=-1) if images.shape[-1] == 1 else images


def _tile(axes, image: np.ndarray, left: float, top: float, aspect: float, good: bool = True) -> None:
    x, y, width, height = left + 0.06, top + 0.06 * aspect, 0.88, 0.88 * aspect
    axes.imshow(image, extent=(x, x + width, y + height, y), interpolation="nearest", aspect="equal")
    if good:
        frame = Rectangle((x, y), width, height, fill=False, edgecolor=QUIET, linewidth=0.5)
    else:
        frame = Rectangle((left + 0.03, top + 0.03 * aspect), 0.94, 0.94 * aspect, fill=False,
                          edgecolor=VERMILLION, linewidth=2, linestyle=(0, (2, 1)))  # fmt: skip
    axes.add_patch(frame)


def _percent_tick(value: float, _: Any = None) -> str:
    return f"{100 * value:.3g} %"
