"""Methods that the cleaning and the newsgroup entry compare at equal numbers of rows read."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from bilevel.algorithms import aid_bio, itd_bio, stocbio
from bilevel.linear import cg, richardson
from bilevel.types import Algorithm, Problem
from bilevel_claims.experiment import Axis, Experiment
from bilevel_claims.search import grid
from bilevel_claims.types import Search

FULL, WARM, FIXED = ("AID-FP", "AID-CG", "ITD"), "AID-CG, warm v", "fixed x"
OURS = {
    "HOAG": "left out: that of the official code is stocBiO on full batches",
    "ITD": "reads the rows once for the two products of an inner step",
}


class Method(NamedTuple):
    """A method and the rows that it reads.

    Attributes:
      build: `(inner_optimizer, outer_optimizer) -> Algorithm`, by keyword.
      batch: size of its minibatches; None means all rows, and then nothing is random.
      rows: rows of both losses read in one outer step, on average where their number is random.
    """

    build: Callable[..., Algorithm]
    batch: int | None
    rows: float


def other_methods(
    problem: Problem,
    rows: tuple[int, int, int],
    steps: tuple[int, int, int],
    descent: Callable[[Any], Any] = lambda rate: rate,
) -> dict[str, Method]:
    """Return the methods of `FULL` and `WARM`, and `FIXED`, which only makes inner steps on minibatches.

    Args:
      problem: the two losses.
      rows: numbers of rows of g, of f and of a minibatch.
      steps: inner steps of all methods, linear steps of AID-FP and of AID-CG.
      descent: maps an outer step to an optimiser.
    """
    inner, series, conjugate = steps

    def settings(inner_optimizer, outer_optimizer):
        optimizers = {"inner_optimizer": inner_optimizer, "outer_optimizer": descent(outer_optimizer)}
        return optimizers | {"inner_steps": inner}

    def fixed_point(**rates):
        solver = richardson(series, rates["inner_optimizer"])
        return aid_bio(problem, **settings(**rates), linear_solver=solver, warm_v=False)

    def gradients(warm, **rates):
        return aid_bio(problem, **settings(**rates), linear_solver=cg(conjugate), warm_v=warm)

    def fixed(inner_optimizer, outer_optimizer=0.0):
        rates = {"inner_optimizer": inner_optimizer, "outer_optimizer": 0.0}
        return stocbio(problem, **rates, inner_steps=inner, terms=0)

    def full(build, readings):
        return Method(build, None, readings * rows[0] + rows[1])

    return {
        "AID-FP": full(fixed_point, inner + series + 1),
        "AID-CG": full(partial(gradients, False), inner + conjugate + 2),
        WARM: full(partial(gradients, True), inner + conjugate + 2),
        "ITD": full(lambda **rates: itd_bio(problem, **settings(**rates)), 2 * inner),
        FIXED: Method(fixed, rows[2], inner * rows[2]),
    }


def search_rows(
    label: str, method: Method, axes: Mapping[str, Any], trials: Sequence[Experiment], budget: float
) -> Search:
    """Return the search of a method by its tuning loss, for a budget of rows read."""
    steps = int(budget / method.rows)
    search = grid(label, method.build, axes, trials, score="tuning loss", steps=steps)
    return search._replace(budget=f"{budget:,} rows read")


def rows_read(methods: Mapping[str, Method]) -> Axis:
    """Return the axis of rows of both losses read."""
    return Axis("rows of both losses read", lambda run: run.steps * methods[run.label].rows)
