"""Entry pzobo-shallow: PZOBO on a linear representation, and with few outer entries."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel.algorithms import itd_bio, pzobo
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.response import first_order
from bilevel.sampling import full
from bilevel.types import Problem
from bilevel_claims import references
from bilevel_claims.experiment import STEPS, Experiment, Trajectory, ends, log_points, trajectory
from bilevel_claims.figures import picture_of
from bilevel_claims.pzobo import contest
from bilevel_claims.pzobo.contest import AID, AID_CG, CODE, DIRECT, HOZOG, ITD, KNOWN, ONE, OURS, STYLES
from bilevel_claims.pzobo.hozog import hozog
from bilevel_claims.tables import value_table
from bilevel_claims.types import Claim, Finding, at_least, cited


def run(size: str) -> Finding:
    """Run all methods with the code's settings, then tuned; then on 20 outer entries."""
    sizes, rows, steps = ((64, 128), 500, 100) if size == "small" else ((128, 256), 1000, 150)
    functions = lambda layers, y, t: t @ layers[0] @ y, lambda x, y, t: t @ (x[0] @ y)
    problem = contest.representation(sizes, rows, 0.05, *functions)
    settings: Any = {"inner_steps": 20, "cg_steps": 20, "steps": steps, "smoothing": 0.01}
    settings |= {"rates": {"": 0.05, HOZOG: 0.1, AID_CG: 0.05 if size == "small" else 0.01}}
    settings |= {"counts": (1, 10, 50), "grid": (0.01, 0.03, 0.1, 0.3, 1.0), "trials": range(100, 110)}
    runs, few = contest.run_contest(*problem, **settings), few_entries()
    first, phi = few[0].values["Phi"][0, 0], ends(few, "Phi")
    share = (first - phi[ONE]) / (first - phi[ITD])
    more = {"20 outer entries: share of ITD's descent, PZOBO with Q = 1": at_least(share, 0.95)}
    limits, without = {HOZOG: 1, AID: 1, DIRECT: 0.7}, ((AID_CG,), (AID_CG, CODE))
    finding = contest.report("Linear representation", AID, limits, more, runs, without)
    caption = (
        "Gradient descent with one step for all; five draws of the directions. HOZOG, left out, is PZOBO."
    )
    looks: Any = {"heading": "20 outer entries, no direct term", "styles": STYLES, "log": "x"}
    table = "Phi by outer steps, 20 entries", value_table(few, "Phi", [0, 50, 200, 1000], STEPS)
    shown = [run for run in few if run.label != HOZOG]
    return finding._replace(
        words=f"{finding.words} With 20 outer entries and no direct term PZOBO with Q = 1 makes "
        f"{100 * share:.1f} % of the descent of ITD.",
        figures=[*finding.figures, picture_of("Few outer entries", shown, "Phi", STEPS, caption, **looks)],
        tables=[*finding.tables[:2], table, *finding.tables[2:]],
    )


def few_entries() -> list[Trajectory]:
    """Return runs with 20 entries of x, none of them in f."""
    rng = np.random.default_rng(0)
    truth = (np.arange(20) < 5) * 1.0
    tables = (rng.normal(size=(rows, 20)) for rows in (40, 200))
    train, valid = ((table, table @ truth + rng.normal(size=len(table))) for table in tables)

    def outer(x, y, batch):
        return 0.5 * jnp.mean((batch[0] @ y - batch[1]) ** 2)

    def inner(x, y, batch):
        return outer(x, y, batch) + jnp.sum(jax.nn.sigmoid(x) * y**2)

    problem, data = Problem(outer, inner), full(*jax.tree.map(jnp.asarray, (valid, train)))

    def measure(state, held):
        table, targets = held.inner[0]
        hessian = table.T @ table / len(table) + 2 * jnp.diag(jax.nn.sigmoid(state.x))
        y = jnp.linalg.solve(hessian, table.T @ targets / len(table))
        return {"Phi": outer(state.x, y, held.outer[0])}

    start = jnp.full(20, -2.0), jnp.zeros(20)
    experiment = Experiment(data, lambda key: start, measure, held=data, seeds=range(5))
    rates = {"inner_optimizer": 0.2, "outer_optimizer": 2.0, "inner_steps": 50, "warm": False}
    methods = {
        ITD: itd_bio(problem, **rates),
        contest.named(20): pzobo(problem, **rates, directions=20),
        ONE: pzobo(problem, **rates, directions=1),
        HOZOG: hozog(problem, **rates),
        DIRECT: nested(problem, first_order(descend(problem, 0.2, 50)), optax.sgd(2.0), warm=False),
    }
    points = np.union1d(log_points(1000, 40), [50, 200])
    return [trajectory(label, method, experiment, points) for label, method in methods.items()]


OFFICIAL = {
    "problem": "f, g: least squares of rows X x y, 500 rows, x 64 by 128, y 128; 0.05 |y|^2 in g",
    "inner solve": "20 steps of 0.001 from one fixed start; length of the perturbation 0.01",
    "outer step": "100 of Adam, 0.05, HOZOG 0.1, AID-CG 0.01 at the large size",
    "last f": "PZOBO 0.0185, AID-FP 0.0773, AID-CG 0.0665, HOZOG 16.9",
}
HERE = {
    "problem": "the same (size paper: 1,000 rows, x 128 by 256); and 20 penalties of a least squares problem",
    "inner solve": "the same; 50 steps of 0.2 with 20 entries",
    "outer step": "the same (size paper: 150); then searched for each method at the oracle calls of these "
    "steps of AID-FP; 1,000 steps of gradient descent of 2 with 20 entries",
    "seeds": "of the directions, 5; 10 others for the search; one start of x and y, standard normal",
}
CLAIM = Claim(
    name="pzobo-shallow",
    title="A Jacobian from differences helps a linear representation",
    paper=references.PZOBO,
    statement="Estimating only the response Jacobian by differences of inner paths is far more effective "
    "than estimating the whole hypergradient as HOZOG does (abstract). On a linear representation it ends "
    "lower and sooner than AID with fixed-point steps or conjugate gradients (output of the official code).",
    known=KNOWN | cited("official code", OFFICIAL),
    ours=OURS | HERE,
    run=run,
)
