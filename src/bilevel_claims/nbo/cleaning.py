"""Hyper-cleaning of MNIST and Fashion-MNIST: NSBO-SGD against six others at equal oracle calls."""

from functools import partial

from bilevel.algorithms import amigo, fsla, nsbo, saba, soba, stocbio
from bilevel.report.tables import Cell, Column, Table
from bilevel_claims import references
from bilevel_claims.experiment import CALLS
from bilevel_claims.figures import Line, line_figure
from bilevel_claims.problems.noisy_images import (
    AXES,
    ERROR,
    LOSS,
    RESTING,
    RIGHT,
    RIGHT_ONLY,
    UNCLEANED,
    WRONG,
    noisy_images,
)
from bilevel_claims.search import tune
from bilevel_claims.tables import cost_table, value_table
from bilevel_claims.types import Claim, Finding, Picture, at_most, shown

NSBO, SHORT, LONG = "NSBO T=1", "AmIGO Q=1", "AmIGO Q=10"
NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
TIE, CLOSE = 0.003, 0.01


def run(size: str) -> Finding:
    """Every method tuned alike on both data sets, then three runs of each."""
    small = size == "small"
    sizes = {} if small else {"rows": 20_000, "valid_rows": 5000, "test_rows": 10_000}
    found = {}
    for dataset, name in NAMES.items():
        images = noisy_images(dataset, **sizes)
        setting = images.experiment._replace(seeds=(0, 1, 2))
        makes = {
            NSBO: nsbo,
            SHORT: partial(amigo, inner_steps=1),
            LONG: partial(amigo, inner_steps=10),
            "SOBA": soba,
            "SABA": saba,
            "FSLA": partial(fsla, weight=0.1),
            "stocBiO": stocbio,
        }
        builds = {
            label: lambda inner, ratio, make=make, problem=images.problem: make(
                problem, inner_optimizer=inner, outer_optimizer=inner / ratio
            )
            for label, make in makes.items()
        }
        calls = 9000 if small else 300_000
        found[name] = (
            images.baselines,
            *tune(builds, AXES, setting, score=LOSS, calls=calls, seeds=(100,), shown=40),
        )
    return report(found)


def report(found) -> Finding:
    """Numbers, words and figures of both data sets."""
    numbers, words, figures, tables, searches = {}, [], [], [], []
    for name, (baselines, trials, runs) in found.items():
        ends = {run.label: run.last(ERROR) for run in runs}
        late = {run.label: run.late(ERROR) for run in runs}
        level = min(ends.values()) + CLOSE
        calls = {run.label: run.reaches(ERROR, level, run.calls) for run in runs}
        amigo_end = min(ends[SHORT], ends[LONG])
        others = min(end for label, end in ends.items() if label not in (NSBO, SHORT, LONG))
        soonest = min(count for label, count in calls.items() if label != NSBO)
        numbers |= {
            f"{name}: test error of NSBO less the least of the single loops and stocBiO": at_most(
                ends[NSBO] - others, TIE
            ),
            f"{name}: test error of AmIGO, its better Q, less the same": at_most(amigo_end - others, TIE),
            f"{name}: oracle calls to {CLOSE} above the least error, NSBO over the soonest other": at_most(
                calls[NSBO] / soonest, 1
            ),
            f"{name}, mean over the second half: test error of NSBO less the least of the same": shown(
                late[NSBO] - min(error for label, error in late.items() if label not in (NSBO, SHORT, LONG))
            ),
            f"{name}: test error of NSBO over that without cleaning": at_most(
                ends[NSBO] / baselines[UNCLEANED], 0.95
            ),
        }
        ranked = ", ".join(f"{label} {ends[label]:.3f}" for label in sorted(ends, key=lambda k: ends[k]))
        words.append(
            f"On {name} the test errors after {runs[0].calls[-1]:,} oracle calls are {ranked}, against "
            f"{baselines[UNCLEANED]:.3f} without cleaning and {baselines[RIGHT_ONLY]:.3f} with the right "
            f"rows only. In the mean over the second half NSBO has {late[NSBO]:.3f}, SOBA "
            f"{late['SOBA']:.3f}, AmIGO Q=1 {late[SHORT]:.3f}; NSBO comes within {CLOSE} of the lowest after "
            f"{calls[NSBO]:,.0f} calls, the soonest other after {soonest:,.0f}."
        )
        figures += pictures(name, baselines, runs)
        tables += [
            (f"{name}: at the end", ends_table(runs, calls, baselines)),
            (f"{name}: test error by oracle calls", value_table(runs, ERROR, [1000, 3000, 9000], CALLS)),
            (f"{name}: what it cost", cost_table(runs)),
        ]
        searches += [trial._replace(method=f"{trial.method}, {name}") for trial in trials]
    return Finding(words=" ".join(words), numbers=numbers, figures=figures, tables=tables, searches=searches)


def pictures(name, baselines, runs):
    """Test errors, and what the rows weigh."""
    ends = [0, runs[0].calls[-1]]
    guides = [
        Line(label, ends, [baselines[label]] * 2, dash=dash, guide=True)
        for label, dash in ((UNCLEANED, 1), (RIGHT_ONLY, 2))
    ]
    errors = [Line(run.label, run.calls, run.values[ERROR]) for run in runs]
    weights = []
    for place, run in enumerate(runs):
        if run.label in (SHORT, "SABA"):
            continue
        weights.append(Line(run.label, run.calls, run.values[RIGHT], colour=place, dash=0))
        weights.append(Line("", run.calls, run.values[WRONG], colour=place, dash=1))
    low = min(min(run.last(ERROR) for run in runs), *baselines.values())
    return [
        Picture(
            f"{name}, test error",
            line_figure(
                f"{name}, half of the labels drawn anew",
                "oracle calls",
                ERROR,
                errors + guides,
                log="",
                limits=(low - 0.01, low + 0.12),
            ),
            "All tuned alike, by validation loss. Median and range of three runs; grey: without cleaning "
            "(dashed) and with the right rows only (dotted).",
        ),
        Picture(
            f"{name}, weights of the rows",
            line_figure(
                f"{name}: solid right rows, dashed wrong ones",
                "oracle calls",
                "mean weight",
                weights,
                log="",
            ),
            "Mean weight of the rows whose label is right (solid) and wrong (dashed). AmIGO Q=1 and SABA, "
            "left out here, are in the table.",
        ),
    ]


def ends_table(runs, calls, baselines):
    """What each method ends with, and the baselines."""
    columns = [Column("method", numeric=False), Column(ERROR), Column(LOSS), Column(RIGHT), Column(WRONG)]
    columns.append(Column(f"calls to within {CLOSE} of the lowest error"))
    rows = [
        [Cell(r.label), *(Cell.of(r.last(k)) for k in (ERROR, LOSS, RIGHT, WRONG)), Cell.of(calls[r.label])]
        for r in runs
    ]
    rows += [
        [Cell(label), Cell.of(baselines[label]), *[Cell("")] * 4]
        for label in (UNCLEANED, RESTING, RIGHT_ONLY)
    ]
    return Table(columns, rows)


CLAIM = Claim(
    name="nbo-cleaning",
    title="NSBO-SGD and AmIGO clean best, NSBO-SGD soonest",
    paper=references.NBO,
    statement="On hyper-cleaning of MNIST and Fashion-MNIST at 50 % noise NSBO-SGD and AmIGO reach the "
    "lowest test error, and NSBO-SGD is the fastest. (As published summaries tell its experiment; not the "
    "paper's word.)",
    known={
        "rows": "20,000 training, 5,000 validation, 10,000 test (code of the SOBA authors)",
        "noise": "each label drawn anew among all classes with probability 0.5 (code of the SOBA authors)",
        "inner loss": "mean of sigmoid(x_i) CE_i, plus 0.2 |y|^2 (code of the SOBA authors)",
        "start": "x = -2, y = 0 (code of the SOBA authors)",
        "batch": "64 (code of the SOBA authors)",
        "steps": "SOBA's and FSLA's fall as 1/sqrt(k + 1) (code of the SOBA authors); sizes not known",
        "methods": "a dozen (summaries)",
    },
    ours={
        "rows": "2,000 training, 1,000 validation, 5,000 test (size paper: as known)",
        "noise": "the same, exactly half of the rows",
        "inner loss": "the same",
        "start": "the same",
        "batch": "the same",
        "steps": "constant for all, searched on one seed by validation loss; see fsla-cleaning for falling "
        "ones; where the least inner step was the best, 0.003 was tried apart for four methods on "
        "Fashion-MNIST and was worse",
        "methods": "NSBO-SGD T=1, AmIGO Q=1 and 10, SOBA, SABA, FSLA (weight 0.1), stocBiO (10 inner steps, "
        "10 terms)",
        "budget": "9,000 oracle calls, as 1,000 steps of NSBO-SGD (size paper: 300,000)",
        "lowest": f"at most {TIE} above it: half a standard error of an error rate on 5,000 rows",
        "without cleaning": "one weight for all rows, chosen by validation error (by validation loss it "
        "would be a weaker baseline); the same for the right rows only",
        "seeds": "3",
    },
    run=run,
    float64=False,
)
