"""What `bilevel fewshot` leaves in its folder: numbers, figures, and the page that shows them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bilevel.report.fewshot_figures import Episode, drawn, fewshot_figures, spread
from bilevel.report.files import write_files
from bilevel.report.numerals import ABSENT, duration, is_number, numeral
from bilevel.report.page import render
from bilevel.report.strict import strict_json
from bilevel.report.tables import Cell, Column, Table, text_table

FALL = 0.03  # of validation accuracy, from the best to the last, that a reader should know of
DIVERGED = ("diverg", "not finite")


class FewShot(Protocol):
    """The outcome of a few-shot run, as far as a report reads it; accuracies are fractions."""

    @property
    def summary(self) -> dict[str, Any]:
        """Plain data.

        What was run: dataset, algorithm, ways, shots, queries (a class), network, parameters,
        batch_tasks, settings, seed, command, environment. What came of it: steps, seconds,
        compile_seconds, seconds_per_step, peak_mib, best_step, validation_accuracy,
        validation_interval, test_accuracy, test_interval (half a 95 % interval), test_episodes, chance,
        accuracy_by_ways (a list of ways, accuracy, interval), and stopped: None, or why the run ended
        early, with the word "diverged" or "not finite" where it diverged.
        """
        ...

    @property
    def history(self) -> dict[str, Any]:
        """Lists: step, seconds, outer_loss, validation_accuracy, validation_interval."""
        ...

    @property
    def examples(self) -> Sequence[Episode]:
        """A few episodes of classes never seen in training."""
        ...

    @property
    def file(self) -> bytes:
        """Contents of `learner.npz`."""
        ...


def write_fewshot(result: FewShot, out: str | os.PathLike) -> list[Path]:
    """Paths of `summary.json`, `report.html`, `learner.npz` and the figures, written together.

    Args:
      result: the outcome of a run.
      out: the output folder, made when it does not exist; other files in it stay as they are.

    Raises:
      ValueError: the folder cannot be made or written.
    """
    figures = fewshot_figures(result.summary, result.history, result.examples)
    files: dict[str, str | bytes] = {
        "summary.json": strict_json(result.summary | {"history": result.history}),
        "report.html": fewshot_page(result, figures),
        "learner.npz": result.file,
    }
    return write_files(out, files | {f"{name}.png": image for name, image in figures.items()})


def fewshot_page(result: FewShot, figures: Mapping[str, bytes] | None = None) -> str:
    """The HTML page of a few-shot run.

    Args:
      result: the outcome of a run.
      figures: PNG bytes by name from `fewshot_figures`, drawn when not given.
    """
    summary = result.summary
    if figures is None:
        figures = fewshot_figures(summary, result.history, result.examples)
    diverged = _diverged(summary)
    return render(
        "fewshot.html.jinja",
        title=f"bilevel fewshot · {summary['dataset']}, {_task(summary)}",
        warnings=fewshot_warnings(result),
        dataset=summary["dataset"],
        accuracy=_unbroken(spread(summary["test_accuracy"], summary["test_interval"])),
        known=is_number(summary["test_accuracy"]),
        episodes=numeral(summary["test_episodes"]),
        things=_things(summary),
        chance=_unbroken(_guess(summary["chance"])),
        lead=_lead(summary),
        stopped="" if diverged else (summary.get("stopped") or "").removesuffix("."),
        run=_run(summary),
        figures=dict.fromkeys(("curves", "ways")) | dict(figures),
        best_step=numeral(summary["best_step"]) if is_number(summary.get("best_step")) else "",
        by_ways=_by_ways(summary),
        examples=[
            (figures[f"episode_{place}"], *_example(episode))
            for place, episode in enumerate(result.examples, 1)
            if f"episode_{place}" in figures
        ],
        settings=_pairs(summary.get("settings") or {}),
        environment=_pairs(summary.get("environment") or {}),
        command=summary.get("command") or "",
    )


def fewshot_table(result: FewShot) -> str:
    """The test accuracy in a sentence, a line of numbers, then warnings, for the terminal."""
    summary = result.summary
    rows = {
        "": str(summary["algorithm"]),
        "test accuracy": spread(summary["test_accuracy"], summary["test_interval"]),
        "validation": spread(summary["validation_accuracy"], summary["validation_interval"]),
        "chance": _guess(summary["chance"]),
        "steps": numeral(summary["steps"]),
        "time": duration(summary["seconds"]),
        "ms a step": _milliseconds(summary["seconds_per_step"]),
    }
    lines = [
        f"{summary['dataset']}, {_task(summary)}: accuracy on query images, "
        f"{numeral(summary['test_episodes'])} episodes of {_things(summary)} never seen in training",
        "",
        text_table(list(rows), [list(rows.values())]),
    ]
    if summary.get("stopped") and not _diverged(summary):
        lines.append(f"stopped: {summary['stopped']}")
    lines += [f"warning: {warning}" for warning in fewshot_warnings(result)]
    return "\n".join(lines)


def fewshot_warnings(result: FewShot) -> list[str]:
    """What a reader must know before the numbers: divergence, no better than chance, a late fall."""
    summary, found = result.summary, []
    if _diverged(summary):
        found.append(f"The run ended early: {summary['stopped']}")
    test, half, chance = (summary[name] for name in ("test_accuracy", "test_interval", "chance"))
    if is_number(test) and test - (half if is_number(half) else 0.0) <= chance:
        found.append(
            f"The model is no better than chance on {_things(summary)} never seen in training: "
            f"{spread(test, half)} right, where guessing gets {_guess(chance)}."
        )
    steps, accuracy = (np.asarray(result.history[name], float) for name in ("step", "validation_accuracy"))
    known = np.flatnonzero(np.isfinite(accuracy))
    # Rounded, so that a fall of just three points is none of more than three.
    if known.size and round(accuracy[known].max() - accuracy[known[-1]], 9) > FALL:
        best, last = known[accuracy[known].argmax()], known[-1]
        found.append(
            f"Validation accuracy fell from {spread(accuracy[best])} at step {numeral(int(steps[best]))} "
            f"to {spread(accuracy[last])} at step {numeral(int(steps[last]))}; "
            f"the test took the checkpoint of step {numeral(summary['best_step'])}."
        )
    return found


def _guess(chance: Any) -> str:
    return f"{100 * chance:.3g} %" if is_number(chance) else ABSENT


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _milliseconds(seconds: Any) -> str:
    return numeral(1e3 * seconds) if is_number(seconds) else ABSENT


def _mebibytes(value: Any) -> str:
    return f"{value:,.0f} MiB" if is_number(value) else ABSENT


def _diverged(summary: Mapping[str, Any]) -> bool:
    return any(word in (summary.get("stopped") or "").lower() for word in DIVERGED)


def _things(summary: Mapping[str, Any]) -> str:
    return "characters" if "omniglot" in str(summary["dataset"]).lower() else "classes"


def _task(summary: Mapping[str, Any]) -> str:
    return f"{_count(summary['ways'], 'way')} {_count(summary['shots'], 'shot')}"


def _lead(summary: Mapping[str, Any]) -> str:
    return (
        f"Learnt by {summary['algorithm']} in {_count(summary['steps'], 'step')} of "
        f"{_count(summary['batch_tasks'], 'task')} ({duration(summary['seconds'])}). "
        f"A task: tell {_count(summary['ways'], 'class', 'es')} apart from "
        f"{_count(summary['shots'], 'image')} of each, then name {_count(summary['queries'], 'query image')} "
        f"of each. Network: {summary['network']}, {_count(summary['parameters'], 'parameter')}."
    )


def _run(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    told = {
        "test accuracy": spread(summary["test_accuracy"], summary["test_interval"]),
        "validation accuracy": spread(summary["validation_accuracy"], summary["validation_interval"]),
        "best step": numeral(summary.get("best_step")),
        "steps": numeral(summary["steps"]),
        "training": duration(summary["seconds"]),
        "a step": duration(summary["seconds_per_step"]),
        "compiling": duration(summary["compile_seconds"]),
        "peak memory": _mebibytes(summary.get("peak_mib")),
        "seed": str(summary["seed"]),
    }
    return list(told.items())


def _by_ways(summary: Mapping[str, Any]) -> Table:
    columns = [Column("ways"), Column("accuracy"), Column("chance"), Column("errors")]
    rows = []
    for row in sorted(summary.get("accuracy_by_ways") or [], key=lambda row: row["ways"]):
        accuracy, chance = row["accuracy"], 1 / row["ways"]
        known = is_number(accuracy)
        rows.append(
            [
                Cell(numeral(row["ways"]), row["ways"], "chosen" if row["ways"] == summary["ways"] else ""),
                Cell(spread(accuracy, row["interval"]), accuracy if known else None),
                Cell(_guess(chance), chance),
                Cell(spread(1 - accuracy), 1 - accuracy) if known else Cell(ABSENT),
            ]
        )
    return Table(columns, rows)


def _example(episode: Episode) -> tuple[str, str]:
    """What a picture of an episode shows, and whether that is all."""
    shown, right = drawn(episode), np.asarray(episode.predictions) == np.asarray(episode.labels)
    most = int(np.bincount(np.asarray(episode.labels)[shown], minlength=1).max())
    first = "the first" if most == 1 else f"the first {numeral(most)}"
    which = "all" if shown.size == right.size else f"{first} of each class"
    return (
        f"{numeral(shown.size)} of {_count(right.size, 'query image')} are drawn ({which})",
        f"{numeral(int(right[shown].sum()))} of those drawn and {numeral(int(right.sum()))} of all are right",
    )


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name).replace("_", " "), numeral(value)) for name, value in values.items()]


def _count(number: Any, noun: str, plural: str = "s") -> str:
    return f"{numeral(number)} {noun}" + ("" if number == 1 else plural)
