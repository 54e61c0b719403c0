"""What the newsgroup runs say: numbers, words, figures."""

from typing import Any

from bilevel.report.tables import Cell, Column, Table
from bilevel_claims.figures import Line, line_figure
from bilevel_claims.tables import cost_table
from bilevel_claims.types import Finding, Picture, at_most, near

FIXED, CODE, LONG = "strengths fixed", "stocBiO, step 0.5", "stocBiO, step 20, Q = 30"
FULL = ("AID-FP", "AID-CG", "ITD")
# Test losses after 50 outer steps, computed before in NumPy and SciPy.
NOTED = {FIXED: 1.507, CODE: 1.515, LONG: 1.489, "ITD": 1.470, "AID-FP": 1.467, "AID-CG": 1.361}
COLOURS = {"stocBiO": 0, LONG: 0, CODE: 5, "AID-FP": 1, "AID-CG": 2, "ITD": 3, FIXED: 6}
QUANTITIES = ("test loss", "test accuracy", "validation loss", "least x", "greatest x")


def report(reads, noted_reads, noted, tuned, searches, budget, size) -> Finding:
    """Numbers, words and figures of the noted and of the tuned runs."""
    given = {run.label: run.last("test loss") for run in noted}
    ends = {run.label: run.last("test loss") for run in tuned}
    moved = next(max(run.last("greatest x"), -run.last("least x")) for run in noted if run.label == CODE)
    full_label = min(FULL, key=lambda label: ends[label])
    numbers: dict[str, Any] = {}
    if size == "small":
        numbers |= {
            f"notes' settings: test loss of {label}": near(given[label], want, 0.01)
            for label, want in NOTED.items()
        }
    numbers |= {
        "notes' settings: greatest |x| of stocBiO with step 0.5": at_most(moved, 0.1),
        "tuned, equal rows: test loss, stocBiO over the best on full batches": at_most(
            ends["stocBiO"] / ends[full_label], 1
        ),
        "tuned, equal rows: test loss, stocBiO over strengths fixed": at_most(
            ends["stocBiO"] / ends[FIXED], 1
        ),
    }
    words = (
        f"Tuned alike, each with {budget:,} rows read, stocBiO ends at a test loss of {ends['stocBiO']:.3f}, "
        f"the best on full batches, {full_label}, at {ends[full_label]:.3f}, and inner steps alone, the "
        f"strengths fixed, at {ends[FIXED]:.3f}. With the step 0.5 of the official code the series is near "
        f"5.5 times the identity: no strength moves by more than {moved:.4f} in 50 steps of the notes' "
        f"settings, and the loss, {given[CODE]:.3f}, is that of the inner steps ({given[FIXED]:.3f} on full "
        f"batches). With step 20 and 30 terms it is {given[LONG]:.3f}. After 50 steps on full batches, which "
        f"read {noted_reads['AID-CG'] / noted_reads[CODE]:.1f} times the rows, AID-CG is at "
        f"{given['AID-CG']:.3f}, AID-FP at {given['AID-FP']:.3f}, ITD at {given['ITD']:.3f}."
    )

    def drawn(runs, reads):
        return [
            Line(
                run.label,
                run.steps * reads[run.label],
                run.values["test loss"],
                colour=COLOURS[run.label],
                dash=2 if run.label == FIXED else None,
            )
            for run in runs
        ]

    caption = (
        "Cross entropy on test messages, by gradients and products of single rows; dotted: inner steps "
        "alone. Median of three seeds, the band their range."
    )
    rows = "training and validation rows read"
    top = 1.25 * given[FIXED]
    figures = [
        Picture(
            "Tuned",
            line_figure(
                "20 Newsgroups, tuned alike",
                rows,
                "test loss",
                drawn(tuned, reads),
                log="",
                limits=(0.85 * min(ends.values()), top),
            ),
            caption,
        ),
        Picture(
            "The settings of the notes",
            line_figure(
                "20 Newsgroups, 50 outer steps",
                rows,
                "test loss",
                drawn(noted, noted_reads),
                log="x",
                limits=(0.95 * min(given.values()), top),
            ),
            caption + " Inner and outer step 100 for all.",
        ),
    ]
    tables = [
        ("Tuned, at the end", ends_table(tuned)),
        ("The settings of the notes, at the end", ends_table(noted)),
        ("What it cost, tuned", cost_table(tuned)),
        ("What it cost, the settings of the notes", cost_table(noted)),
    ]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


def ends_table(curves) -> Table:
    """What was measured last, medians over the seeds."""
    columns = [Column("method", numeric=False), *map(Column, QUANTITIES)]
    rows = [[Cell(run.label), *(Cell.of(run.last(name)) for name in QUANTITIES)] for run in curves]
    return Table(columns, rows)
