"""Methods that the cleaning and the newsgroup entry compare at equal numbers of rows read."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from bilevel.algorithms import aid_bio, itd_bio, stocbio
from bilevel.linear import cg, richardson
from bilevel.types import Algorithm, Problem
from bilevel_claims.experiment import Axis
from bilevel_claims.search import grid
from bilevel_claims.types import Search

FULL, WARM, FIXED = ("AID-FP", "AID-CG", "ITD"), "AID-CG, warm v", "fixed x"
OURS = {
    "HOAG": "left out: in the official code it is stocBiO on full batches",
    "ITD": "reads the rows once for the two products of an inner step",
}


class Method(NamedTuple):
    """A method and the rows that it reads."""

    build: Callable[..., Algorithm]  # by `inner_optimizer` and `outer_optimizer`
    batch: int | None  # None means all rows, and then nothing is random
    rows: float  # of both losses in one outer step, on average where their number is random


def other_methods(problem: Problem, rows: Sequence[int], steps: Sequence[int]) -> dict[str, Method]:
    """Return the methods of `FULL` and `WARM`, and `FIXED`, which only makes inner steps on minibatches.

    `rows` are those of g, of f and of a minibatch; `steps` the inner steps and the linear steps of AID-FP and
    of AID-CG.
    """
    inner, series, conjugate = steps

    def build(algorithm, inner_optimizer, outer_optimizer, **more):
        rates = {"inner_optimizer": inner_optimizer, "outer_optimizer": outer_optimizer}
        return algorithm(problem, **rates, inner_steps=inner, **more)

    def fixed_point(**rates):
        solver = richardson(series, rates["inner_optimizer"])
        return build(aid_bio, **rates, linear_solver=solver, warm_v=False)

    def fixed(inner_optimizer, outer_optimizer=0.0):
        rates = {"inner_optimizer": inner_optimizer, "outer_optimizer": 0.0}
        return stocbio(problem, **rates, inner_steps=inner, terms=0)

    gradients = partial(build, aid_bio, linear_solver=cg(conjugate))
    readings = {
        "AID-FP": (fixed_point, inner + series + 1),
        "AID-CG": (partial(gradients, warm_v=False), inner + conjugate + 2),
        WARM: (partial(gradients, warm_v=True), inner + conjugate + 2),
        "ITD": (partial(build, itd_bio), 2 * inner),
    }
    full = {label: Method(make, None, count * rows[0] + rows[1]) for label, (make, count) in readings.items()}
    return full | {FIXED: Method(fixed, rows[2], inner * rows[2])}


def search_rows(label: str, method: Method, axes: dict, trials: list, budget: float) -> Search:
    """Return the search of a method by its tuning loss, for a budget of rows read."""
    search = grid(label, method.build, axes, trials, score="tuning loss", steps=int(budget / method.rows))
    return search._replace(budget=f"{budget:,} rows read")


def rows_read(methods: Mapping[str, Method]) -> Axis:
    """Return the axis of rows of both losses read."""
    return Axis("rows of both losses read", lambda run: run.steps * methods[run.label].rows)
