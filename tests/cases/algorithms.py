"""Every public algorithm with settings that suit the shared problems: add yours here."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import bilevel as b


class Entry(NamedTuple):
    """An algorithm with the settings of the shared tests.

    Attributes:
      factory: the factory, with settings that suit the shared problems.
      shrink: largest norm of the exact hypergradient after `steps` steps, relative to the start. It is
        above 1e-6 only for a method with a known floor, which a comment names.
      outer: outer step size or optimiser.
      steps: number of steps.
      refuses_inner_projection: whether it refuses a problem with a feasible set of y.
    """

    factory: Callable
    shrink: float = 1e-6
    outer: Any = 0.02
    steps: int = 3000
    refuses_inner_projection: bool = False


class MetaEntry(NamedTuple):
    """An algorithm over tasks, whose x is the start of y, as `test_start_learners.py` runs it.

    Attributes:
      factory: the factory, with settings that suit `problems.few_tasks_case`.
      features: whether x is a head with features, instead of a start only.
      gradient: the direction of the case that it takes; only "exact" ends at a stationary point of the
        loss after its inner steps.
    """

    factory: Callable
    features: bool = False
    gradient: str = "exact"


def falling(count):
    return 0.1 / (1 + count.astype(float) / 20)


ALGORITHMS = {
    "accbio": Entry(b.accbio),
    "accbio_bg": Entry(b.accbio_bg),
    "aid_bio": Entry(partial(b.aid_bio, linear_solver=b.cg(6))),
    "amigo": Entry(b.amigo),
    # The penalised variable stays off the solution by the order of the step size, so the steps fall.
    "bome": Entry(
        partial(b.bome, inner_steps=50, penalised_optimizer=falling),
        shrink=0.01,
        outer=falling,
        refuses_inner_projection=True,
    ),
    # The number of factors is random even on full data. The noise is proportional to the indirect term, which
    # is not zero at the solution, and the steps decay. The same holds for SUSTAIN and TTSA.
    "bsa": Entry(partial(b.bsa, terms=20), shrink=0.05, outer=0.1),
    # The error is of the order of the perturbation.
    "constrained_first_order": Entry(partial(b.constrained_first_order, perturbation=1e-7)),
    # The hypergradient of one inner step is always biased.
    "darts": Entry(b.darts, shrink=0.65),
    # The error is of the order of 1 / penalty.
    "f2sa": Entry(partial(b.f2sa, penalty=1e7)),
    # See F2SA.
    "f3sa": Entry(partial(b.f3sa, penalty=1e7)),
    # Without the indirect term x goes to f_x = 0, where the hypergradient is twice as large as at the start.
    "fo_blo": Entry(partial(b.fo_blo, inner_steps=100), shrink=2.0),
    "fo_itd_bio": Entry(b.fo_itd_bio, shrink=2.0),
    "fsla": Entry(b.fsla),
    # So few inner steps that the first outer steps make all of them: the declared cost is the maximum.
    "hoag": Entry(partial(b.hoag, inner_steps=20, linear_steps=3, tolerance=1e-4)),
    "itd_bio": Entry(partial(b.itd_bio, inner_steps=100)),
    "lancbio": Entry(b.lancbio),
    # The average lags behind, so the step is smaller.
    "ma_nsbo_saga": Entry(partial(b.ma_nsbo_saga, weight=0.5), outer=0.01),
    # The average lags behind, so the step is smaller.
    "ma_soba": Entry(partial(b.ma_soba, weight=0.5), outer=0.01),
    # The step decays, starting at `outer`.
    "mrbo": Entry(partial(b.mrbo, terms=100), outer=0.1),
    "nbo": Entry(b.nbo),
    "nsbo": Entry(b.nsbo),
    "nsbo_saga": Entry(b.nsbo_saga),
    "prox_aid": Entry(partial(b.prox_aid, momentum=0.3)),
    # The noise is proportional to the indirect term, which is not zero at the solution.
    "pzobo": Entry(
        partial(b.pzobo, inner_steps=100, directions=20, smoothing=1e-4), shrink=0.03, outer=falling
    ),
    "pzobo_s": Entry(
        partial(b.pzobo_s, inner_steps=100, directions=20, smoothing=1e-4), shrink=0.03, outer=falling
    ),
    "qnbo": Entry(b.qnbo, refuses_inner_projection=True),
    "reverse": Entry(b.reverse),
    "saba": Entry(b.saba),
    # The identity replaces the inverse Hessian, so it is always biased.
    "sama": Entry(b.sama, shrink=0.35),
    # Its inverse is exact on a quadratic only.
    "shine": Entry(b.shine, shrink=1e-3, refuses_inner_projection=True),
    "soba": Entry(b.soba),
    "srba": Entry(b.srba),
    "stable": Entry(partial(b.stable, inner_size=5), refuses_inner_projection=True),
    "stocbio": Entry(partial(b.stocbio, inner_steps=20, terms=100)),
    "subbio": Entry(b.subbio),
    # See BSA.
    "sustain": Entry(partial(b.sustain, terms=20), shrink=0.05, outer=0.1),
    "truncated": Entry(partial(b.truncated, inner_steps=120, last=100)),
    # See BSA.
    "ttsa": Entry(partial(b.ttsa, terms=20), shrink=0.05, outer=0.1),
    # Here the coin always shows heads; test_ufo.py tests both sides.
    "ufo_blo": Entry(partial(b.ufo_blo, inner_steps=100, probability=1.0)),
    # The error is of the order of 1 / penalty; the step of x is divided by the penalty.
    "v_pbgd": Entry(partial(b.v_pbgd, penalty=20.0), shrink=0.05, outer=0.2),
    "vrbo": Entry(partial(b.vrbo, terms=100)),
}

META = {
    "anil": MetaEntry(partial(b.anil, inner_steps=5), features=True),
    "fomaml": MetaEntry(b.fomaml, gradient="first_order"),
    # y has three entries, so three steps of conjugate gradients are exact.
    "imaml": MetaEntry(partial(b.imaml, inner_steps=60, linear_steps=3, pull=2.0), gradient="implicit"),
    "maml": MetaEntry(b.maml),
    "reptile": MetaEntry(b.reptile, gradient="reptile"),
}
