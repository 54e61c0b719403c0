"""The default of every hyper-parameter of every algorithm, and where it comes from."""

import pytest

from bilevel import algorithms
from bilevel.response import gaussian

# The bilevel benchmark of benchopt: 10 inner steps, and 10 products or terms for the adjoint.
BENCHOPT = dict(inner_steps=10, terms=10)


DEFAULTS = {
    # 15 sqrt(condition) steps in each solve reach rounding errors, here at a condition number of 10.
    "accbio": dict(
        inner_condition=10.0,
        outer_condition=10.0,
        inner_steps=50,
        linear_steps=50,
        rate=None,
        ridge=0.0,
        warm=False,
    ),
    "accbio_bg": dict(inner_condition=10.0, outer_condition=10.0, inner_steps=50, linear_steps=50, rate=None),
    # Both warm starts: without them the error has a floor.
    "aid_bio": dict(inner_steps=10, linear_solver=None, warm_y=True, warm_v=True),
    "amigo": dict(inner_steps=10, linear_solver=None),
    "anil": dict(features_optimizer=None, inner_steps=10, vectorize=True),
    # BOME's experiments: phi = 0.5 |grad q|^2 and 10 inner steps.
    "bome": dict(penalised_optimizer=None, inner_steps=10, control=0.5, barrier="gradient"),
    "bsa": BENCHOPT | dict(rate=None, inner_exponent=0.5, outer_exponent=0.5),
    # The error is proportional to the perturbation.
    "constrained_first_order": dict(inner_steps=10, constraint=None, dual_step=0.1, perturbation=0.01),
    # The authors' code of DARTS: differences of length 0.01 / |f_y|.
    "darts": dict(virtual_step=None, difference=0.01),
    # A constant penalty leaves an error of 1 / penalty. Paired minibatches have the same mean and less noise.
    "f2sa": dict(inner_steps=10, penalty=10.0, order=1, paired=True),
    "f3sa": dict(penalty=10.0, weight=0.1),
    "fo_blo": dict(inner_steps=10, start=None, tasks=False, vectorize=True),
    "fo_itd_bio": dict(inner_steps=10, warm=True),
    "fomaml": dict(inner_steps=5, vectorize=True),
    # benchopt: the weight starts at 0.1. Momentum on x alone, as in its code.
    "fsla": dict(adjoint_optimizer=None, weight=0.1, momentum="outer"),
    # Tolerances that fall from 0.1 by factors of 0.9; the numbers of steps are bounds.
    "hoag": dict(inner_steps=1000, linear_steps=100, tolerance=0.1, decay=0.9),
    # The authors' example on Omniglot: 16 steps, 5 steps of conjugate gradients, and a pull of 2.
    "imaml": dict(inner_steps=16, linear_steps=5, damping=0.0, pull=2.0, vectorize=True),
    "itd_bio": dict(inner_steps=10, warm=True),
    # The authors' code of LancBiO: 5 inner steps, and a period that grows to 10 on MNIST.
    "lancbio": dict(inner_steps=5, period=10),
    # One extra step, as in NBO's experiments.
    "ma_nsbo_saga": dict(adjoint_optimizer=None, extra_steps=1, weight=0.1),
    "ma_soba": dict(adjoint_optimizer=None, weight=0.1),
    # caution = 4 is our choice.
    "maml": dict(
        inner_steps=5,
        resample=None,
        smoothness=None,
        hessian_smoothness=1.0,
        caution=4.0,
        recompute=0,
        vectorize=True,
    ),
    "mrbo": dict(
        terms=10, rate=None, inner_weight=1.0, outer_weight=1.0, scale=2.0, offset=8.0, exponent=1 / 3
    ),
    "nbo": dict(adjoint_optimizer=None, extra_steps=1, linear_solver=None, damping=0.0, warm_up=0),
    "nsbo": dict(adjoint_optimizer=None, extra_steps=1, fresh=True, damping=0.0, warm_up=0),
    "nsbo_saga": dict(adjoint_optimizer=None, extra_steps=1),
    "prox_aid": dict(inner_steps=10, linear_steps=10, rate=None, momentum=0.5, prox=None),
    "pzobo": dict(inner_steps=10, directions=10, smoothing=0.01, warm=True, law=gaussian),
    "pzobo_s": dict(inner_steps=10, directions=10, smoothing=0.01, warm=True, law=gaussian),
    "qnbo": dict(plain_steps=5, inner_steps=5, adjoint_steps=5, step_size=1.0, memory=10),
    "reptile": dict(inner_steps=5, resample=None, vectorize=True),
    "reverse": dict(inner_steps=100),
    "saba": dict(adjoint_optimizer=None),
    # The authors' code of SAMA: differences of length 1 / |u|.
    "sama": dict(inner_steps=10, adaptation=None, difference=1.0),
    "shine": dict(inner_steps=10, memory=10, refine=None, fallback=None, warm=False),
    "soba": dict(adjoint_optimizer=None),
    "srba": dict(adjoint_optimizer=None, period=100),
    "stable": dict(weight=0.5, convexity=None, inner_size=1),
    "stocbio": BENCHOPT | dict(rate=None, counts=None),
    "subbio": dict(inner_steps=5, rate=0.1),
    # benchopt: the weight starts at 0.5; weights fall like k^(-2/3) and steps like k^(-1/3).
    "sustain": dict(terms=10, rate=None, weight=0.5, weight_exponent=2 / 3, exponent=1 / 3),
    "truncated": dict(inner_steps=100, last=20, warm=False),
    # benchopt: two time scales, k^(-0.4) for y and k^(-0.6) for x.
    "ttsa": dict(terms=10, rate=None, inner_exponent=0.4, outer_exponent=0.6),
    "ufo_blo": dict(
        inner_steps=10,
        probability=0.2,
        start=None,
        tasks=False,
        vectorize=False,
        recompute=False,
        exponent=1.0,
        decay=0.99,
        least_probability=0.05,
    ),
    # The authors' code of V-PBGD: one inner step.
    "v_pbgd": dict(penalised_optimizer=None, inner_steps=1, penalty=10.0),
    # The authors' code of VRBO: a refresh every 3 steps.
    "vrbo": BENCHOPT | dict(period=3, refresh=None, rate=None),
}


@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_defaults(name):
    parameters = algorithms.hyperparameters(algorithms.ALGORITHMS[name])
    found = {parameter: entry.default for parameter, entry in parameters.items()}
    # Reptile moves x onto the mean of the trained y.
    outer = 1.0 if name == "reptile" else 0.1
    assert found == dict(inner_optimizer=0.1, outer_optimizer=outer) | DEFAULTS[name]
