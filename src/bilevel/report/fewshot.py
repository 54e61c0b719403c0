"""The output folder of `bilevel fewshot`: numbers, figures and the page."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bilevel.report.fewshot_figures import drawn, fewshot_figures, spread
from bilevel.report.figures import image_files, pngs
from bilevel.report.files import write_files
from bilevel.report.page import render
from bilevel.report.strict import strict_json
from bilevel.report.tables import Cell, Column, Table
from bilevel.text import ABSENT, duration, is_number, numeral, text_table

if TYPE_CHECKING:  # at run time it would import flax, which pages do not need
    from bilevel.fewshot import AnsweredEpisode, FewShotResult

# A fall of validation accuracy from the best to the last log point that deserves a warning.
FALL = 0.03


def write_fewshot(result: "FewShotResult", out: str | os.PathLike) -> list[Path]:
    """Write the files of a few-shot run and return their paths.

    They are `summary.json`, `report.html`, `learner.npz` and the figures.

    Args:
      result: the outcome of a run.
      out: output folder, created if missing; other files in it are kept.

    Raises:
      ValueError: when the folder cannot be created or written.
    """
    figures = fewshot_figures(result.summary, result.history, result.examples)
    images = pngs(figures)
    files: dict[str, str | bytes] = {
        "summary.json": strict_json(result.summary | {"history": result.history}),
        "report.html": fewshot_page(result, images),
        "learner.npz": result.file,
    }
    return write_files(out, files | image_files(figures, images))


def fewshot_page(result: "FewShotResult", figures: Mapping[str, bytes] | None = None) -> str:
    """Return the HTML page of a few-shot run.

    Args:
      result: the outcome of a run.
      figures: PNG bytes by name, from `fewshot_figures` and `pngs`; None draws them.
    """
    summary = result.summary
    if figures is None:
        figures = pngs(fewshot_figures(summary, result.history, result.examples))
    return render(
        "fewshot.html.jinja",
        title=f"bilevel fewshot · {summary['dataset']}, {_task(summary)}",
        warnings=fewshot_warnings(result),
        dataset=summary["dataset"],
        accuracy=_unbroken(spread(summary["test_accuracy"], summary["test_interval"])),
        episodes=numeral(summary["test_episodes"]),
        things=_things(summary),
        chance=_unbroken(_guess(summary["chance"])),
        lead=_lead(summary),
        stopped="" if summary["diverged"] else summary["stopped"],
        run=_run(summary),
        figures=figures,
        best_step=numeral(summary["best_step"]),
        by_ways=_by_ways(summary),
        train_ways=numeral(summary["settings"]["train_ways"]),
        examples=[
            (figures[f"episode_{place}"], *_example(episode))
            for place, episode in enumerate(result.examples, 1)
        ],
        settings=_pairs(summary["settings"]),
        environment=_pairs(summary["environment"]),
        command=summary.get("command"),
    )


def fewshot_table(result: "FewShotResult") -> str:
    """Return the terminal's table of a few-shot run, with its warnings below."""
    summary = result.summary
    rows = {
        "": str(summary["algorithm"]),
        "test accuracy": spread(summary["test_accuracy"], summary["test_interval"]),
        "validation": spread(summary["validation_accuracy"], summary["validation_interval"]),
        "chance": _guess(summary["chance"]),
        "steps": numeral(summary["steps"]),
        "time": duration(summary["seconds"]),
        "ms per step": _milliseconds(summary["seconds_per_step"]),
    }
    lines = [
        f"{summary['dataset']}, {_task(summary)}: accuracy on query images, "
        f"{numeral(summary['test_episodes'])} episodes of {_things(summary)} never seen in training",
        "",
        text_table(list(rows), [list(rows.values())]),
    ]
    if summary["stopped"] and not summary["diverged"]:
        lines.append(f"stopped: {summary['stopped']}")
    lines += [f"warning: {warning}" for warning in fewshot_warnings(result)]
    return "\n".join(lines)


def fewshot_warnings(result: "FewShotResult") -> list[str]:
    """Return warnings: divergence, accuracy at chance level, a late fall of accuracy."""
    summary, found = result.summary, []
    if summary["diverged"]:
        found.append(f"The run ended early: {summary['stopped']}")
    test, half, chance = (summary[name] for name in ("test_accuracy", "test_interval", "chance"))
    if test - half <= chance:
        found.append(
            f"The model is no better than chance on {_things(summary)} never seen in training: its accuracy "
            f"is {spread(test, half)}, and chance is {_guess(chance)}."
        )
    steps, accuracy = (np.asarray(result.history[name], float) for name in ("step", "validation_accuracy"))
    # After an interruption the accuracy of a few points may be missing.
    known = np.flatnonzero(np.isfinite(accuracy))
    # Rounded, so that a fall of exactly three points does not count as more than three.
    if round(accuracy[known].max() - accuracy[known[-1]], 9) > FALL:
        best, last = known[accuracy[known].argmax()], known[-1]
        found.append(
            f"Validation accuracy fell from {spread(accuracy[best])} at step {numeral(int(steps[best]))} "
            f"to {spread(accuracy[last])} at step {numeral(int(steps[last]))}; "
            f"the test used the checkpoint of step {numeral(summary['best_step'])}."
        )
    return found


def _guess(chance: float) -> str:
    return f"{100 * chance:.3g} %"


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _milliseconds(seconds: Any) -> str:
    return numeral(1e3 * seconds) if is_number(seconds) else ABSENT


def _mebibytes(value: Any) -> str:
    return f"{value:,.0f} MiB" if is_number(value) else ABSENT


def _things(summary: Mapping[str, Any]) -> str:
    return "characters" if "omniglot" in str(summary["dataset"]).lower() else "classes"


def _task(summary: Mapping[str, Any]) -> str:
    return f"{_count(summary['ways'], 'way')} {_count(summary['shots'], 'shot')}"


def _lead(summary: Mapping[str, Any]) -> str:
    trained = summary["settings"]["train_ways"]
    training = (
        "" if trained == summary["ways"] else f"In training a task has {_count(trained, 'class', 'es')}. "
    )
    return (
        f"Trained by {summary['algorithm']} in {_count(summary['steps'], 'step')} of "
        f"{_count(summary['batch_tasks'], 'task')} ({duration(summary['seconds'])}). "
        f"A task: learn {_count(summary['ways'], 'class', 'es')} from {_count(summary['shots'], 'image')} of "
        f"each, then classify {_count(summary['queries'], 'query image')} of each. "
        f"{training}Network: {summary['network']}, {_count(summary['parameters'], 'parameter')}."
    )


def _run(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("test accuracy", spread(summary["test_accuracy"], summary["test_interval"])),
        ("validation accuracy", spread(summary["validation_accuracy"], summary["validation_interval"])),
        ("best step", numeral(summary["best_step"])),
        ("steps", numeral(summary["steps"])),
        ("training", duration(summary["seconds"])),
        ("time per step", duration(summary["seconds_per_step"])),
        ("compiling", duration(summary["compile_seconds"])),
        ("peak memory", _mebibytes(summary["peak_mib"])),
        ("seed", str(summary["seed"])),
    ]


def _by_ways(summary: Mapping[str, Any]) -> Table:
    columns = [Column("ways"), Column("accuracy"), Column("chance"), Column("errors")]
    rows = []
    for row in sorted(summary["accuracy_by_ways"], key=lambda row: row["ways"]):
        accuracy, chance = row["accuracy"], 1 / row["ways"]
        rows.append(
            [
                Cell(numeral(row["ways"]), row["ways"], "chosen" if row["ways"] == summary["ways"] else ""),
                Cell(spread(accuracy, row["interval"]), accuracy),
                Cell(_guess(chance), chance),
                Cell(spread(1 - accuracy), 1 - accuracy),
            ]
        )
    return Table(columns, rows)


def _example(episode: "AnsweredEpisode") -> tuple[str, str]:
    """Return the counts of query images shown and of right answers, as text."""
    shown, right = drawn(episode), np.asarray(episode.predictions) == np.asarray(episode.labels)
    most = int(np.bincount(np.asarray(episode.labels)[shown], minlength=1).max())
    each = f"{numeral(most)} of each class" if shown.size >= len(episode.support) else "of some classes"
    which = "all" if shown.size == right.size else f"{each}, wrong answers first"
    return (
        f"{numeral(shown.size)} of {_count(right.size, 'query image')} are shown ({which})",
        f"{numeral(int(right[shown].sum()))} of these and {numeral(int(right.sum()))} of all are right",
    )


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name).replace("_", " "), numeral(value)) for name, value in values.items()]


def _count(number: Any, noun: str, plural: str = "s") -> str:
    return f"{numeral(number)} {noun}" + ("" if number == 1 else plural)
