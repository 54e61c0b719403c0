"""The responses that a check compares when the user names none."""

import math
from typing import Any, NamedTuple

from bilevel.checking.reference import Spectrum
from bilevel.inner import InnerSolver, descend
from bilevel.linear import cg, neumann
from bilevel.response import Response, first_order, implicit, unrolled, zeroth_order
from bilevel.types import Optimizer, Problem

# Responses that are biased or noisy by design: their error is shown, and it is not a fault.
BASELINES = ("truncated", "first_order", "zeroth_order")


class Settings(NamedTuple):
    """Settings of the usual responses.

    Attributes:
      inner_optimizer: an optax optimiser, or a step size.
      inner_steps: steps of the inner solver.
      cg_steps, neumann_terms: iterations of the two linear solvers.
      rate: step of the Neumann series.
      directions: directions of `zeroth_order`.
    """

    inner_optimizer: Any
    inner_steps: int
    cg_steps: int
    neumann_terms: int
    rate: float
    directions: int


def settings_for(
    spectrum: Spectrum,
    size: int,
    inner_optimizer: Optimizer | None,
    inner_steps: int | None,
    linear_steps: int | None,
) -> Settings:
    """Return the settings of the user, completed from the spectrum of the inner Hessian.

    The step size is 1 / L, and the numbers of steps reach an error of about 1e-5 for the condition
    number L / mu, within limits.

    Args:
      spectrum: edges of the spectrum at the start.
      size: entries of y.
      inner_optimizer, inner_steps, linear_steps: choices of the user, or None.
    """
    rate = 1 / spectrum.largest if 0 < spectrum.largest < math.inf else 1.0
    condition = spectrum.condition if math.isfinite(spectrum.condition) else 8.0

    def steps(wanted, least, most):
        return int(min(max(math.ceil(wanted), least), most))

    return Settings(
        inner_optimizer=rate if inner_optimizer is None else inner_optimizer,
        inner_steps=steps(12 * condition, 20, 2000) if inner_steps is None else inner_steps,
        cg_steps=linear_steps or steps(6 * condition**0.5, 4, min(size, 200) + 2),
        neumann_terms=linear_steps or steps(12 * condition, 20, 2000),
        rate=rate,
        directions=20,
    )


def inner_solver(problem: Problem, settings: Settings) -> InnerSolver:
    """Return the inner solver of the usual responses."""
    return descend(problem, settings.inner_optimizer, settings.inner_steps)


def usual_responses(problem: Problem, settings: Settings) -> dict[str, Response]:
    """Return the responses that a user would try, by name."""
    solver = inner_solver(problem, settings)
    last = max(1, settings.inner_steps // 10)
    short = descend(
        problem, settings.inner_optimizer, settings.inner_steps, last=min(last, settings.inner_steps)
    )
    return {
        "implicit(cg)": implicit(problem, solver, cg(settings.cg_steps)),
        "implicit(neumann)": implicit(problem, solver, neumann(settings.neumann_terms, settings.rate)),
        "unrolled": unrolled(solver),
        "truncated": unrolled(short),
        "first_order": first_order(solver),
        "zeroth_order": zeroth_order(solver, settings.directions),
    }
