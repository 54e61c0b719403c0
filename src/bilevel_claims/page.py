"""Pages of `bilevel reproduce`: one for each claim, and an index of all."""

import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bilevel.report.files import write_files
from bilevel.report.page import render
from bilevel.report.strict import strict_json
from bilevel.report.tables import Cell, Column, Table
from bilevel.text import ABSENT, duration, is_number, numeral
from bilevel_claims.types import VERDICTS, Run, Search

UNRUN, FAILED = "not run", "failed"
# Classes of the style sheet, and the plurals of the verdicts.
MARKS = {"holds": "holds", "holds in part": "part", "does not hold": "fails", FAILED: "fails", UNRUN: "open"}
PLURALS = {"holds": "hold", "holds in part": "hold in part", "does not hold": "do not hold"}
AXES = {"inner": "inner step", "ratio": "ratio of inner to outer step"}
ANSWERS = {None: Cell(ABSENT), True: Cell("yes", mark="right"), False: Cell("no", mark="alarm")}


def write_run(run: Run, out: str | os.PathLike) -> list[Path]:
    """Write `finding.json`, `report.html` and the figures of a run; return their paths."""
    files = {"finding.json": strict_json(finding_record(run)), "report.html": run_page(run)}
    return write_files(out, files | figure_files(run))


def write_index(runs: Sequence[Run], out: str | os.PathLike) -> list[Path]:
    """Write `index.html` and `findings.json` of all runs; return their paths."""
    records = [finding_record(run) for run in runs]
    return write_files(out, {"findings.json": strict_json(records), "index.html": index_page(runs)})


def finding_record(run: Run) -> dict[str, Any]:
    """Return a run as plain data, with figures by file name."""
    finding, facts = run.finding, ("name", "title", "paper", "statement", "known", "ours")
    record = {name: getattr(run.claim, name) for name in facts}
    record |= {"size": run.size, "verdict": _verdict(run), "failure": run.failure or None}
    record |= {name: getattr(run, name) for name in ("seconds", "environment", "command")}
    if finding:
        tables = {title: _plain_table(table) for title, table in finding.tables}
        record |= {"words": finding.words, "numbers": finding.numbers, "figures": list(figure_files(run))}
        record |= {"tables": tables, "searches": [search._asdict() for search in finding.searches]}
    return record


def figure_files(run: Run) -> dict[str, bytes]:
    """Return the figures by file name, which their titles make."""
    figures = run.finding.figures if run.finding else ()
    names = [re.sub("[^a-z0-9]+", "_", picture.title.lower()).strip("_") for picture in figures]
    return {f"{name}.png": picture.png for name, picture in zip(names, figures, strict=True)}


def run_page(run: Run) -> str:
    """Return the HTML page of a run that has a finding."""
    claim, finding = run.claim, run.finding
    if finding is None:
        raise ValueError(f"a page needs a finding, and {claim.name} has none; run it first")
    first = first_sentence(finding.words)
    return render(
        "claim.html.jinja",
        folder=Path(__file__).parent,
        title=f"bilevel reproduce · {claim.title}",
        warnings=[_edge(search) for search in finding.searches if search.edge],
        claim=claim,
        finding=finding,
        words=[first, finding.words.removeprefix(first).strip()],
        mark=MARKS[finding.verdict],
        numbers=_numbers(finding.numbers),
        settings=_settings(claim),
        searches=[(_best(search), search, _trials(search)) for search in finding.searches],
        environment=[("size", run.size), ("seconds", duration(run.seconds)), *_environment(run)],
        command=run.command,
    )


def index_page(runs: Sequence[Run]) -> str:
    """Return the HTML page that lists all runs."""
    verdicts = [run.finding.verdict for run in runs if run.finding]
    done = len(verdicts) + sum(bool(run.failure) for run in runs)
    counts = [(name, verdicts.count(name)) for name in VERDICTS if name in verdicts]
    entries = []
    for run in runs:
        entry = {"claim": run.claim, "verdict": _verdict(run), "mark": MARKS[_verdict(run)]}
        entry["words"] = first_sentence(run.finding.words) if run.finding else run.failure
        entry["link"] = f"{run.claim.name}/report.html" if run.finding else ""
        entries.append(entry | {"seconds": duration(run.seconds), "value": run.seconds})
    return render(
        "index.html.jinja",
        folder=Path(__file__).parent,
        title="bilevel reproduce",
        warnings=[f"{run.claim.name} failed: {run.failure}" for run in runs if run.failure],
        entries=entries,
        counts=[(count, MARKS[name], name if count == 1 else PLURALS[name]) for name, count in counts],
        done=done,
        total=len(runs),
        size=runs[0].size if runs else "",
        seconds=duration(sum(run.seconds or 0.0 for run in runs)),
        # Each claim has its own precision.
        environment=[pair for run in runs[:1] for pair in _environment(run) if pair[0] != "float"],
    )


def summary(run: Run) -> str:
    """Return name, verdict and seconds in one line, then the words, for the terminal."""
    line = f"{run.claim.name}: {_verdict(run)} ({duration(run.seconds)})"
    words = textwrap.fill(run.finding.words if run.finding else run.failure, 100)
    return f"{line}\n{textwrap.indent(words, '  ')}\n"


def first_sentence(words: str) -> str:
    """Return the first sentence of some words."""
    return re.split(r"(?<=[.!?]) (?=[A-Z])", words, maxsplit=1)[0]


def _trial_value(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _verdict(run: Run) -> str:
    return run.finding.verdict if run.finding else FAILED if run.failure else UNRUN


def _numbers(numbers: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = [Column(title, title == "value") for title in ("holds", "quantity", "value", "needed")]
    rows = []
    for name, number in numbers.items():
        value = Cell.of(number["value"]) if is_number(number["value"]) else Cell("not finite", mark="alarm")
        rows.append([ANSWERS[number["holds"]], Cell(name), value, Cell(number["rule"] or "shown only")])
    return Table(columns, rows)


def _settings(claim) -> list[tuple[str, str, str]]:
    names = dict.fromkeys([*claim.known, *claim.ours])
    return [(name, numeral(claim.known.get(name)), numeral(claim.ours.get(name))) for name in names]


def _axis(name: str) -> str:
    return AXES.get(name, name.replace("_optimizer", "_step").replace("_", " "))


def _best(search: Search) -> str:
    return ", ".join(f"{_axis(name)} {_trial_value(value)}" for name, value in search.best.items())


def _edge(search: Search) -> str:
    names = " and ".join(map(_axis, search.edge))
    return f"The best {names} of {search.method} is at the edge of its grid; values beyond it may do better."


def _trials(search: Search) -> Table:
    """Return the trials as a table, the last axis across, with the best one marked."""
    *down, across = search.axes
    titles = [_axis(name) for name in down[:-1]]
    titles.append(f"{_axis(down[-1])} ↓, {_axis(across)} →" if down else f"{_axis(across)} →")
    columns = [Column(title, numeric=False) for title in titles]
    columns += [Column(_trial_value(value)) for value in search.axes[across]]
    scores = np.asarray(search.scores, float)
    best, rows = np.argmin(scores), []
    for place in np.ndindex(scores.shape[:-1]):
        cells = [Cell(_trial_value(search.axes[name][i])) for name, i in zip(down, place, strict=True)]
        cells = cells or [Cell("score")]
        for j, score in enumerate(scores[place]):
            chosen = np.ravel_multi_index((*place, j), scores.shape) == best
            value, text = (float(score), f"{score:.4g}") if np.isfinite(score) else (None, "diverged")
            cells.append(Cell(text, value, "best" if chosen else "alarm" if value is None else ""))
        rows.append(cells)
    return Table(columns, rows)


def _environment(run: Run) -> list[tuple[str, str]]:
    return [(name, numeral(value)) for name, value in run.environment.items()]


def _plain_table(table: Table) -> list[dict[str, Any]]:
    titles = [column.title for column in table.columns]
    rows = [[cell.text if cell.value is None else cell.value for cell in row] for row in table.rows]
    return [dict(zip(titles, row, strict=True)) for row in rows]
