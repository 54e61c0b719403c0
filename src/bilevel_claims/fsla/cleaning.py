"""Entry fsla-cleaning: FSLA on noisy MNIST, with and without momentum, constant and falling steps."""

from functools import partial

import numpy as np

from bilevel.algorithms import fsla, nsbo, soba, stocbio
from bilevel.optimizers import power
from bilevel_claims import references
from bilevel_claims.experiment import ends
from bilevel_claims.problems import noisy_images as noisy
from bilevel_claims.problems.noisy_images import ERROR, LOSS, RIGHT_ONLY, TIE, UNCLEANED
from bilevel_claims.schedules import by_ratio, falling
from bilevel_claims.tables import cost_table
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
PAIRS = {f"{label}, {schedule}": (label, schedule) for label in METHODS for schedule in SCHEDULES}
STYLES = {name: {"colour": place // 2, "dash": place % 2} for place, name in enumerate(PAIRS)}
# Falling steps start higher: all methods have the wider grid.
WIDE = noisy.AXES | {"inner": (0.01, 0.03, 0.1, 0.3, 1.0)}


def run(size: str) -> Finding:
    """Tune every method with both schedules alike on MNIST, and run each with three seeds."""
    images = noisy.noisy_images("mnist", **noisy.ROWS[size])

    def build(make, schedule, inner_optimizer, outer_optimizer):
        rates = {"inner_optimizer": inner_optimizer, "outer_optimizer": outer_optimizer}
        if schedule == CONSTANT:
            return make(images.problem, **rates)
        # The series of stocBiO keeps its rate: a falling one would shorten the adjoint.
        kept = {"rate": inner_optimizer} if make is stocbio else {}
        return falling(partial(make, images.problem, **kept), **rates)

    builds = {k: by_ratio(partial(build, METHODS[label], s)) for k, (label, s) in PAIRS.items()}
    return _report(images.baselines, *noisy.tune_all(images, builds, size, WIDE))


def _report(baselines, searches, runs) -> Finding:
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
    share = better(FSLA) / baselines[UNCLEANED]
    over_soba, over_stocbio = (better(FSLA) - better(label) for label in ("SOBA", "stocBiO"))
    late_soba, late_stocbio = (better(FSLA, late) - better(label, late) for label in ("SOBA", "stocBiO"))
    half, mean = "mean test error of the second half", "mean of FSLA with and without momentum"
    by_code = "last test error: FSLA as published code runs it, all falling, less the better stocBiO"
    numbers = {
        "last test error, better schedules: FSLA less stocBiO": at_most(over_stocbio, TIE),
        "last test error, better schedules: FSLA less SOBA": at_most(over_soba, TIE),
        by_code: at_most(last[f"{FADING}, {FALLING}"] - better("stocBiO"), TIE),
        "last test error: FSLA (better schedule) over no cleaning": at_most(share, 0.95),
        f"{half}, better schedules: FSLA less SOBA": at_most(late_soba, TIE),
        f"{half}, better schedules: FSLA less stocBiO": at_most(late_stocbio, TIE),
        f"last test error: falling less constant steps, {mean}": shown(by_schedule),
        "last test error: FSLA without less with momentum, mean of both schedules": shown(by_momentum),
        f"last validation loss: falling less constant steps, {mean}": shown(loss_schedule),
        "last validation loss: FSLA without less with momentum, mean of both schedules": shown(loss_momentum),
    }
    words = (
        f"FSLA ends with a test error of {better(FSLA):.3f}, SOBA {better('SOBA'):.3f}, NSBO "
        f"{better('NSBO T=1'):.3f} and stocBiO {better('stocBiO'):.3f}, each with the schedule of its lower "
        f"validation loss; {baselines[UNCLEANED]:.3f} without cleaning, {baselines[RIGHT_ONLY]:.3f} with the "
        f"right rows only. Means of the second half: FSLA {better(FSLA, late):.3f}, SOBA "
        f"{better('SOBA', late):.3f}, stocBiO {better('stocBiO', late):.3f}."
    )
    caption = "Steps constant (solid) or falling as 1/sqrt(k) (dashed). Median and range of three runs."
    own = FSLA, PLAIN, FADING
    variants = [run for run in runs if PAIRS[run.label][0] in own]
    methods = [run for run in runs if PAIRS[run.label][0] not in own[1:]]
    figures = [noisy.errors_of("FSLA, test error", variants, baselines, caption, STYLES)]
    figures += [noisy.errors_of("Methods, test error", methods, baselines, caption, STYLES)]
    tables = [("At the end", noisy.ends_of(runs, baselines)), ("What it cost", cost_table(runs))]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables, searches=searches)


CLAIM = Claim(
    name="fsla-cleaning",
    title="FSLA cleans as well as methods with loops",
    paper=references.FSLA,
    statement="FSLA, without any loop inside the hypergradient, does as well as methods with loops on "
    "several tasks (abstract; that MNIST hyper-cleaning is one is not the paper's word).",
    known=noisy.KNOWN | {"steps": "all, and the momentum, fall as 1/sqrt(k + 1) (third-party code)"},
    ours=noisy.OURS
    | {
        "steps": "constant and falling, each searched on one seed by validation loss, the same grid for all",
        "weight of the momentum": "0.1, 1 (none), and 0.1 falling",
        "compared with": "SOBA, NSBO-SGD T=1, stocBiO (10 inner steps, 10 terms), each with both schedules",
        "budget": "9,000 oracle calls, as 1,285 steps of FSLA (size paper: 300,000)",
    },
    run=run,
    float64=False,
)
