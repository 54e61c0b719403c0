"""Output of `bilevel compare`: records, figures, page, and table for the terminal."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from bilevel.report.compare_figures import AXES, compare_figures
from bilevel.report.compare_statistics import Record, by_algorithm, last, quantities
from bilevel.report.figures import image_files, pngs
from bilevel.report.files import write_files
from bilevel.report.page import render
from bilevel.report.strict import strict_json
from bilevel.report.tables import Cell, Column, Table
from bilevel.text import ABSENT, duration, numeral, text_table

CAPTIONS = {
    "step": "Against steps: the progress of each step.",
    "seconds": "Against seconds on this machine, without compilation.",
    "oracle_calls": "Against gradients, Hessian and cross products: the same cost on every machine.",
}


def write_comparison(records: Sequence[Record], out: str | os.PathLike) -> list[Path]:
    """Write `results.json`, `report.html` and figures; return the paths.

    Args:
      records: records of the runs, from `bilevel.comparison.compare`.
      out: output folder, created if missing; other files in it are kept.

    Raises:
      ValueError: the folder cannot be created or written.
    """
    figures = compare_figures(records)
    drawn = pngs(figures)
    files: dict[str, str | bytes] = {
        "results.json": strict_json(records),
        "report.html": compare_page(records, drawn),
    }
    return write_files(out, files | image_files(figures, drawn))


def compare_page(records: Sequence[Record], figures: Mapping[str, bytes] | None = None) -> str:
    """Return the HTML page of a comparison.

    Args:
      records: records of the runs, from `bilevel.comparison.compare`.
      figures: PNG bytes by name, from `compare_figures` and `pngs`; None draws them.
    """
    figures = pngs(compare_figures(records)) if figures is None else figures
    groups = by_algorithm(records)
    subject = " · ".join(dict.fromkeys(str(records[0][key]) for key in ("task", "dataset")))
    environment = dict(records[0]["environment"])
    command = environment.pop("command", "")
    best, loss = _best(groups)
    return render(
        "compare.html.jinja",
        title=f"bilevel compare · {subject}",
        warnings=[
            f"Seed {record['seed']} of {record['algorithm']}: {record['diverged']}"
            for record in records
            if record["diverged"]
        ],
        subject=subject,
        best=best,
        best_loss=loss,
        all_diverged=all(record["diverged"] for record in records),
        lead=_lead(records, groups),
        standings=standings(records),
        curves=[
            (name.replace("_", " ").capitalize(), [(axis, figures[f"{name}_by_{axis}"]) for axis in AXES])
            for name in quantities(records)
        ],
        captions=CAPTIONS,
        settings=_settings(groups),
        environment=[(name.replace("_", " "), numeral(value)) for name, value in environment.items()],
        command=command,
    )


def comparison_table(records: Sequence[Record]) -> str:
    """Return the table of `standings` as text for the terminal."""
    table = standings(records)
    return text_table(
        [column.title for column in table.columns], [[cell.text for cell in row] for row in table.rows]
    )


def standings(records: Sequence[Record]) -> Table:
    """Return the table of final values and costs, one row per algorithm.

    Means and standard deviations are over all runs. A diverged run counts as infinite, so its algorithm has
    no final values. Its seconds and oracle calls are means over the other runs.
    """
    measured = quantities(records)
    columns = [Column("algorithm", numeric=False), Column("runs")]
    columns += [Column(name.replace("_", " ")) for name in measured]
    columns += [Column("seconds"), Column("oracle calls"), Column("compile")]
    rows = []
    for name, runs in by_algorithm(records).items():
        well = [run for run in runs if not run["diverged"]]
        row = [Cell(name), _runs(len(runs), len(runs) - len(well))]
        row += [_mean_and_deviation([last(run, quantity) for run in runs]) for quantity in measured]
        row += [
            _mean([last(run, "seconds") for run in well], duration),
            _mean([last(run, "oracle_calls") for run in well], lambda calls: numeral(round(calls))),
            _mean([run["compile_seconds"] for run in runs], duration),
        ]
        rows.append(row)
    return Table(columns, rows)


def _runs(count: int, diverged: int) -> Cell:
    if not diverged:
        return Cell.of(count)
    return Cell(f"{count}, {diverged} diverged", float(count - diverged), mark="alarm")


def _mean(values: Sequence[float], look: Callable[[float], str] = numeral) -> Cell:
    if not values:
        return Cell(ABSENT)
    mean = float(np.mean(values))
    return Cell(look(mean), mean)


def _mean_and_deviation(values: Sequence[float]) -> Cell:
    if not np.all(np.isfinite(values)):
        return Cell("diverged", mark="alarm")
    if len(values) < 2:
        return _mean(values)
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    # The deviation gets two significant digits, and the mean the same number of decimals.
    places = 1 - math.floor(math.log10(deviation)) if deviation > 0 else 4
    if places > 7 or abs(mean) + deviation >= 1e7:
        return Cell(f"{mean:.3g} ± {deviation:.2g}", mean)
    places = max(places, 0)
    return Cell(f"{mean:,.{places}f} ± {deviation:,.{places}f}", mean)


def _best(groups: Mapping[str, Sequence[Record]]) -> tuple[str, str]:
    """Return the algorithm of the lowest mean outer loss and this loss, empty if no mean is finite."""
    means = {name: np.mean([last(run, "outer_loss") for run in runs]) for name, runs in groups.items()}
    best = min(means, key=means.__getitem__)
    return (best, f"{means[best]:.3g}") if np.isfinite(means[best]) else ("", "")


def _lead(records: Sequence[Record], groups: Mapping[str, Sequence[Record]]) -> str:
    """Return the sentence below the title, and how many runs diverged."""
    seeds, lost = max(map(len, groups.values())), sum(bool(record["diverged"]) for record in records)
    lead = f"{_count(len(groups), 'algorithm')}, one task, one budget, {_count(seeds, 'seed')} each."
    return f"{lead} {numeral(lost)} of {_count(len(records), 'run')} diverged." if lost else lead


def _settings(groups: Mapping[str, Sequence[Record]]) -> Table:
    chosen = {name: runs[0]["hyperparameters"] for name, runs in groups.items()}
    names = list(dict.fromkeys(name for values in chosen.values() for name in values))
    columns = [Column("algorithm", numeric=False), *[Column(name.replace("_", " ")) for name in names]]
    rows = [
        [Cell(algorithm), *[Cell.of(values[name]) if name in values else Cell(ABSENT) for name in names]]
        for algorithm, values in chosen.items()
    ]
    return Table(columns, rows)


def _count(number: int, noun: str) -> str:
    return f"{numeral(number)} {noun}" + ("s" if number != 1 else "")
