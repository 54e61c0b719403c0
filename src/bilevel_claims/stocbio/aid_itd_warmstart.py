"""Entry aid-itd-warmstart: AID with and without its warm starts, and the floor of ITD."""

from itertools import product

import numpy as np

from bilevel.algorithms import aid_bio, itd_bio
from bilevel.linear import cg
from bilevel.tasks import worst_case
from bilevel_claims import references
from bilevel_claims.experiment import STEPS, Experiment, log_points, trajectory
from bilevel_claims.figures import Line, picture, picture_of
from bilevel_claims.tables import cost_table
from bilevel_claims.types import Claim, Finding, at_least, at_most

STARTS = ("warm y and v", "warm y only", "warm v only", "neither")
INNER_STEPS, NORM = (5, 10, 20, 40, 80), "stationarity"


def run(size: str) -> Finding:
    """Run AID with each warm start on and off, and ITD with more and more inner steps."""
    dim, convexity, steps = (60, 0.05, 3000) if size == "small" else (200, 0.02, 20_000)
    task = worst_case(dim=dim, outer_convexity=0.1, inner_convexity=convexity)
    rates = {"inner_optimizer": task.inner_step, "outer_optimizer": 0.5 * task.outer_step}
    data, points = task.data, np.union1d(log_points(steps), [steps // 2])
    experiment = Experiment(data, task.start, lambda s, held: task.metrics(s.x, s.y, held), held=task.held)

    def aid(label, y, v):
        loops = {"inner_steps": 10, "linear_solver": cg(2), "warm_y": y, "warm_v": v}
        return trajectory(f"AID, {label}", aid_bio(task.problem, **rates, **loops), experiment, points)

    def itd(count, warm):
        algorithm = itd_bio(task.problem, **rates, inner_steps=count, warm=warm)
        return trajectory(f"ITD, D = {count}, {'warm' if warm else 'cold'} y", algorithm, experiment, points)

    starts = [aid(label, *warm) for label, warm in zip(STARTS, product((True, False), repeat=2), strict=True)]
    warm, cold = ([itd(count, start) for count in INNER_STEPS] for start in (True, False))
    return _report(starts, warm, cold, (1 - task.inner_step * convexity) ** np.array(INNER_STEPS))


def _report(starts, warm, cold, rate) -> Finding:
    best, *others = (run.last(NORM) for run in starts)
    floors, colds = ([run.last(NORM) for run in runs] for runs in (warm, cold))
    halfway = np.searchsorted(warm[0].steps, warm[0].steps[-1] // 2)
    falls = [1 - run.values[NORM][0, -1] / run.values[NORM][0, halfway] for run in warm]
    numbers = {
        "AID, both starts warm: last gradient": at_most(best, 1e-10),
        "AID, any other choice: least last gradient": at_least(min(others), 1e-3),
        "ITD, warm y, any D: least last gradient": at_least(min(floors), 1e-6),
        "ITD, warm y, any D: greatest fall in the second half of the steps": at_most(max(falls), 0.01),
        "ITD, warm y: last gradient at D = 5 over that at D = 80": at_least(floors[0] / floors[-1], 20),
    }
    words = (
        f"With 10 inner steps and 2 of conjugate gradients, AID ends at a gradient of {best:.1g} when y and "
        f"v both start warm, and at {min(others):.2g} or more when either starts afresh. ITD with a warm y "
        f"ends at {floors[0]:.2g} with 5 inner steps and at {floors[-1]:.2g} with 80."
    )
    equal = "10 inner steps and 2 of conjugate gradients; the starts of y and v differ."
    through = "The dashed line is the rate of the truncation bias, drawn through the last warm point."
    y = "norm of the exact gradient"
    lines = [Line(k, INNER_STEPS, v, marked=True) for k, v in (("warm y", floors), ("cold y", colds))]
    lines += [Line("(1 - step x mu)^D", INNER_STEPS, rate * floors[-1] / rate[-1], guide=True)]
    title = "AID with and without its warm starts"
    figures = [
        picture_of(title, starts, NORM, STEPS, equal, y=y, styles={"AID, neither": {"dash": 1}}, log="xy"),
        picture("The floor of ITD", "inner steps D", f"last {y}", lines, through, log="y"),
    ]
    tables = [("What it cost", cost_table([*starts, *warm, *cold]))]
    return Finding(words=words, numbers=numbers, figures=figures, tables=tables)


CLAIM = Claim(
    name="aid-itd-warmstart",
    title="Warm starts free AID of its floor, ITD keeps one",
    paper=references.STOCBIO,
    statement="AID-BiO with warm y and v reaches any accuracy with the same inner and linear steps; ITD-BiO "
    "with D inner steps keeps a bias of about (1 - step x mu)^D. (Theorems as we remember them.)",
    known={
        "inner step": "at most 1 / L (as we remember the theorems)",
        "inner steps D": "of the order of kappa for AID, of kappa log(1 / accuracy) for ITD (as we remember)",
    },
    ours={
        "problem": "worst-case quadratic of arXiv:2102.03926 (as we remember it): smoothness 1, mu_x = 0.1, "
        "mu_y = 0.05, 60 entries (size paper: 0.02, 200); start at 0",
        "inner step": "1 / (largest eigenvalue of H)",
        "inner steps D": "10 for AID, and 2 steps of conjugate gradients; 5, 10, 20, 40 and 80 for ITD",
        "outer steps": "3,000 (size paper: 20,000) of 0.5 / (largest eigenvalue of the Hessian of Phi)",
    },
    run=run,
)
