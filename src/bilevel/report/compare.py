"""What `bilevel compare` leaves in its folder: the records, figures, and the page that shows them."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from bilevel.report.compare_figures import AXES, compare_figures
from bilevel.report.files import write_files
from bilevel.report.numerals import ABSENT, numeral
from bilevel.report.page import render
from bilevel.report.runs import Record, by_algorithm, last, quantities, standings
from bilevel.report.strict import strict_json
from bilevel.report.tables import Cell, Column, Table

CAPTIONS = {
    "step": "Against steps: what one step achieves.",
    "seconds": "Against seconds on this machine, compiling left out.",
    "oracle_calls": "Against gradients, Hessian and cross products: the cost that no machine changes.",
}


def write_comparison(records: Sequence[Record], out: str | os.PathLike) -> list[Path]:
    """Paths of `results.json`, `report.html` and the figures, written together.

    Args:
      records: one dict a run: task, dataset, algorithm, seed, hyperparameters, history, final,
        compile_seconds, diverged, environment.
      out: the output folder, made when it does not exist; other files in it stay as they are.

    Raises:
      ValueError: the folder cannot be made or written.
    """
    figures = compare_figures(records)
    files: dict[str, str | bytes] = {
        "results.json": strict_json(records),
        "report.html": compare_page(records, figures),
    }
    return write_files(out, files | {f"{name}.png": png for name, png in figures.items()})


def compare_page(records: Sequence[Record], figures: Mapping[str, bytes] | None = None) -> str:
    """The HTML page of a comparison.

    Args:
      records: one dict a run, as in `write_comparison`.
      figures: PNG bytes by name from `compare_figures`, drawn when not given.
    """
    figures = compare_figures(records) if figures is None else figures
    groups = by_algorithm(records)
    seeds = max((len(runs) for runs in groups.values()), default=0)
    subject = " · ".join(dict.fromkeys(str(record[key]) for record in records for key in ("task", "dataset")))
    best, loss = _best(groups)
    return render(
        "compare.html.jinja",
        title=f"bilevel compare · {subject}",
        warnings=[_divergence(record) for record in records if record.get("diverged")],
        subject=subject,
        best=best,
        best_loss=loss,
        lead=f"{_count(len(groups), 'algorithm')}, one task, one budget, {_count(seeds, 'seed')} each.",
        standings=standings(records),
        curves=[
            (name.replace("_", " ").capitalize(), [(axis, figures[f"{name}_by_{axis}"]) for axis in AXES])
            for name in quantities(records)
        ],
        captions=CAPTIONS,
        settings=_settings(groups),
        environment=[
            (name.replace("_", " "), numeral(value))
            for name, value in _first(records, "environment").items()
            if name != "command"
        ],
        command=str(_first(records, "environment").get("command", "")),
    )


def _best(groups: Mapping[str, Sequence[Record]]) -> tuple[str, str]:
    means = {}
    for name, runs in groups.items():
        losses = [last(run, "outer_loss") for run in runs if not run.get("diverged")]
        known = [loss for loss in losses if loss is not None]
        if known:
            means[name] = sum(known) / len(known)
    best = min(means, key=means.__getitem__, default="")
    return best, f"{means[best]:.3g}" if best else ""


def _divergence(record: Record) -> str:
    return f"Seed {record['seed']} of {record['algorithm']}: {record['diverged']}"


def _settings(groups: Mapping[str, Sequence[Record]]) -> Table:
    chosen = {name: runs[0].get("hyperparameters") or {} for name, runs in groups.items()}
    names = list(dict.fromkeys(name for values in chosen.values() for name in values))
    columns = [Column("algorithm", numeric=False), *[Column(name.replace("_", " ")) for name in names]]
    rows = [
        [Cell(algorithm), *[Cell.of(values[name]) if name in values else Cell(ABSENT) for name in names]]
        for algorithm, values in chosen.items()
    ]
    return Table(columns, rows)


def _first(records: Sequence[Record], key: str) -> Mapping:
    return (records[0].get(key) if records else None) or {}


def _count(number: int, noun: str) -> str:
    return f"{numeral(number)} {noun}" + ("s" if number != 1 else "")
