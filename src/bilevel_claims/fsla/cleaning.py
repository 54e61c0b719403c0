"""Entry fsla-cleaning: FSLA on noisy MNIST, with and without momentum, constant and falling steps."""

from functools import partial
from typing import Any

import numpy as np

from bilevel.algorithms import fsla, nsbo, soba, stocbio
from bilevel.combinators import power
from bilevel_claims import references
from bilevel_claims.experiment import CALLS, ends
from bilevel_claims.figures import picture_of
from bilevel_claims.problems.noisy_images import (
    AXES,
    BUDGET,
    ERROR,
    KNOWN,
    LOSS,
    MEASURES,
    OURS,
    RIGHT_ONLY,
    ROWS,
    TIE,
    UNCLEANED,
    baseline_lines,
    baseline_rows,
    noisy_images,
)
from bilevel_claims.schedules import by_ratio, falling
from bilevel_claims.search import tune
from bilevel_claims.tables import cost_table, table
from bilevel_claims.types import Claim, Finding, at_most, shown

SCHEDULES = CONSTANT, FALLING = "constant", "falling"
FSLA, PLAIN, FADING = "FSLA", "FSLA, no momentum", "FSLA, weight falls too"
METHODS = {
    FSLA: partial(fsla, weight=0.1),
    PLAIN: partial(fsla, weight=1.0),
    FADING: partial(fsla, weight=power(0.5, scale=0.1)),
    "SOBA": soba,
    "NSBO T=1": nsbo,
    "stocBiO": stocbio,
}
STYLES = {
    f"{label}, {schedule}": {"colour": place, "dash": dash}
    for place, label in enumerate(METHODS)
    for dash, schedule in enumerate(SCHEDULES)
}
# Falling steps start higher: all methods have the wider grid.
WIDE = AXES | {"inner": (0.01, 0.03, 0.1, 0.3, 1.0)}


def run(size: str) -> Finding:
    """Tune every method with both schedules alike on MNIST, and run each with three seeds."""
    images = noisy_images("mnist", **ROWS[size])

    def build(make, schedule, inner_optimizer, outer_optimizer):
        rates = {"inner_optimizer": inner_optimizer, "outer_optimizer": outer_optimizer}
        if schedule == CONSTANT:
            return make(images.problem, **rates)
        # The series of stocBiO keeps its rate: a falling one would shorten the adjoint.
        kept = {"rate": inner_optimizer} if make is stocbio else {}
        return falling(partial(make, images.problem, **kept), **rates)

    builds = {
        f"{label}, {schedule}": by_ratio(partial(build, make, schedule))
        for label, make in METHODS.items()
        for schedule in SCHEDULES
    }
    searches, runs = tune(
        builds, WIDE, images.experiment, score=LOSS, calls=BUDGET[size], seeds=(100,), shown=40
    )
    return report(images.baselines, searches, runs)


def report(baselines, searches, runs) -> Finding:
    """Return the finding from all runs."""
    last, losses = ends(runs, ERROR), ends(runs, LOSS)
    late = {run.label: run.late(ERROR) for run in runs}

    def better(label, errors=last):
        """Return the test error with the schedule of the lower validation loss."""
        return errors[min((f"{label}, {s}" for s in SCHEDULES), key=lambda name: losses[name])]

    def effects(values):
        """Return the mean gain by constant over falling steps, and by momentum over none."""
        both = np.array([[values[f"{label}, {s}"] for s in SCHEDULES] for label in (FSLA, PLAIN)])
        return (both[:, 1] - both[:, 0]).mean(), (both[1] - both[0]).mean()

    (by_schedule, by_momentum), (loss_schedule, loss_momentum) = effects(last), effects(losses)
    published, share = last[f"{FADING}, {FALLING}"], better(FSLA) / baselines[UNCLEANED]
    over_soba, over_stocbio = (better(FSLA) - better(label) for label in ("SOBA", "stocBiO"))
    late_soba, late_stocbio = (better(FSLA, late) - better(label, late) for label in ("SOBA", "stocBiO"))
    numbers = {
        "last test error, better schedules: FSLA less stocBiO": at_most(over_stocbio, TIE),
        "last test error, better schedules: FSLA less SOBA": at_most(over_soba, TIE),
        "last test error: FSLA as published code runs it, all falling, less the better stocBiO": at_most(
            published - better("stocBiO"), TIE
        ),
        "last test error: FSLA (better schedule) over no cleaning": at_most(share, 0.95),
        "mean test error of the second half, better schedules: FSLA less SOBA": at_most(late_soba, TIE),
        "mean test error of the second half, better schedules: FSLA less stocBiO": at_most(late_stocbio, TIE),
        "test error: falling less constant steps, mean of FSLA with and without momentum": shown(by_schedule),
        "test error: FSLA without less with momentum, mean of both schedules": shown(by_momentum),
        "validation loss: falling less constant steps, mean of FSLA with and without momentum": shown(
            loss_schedule
        ),
        "validation loss: FSLA without less with momentum, mean of both schedules": shown(loss_momentum),
    }
    words = (
        f"FSLA ends with a test error of {better(FSLA):.3f}, SOBA {better('SOBA'):.3f}, NSBO "
        f"{better('NSBO T=1'):.3f} and stocBiO {better('stocBiO'):.3f}, each with the schedule of its lower "
        f"validation loss; {baselines[UNCLEANED]:.3f} without cleaning, {baselines[RIGHT_ONLY]:.3f} with "
        f"the right rows only. The means over the second half of the runs are {better(FSLA, late):.3f} for "
        f"FSLA, {better('SOBA', late):.3f} for SOBA and {better('stocBiO', late):.3f} for stocBiO. Constant "
        f"instead of falling steps change FSLA's validation loss by {-loss_schedule:+.3f}, momentum by "
        f"{-loss_momentum:+.3f}."
    )
    caption = "Steps constant (solid) or falling as 1/sqrt(k) (dashed). Median and range of three runs."
    grey = f"{caption} Grey: without cleaning (dashed) and with the right rows only (dotted)."
    low, least = min(*last.values(), *baselines.values()), min(losses.values())
    errors: Any = {"more": baseline_lines(baselines, runs[0].calls[-1]), "limits": (low - 0.01, low + 0.12)}

    def drawn(title, labels, quantity, caption, **looks):
        some = [run for run in runs if run.label.rsplit(", ", 1)[0] in labels]
        title = f"{title}, {quantity}"
        return picture_of(title, some, quantity, CALLS, caption, styles=STYLES, log="", **looks)

    figures = [
        drawn("FSLA", (FSLA, PLAIN, FADING), ERROR, grey, **errors),
        drawn("Methods", (FSLA, "SOBA", "NSBO T=1", "stocBiO"), ERROR, grey, **errors),
        drawn("FSLA", (FSLA, PLAIN, FADING), LOSS, caption, limits=(0.95 * least, 1.6 * least)),
    ]
    rows = [[*run.label.rsplit(", ", 1), *map(run.last, MEASURES), late[run.label]] for run in runs]
    rows += [[label, "", *values] for label, *values in baseline_rows(baselines, 5)]
    titles = ["method", "steps", *MEASURES, "test error, mean of the second half"]
    tables = [("At the end", table(titles, rows)), ("What it cost", cost_table(runs))]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


CLAIM = Claim(
    name="fsla-cleaning",
    title="FSLA cleans as well as methods with loops",
    paper=references.FSLA,
    statement="FSLA, without any loop inside the hypergradient, does as well as methods with loops on "
    "several learning tasks (abstract; that MNIST hyper-cleaning is one is not the paper's word). "
    "Benchmarks of others find it behind; whether its momentum or its falling steps are the reason is our "
    "question.",
    known=KNOWN
    | {
        "steps": "all fall as 1/sqrt(k + 1) (third-party code)",
        "weight of the momentum": "falls as 1/sqrt(k + 1) (third-party code)",
    },
    ours=OURS
    | {
        "steps": "constant and falling, each searched on one seed by validation loss, the same grid for all",
        "weight of the momentum": "0.1, 1 (none), and 0.1 falling",
        "compared with": "SOBA, NSBO-SGD T=1, stocBiO (10 inner steps, 10 terms), each with both schedules",
        "budget": "9,000 oracle calls, as 1,285 steps of FSLA (size paper: 300,000)",
    },
    run=run,
    float64=False,
)
