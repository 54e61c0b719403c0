"""The check of a problem and of the responses to it."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.checking import faults, losses
from bilevel.checking.curves import broken_step, enough_steps, inner_curves, linear_curves
from bilevel.checking.flat import Flat, flatten, vector
from bilevel.checking.projections import of_projections
from bilevel.checking.reference import (
    Reference,
    Spectrum,
    active_constraints,
    free_spectrum,
    inner_spectrum,
    solve_reference,
)
from bilevel.checking.report import Report
from bilevel.checking.rows import Answer, ask, compared
from bilevel.checking.usual import BASELINES, Settings, inner_solver, settings_for, usual_responses
from bilevel.environment import environment
from bilevel.hypergradient import as_variables
from bilevel.response import Response
from bilevel.sampling import Full, Host
from bilevel.types import Batch, Optimizer, Problem, PyTree, require


def check(
    problem: Problem,
    x: PyTree,
    y: PyTree,
    batch: Batch,
    *,
    responses: Mapping[str, Response] | None = None,
    key: Any = None,
    inner_optimizer: Optimizer | None = None,
    inner_steps: int | None = None,
    linear_steps: int | None = None,
    tolerance: float = 0.01,
    curves: bool = True,
) -> Report:
    """Compare hypergradients with a float64 reference, and say what is wrong.

    The reference solves the inner problem to rounding by Newton's method, from the y of the first
    response, so that all stay near one minimum. Its adjoint comes from a dense solve where y has at most
    500 entries, and from conjugate gradients otherwise. Central differences of f(x, y*(x)) along random
    directions control it. The losses must accept float64 variables and data.

    If the data come by minibatch, every minibatch is the whole set here: sampling noise is not an error.

    Args:
      problem: the two losses.
      x, y: outer variable, and the start of the inner solver.
      batch: the data, as `run` takes them.
      responses: what to compare, by name; default: implicit with CG and with a Neumann series, unrolled,
        truncated, first-order and zeroth-order, with the settings below.
      key: random key for responses that need one; default: `jax.random.key(0)`.
      inner_optimizer: inner optimiser of the usual responses, or a step size; default: 1 / L, where L is
        the largest eigenvalue of the inner Hessian at the start.
      inner_steps: inner steps of the usual responses; default: from the condition number, at most 2,000.
      linear_steps: iterations of their linear solvers; default: from the condition number.
      tolerance: relative error above which a hypergradient counts as wrong.
      curves: whether to measure the error against inner and linear steps.

    Returns:
      A `Report`. `print` shows its table, and `bilevel.report.write_check` writes a page.

    Raises:
      ValueError: if the losses cannot be evaluated, or a response fails.

    Cost: some seconds on a small problem, most of them compilation. A dense solve makes one Hessian
    product per entry of y for each Newton step.

    >>> from bilevel import full
    >>> ridge = Problem(
    ...     outer=lambda x, y, batch: jnp.sum((y - 1) ** 2),
    ...     inner=lambda x, y, batch: jnp.sum((y - 2) ** 2 + jnp.exp(x) * y**2),
    ... )
    >>> check(ridge, 0.5, jnp.zeros(3), full(None, None), curves=False).ok
    True
    """
    require(tolerance > 0, "tolerance must be positive", tolerance)
    require(inner_steps is None or inner_steps >= 1, "inner_steps must be at least 1", inner_steps)
    require(linear_steps is None or linear_steps >= 1, "linear_steps must be at least 1", linear_steps)
    x, y = as_variables(x, y)
    key = jax.random.key(0) if key is None else key
    batch, notes = _whole(batch)
    require(
        responses is None or isinstance(responses, Mapping),
        "responses must be a mapping of names to responses, such as {'mine': implicit(...)}",
        type(responses).__name__,
    )
    _require_losses(problem, x, y, batch)

    findings = losses.not_finite(problem, x, y, batch)
    findings += [] if findings else losses.not_repeatable(problem, x, y, batch)
    findings += of_projections(problem, x, y)
    if findings:
        return _report(findings, [*notes, "Nothing else was checked."])
    findings = losses.unread_data(problem, x, y, batch)
    flat = _flatten(problem, x, y, batch)
    start_spectrum = inner_spectrum(flat, flat.x, flat.y)
    start = float(np.linalg.norm(flat.inner_slope(flat.x, flat.y)))
    settings = settings_for(start_spectrum, flat.y.size, inner_optimizer, inner_steps, linear_steps)
    usual = responses is None
    chosen = usual_responses(problem, settings) if responses is None else dict(responses)
    answers = {name: ask(name, one, problem, x, y, batch, key) for name, one in chosen.items()}

    first = next(iter(answers.values())).y if answers else _trained(problem, settings, x, y, batch)
    # A solver that diverges leaves a y at which differences are noise.
    far = 1e4 * (1 + float(np.abs(flat.y).max(initial=0)))
    begin = first if np.abs(first).max(initial=0) <= far else flat.y
    follows = not usual and any(np.abs(answer.gradient).max(initial=0) > 0 for answer in answers.values())
    unread = losses.dependence(flat, x, y, losses.probes(flat, begin), follows)
    reference = solve_reference(flat, begin)
    at = reference.y if reference.solved else begin
    spectrum = free_spectrum(flat, flat.x, at)
    residuals = {name: inner_residual(flat, answer.y) for name, answer in answers.items()}
    findings += unread
    rows = [
        compared(name, chosen[name], answer, reference, residuals[name]) for name, answer in answers.items()
    ]
    if not unread:
        spectral = faults.of_spectrum(spectrum, reference.solved)
        diverged = not np.isfinite(first).all()
        point = faults.Point(
            problem=problem,
            flat=flat,
            x=x,
            y=y,
            batch=batch,
            reference=reference,
            spectrum=spectrum,
            tolerance=tolerance,
            ill_posed=bool(spectral),
            broken_step=broken_step(problem, settings, x, y, batch) if usual and diverged else "",
        )
        found, remarks = [], []
        if diverged and spectrum.indefinite and not reference.solved:
            spectral = []  # g has no minimum, and no setting of a response mends it
        elif not reference.solved or _agrees(flat, reference):
            found, remarks = _judge(answers, rows, point, usual, settings, start)
        if spectral and rows and not found and spectrum.singular and _sound(flat, reference):
            remarks.append(f"{spectral.pop()} Here f does not see it: its hypergradient is well defined.")
        findings += spectral + found
        notes += remarks
    if not findings:
        findings += _reference_findings(flat, reference)
    notes += _notes(flat, reference, spectrum)
    if rows and any(text.startswith("A stop_gradient lies between") for text in unread):
        notes.append("The reference has the same fault: the errors of the table mean nothing.")
    drawn: dict[str, Any] = {"inner_steps": {}, "linear_steps": {}}
    if curves and reference.solved and not unread:
        drawn["inner_steps"] = inner_curves(problem, flat, reference, settings, x, y, batch)
        if flat.project is None:
            drawn["linear_steps"] = linear_curves(flat, reference, settings)
    return _report(findings, notes, rows, reference, spectrum, drawn, settings, tolerance)


def inner_residual(flat: Flat, y: np.ndarray) -> float:
    """Return |g_y| at y, or |y - P(y - g_y)| with an inner set."""
    slope = flat.inner_slope(flat.x, y)
    return float(np.linalg.norm(slope if flat.project is None else y - flat.project(y - slope)))


def _whole(batch) -> tuple[Batch, list[str]]:
    """Return the batch whose every minibatch is the whole set, or the first one if there is no set."""
    if not isinstance(batch, Batch):
        raise ValueError(
            "batch must be a Batch of two sources, made by `full` or `minibatches`, "
            f"got {type(batch).__name__}"
        )
    sources, notes = [], []
    for level, source in batch._asdict().items():
        if isinstance(source, Host):
            sources.append(Full(source.fetch(0)))
            notes.append(f"The {level} data come from the host: the check reads their first minibatch.")
            continue
        if source.is_full:
            sources.append(source)
            continue
        try:
            sources.append(source.whole())
            notes.append(f"The {level} data come by minibatch: every minibatch is the whole set here.")
        except ValueError:  # examples that are generated have no whole set
            first = source.view(source.plan(jax.random.key(0), 0, 1))[0]
            sources.append(Full(first))
            notes.append(f"The {level} data have no whole set: the check reads one minibatch.")

    def on_device(leaf):
        # In the precision of the variables: NumPy arrays are often float64 where JAX computes in float32.
        return jnp.asarray(leaf) if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc" else leaf

    return jax.tree.map(on_device, Batch(*sources)), notes


def _require_losses(problem, x, y, batch):
    for name, loss, minibatch in (
        ("outer", problem.outer, batch.outer[0]),
        ("inner", problem.inner, batch.inner[0]),
    ):
        try:
            shape = jax.eval_shape(loss, x, y, minibatch)
        except Exception as error:
            raise ValueError(
                f"the {name} loss fails at x, y and its first minibatch: {type(error).__name__}: {error}"
            ) from error
        if getattr(shape, "shape", None) != ():
            raise ValueError(f"the {name} loss must return a scalar, got {shape}; take a mean or a sum")


def _flatten(problem, x, y, batch) -> Flat:
    flat = flatten(problem, x, y, batch.outer[0], batch.inner[0])
    for name, loss in (("outer", flat.outer), ("inner", flat.inner)):
        try:
            loss(flat.x, flat.y)
        except Exception as error:
            raise ValueError(
                f"the reference needs losses that accept float64, but the {name} loss fails there: "
                f"{type(error).__name__}: {error}"
            ) from error
    return flat


def _trained(problem, settings: Settings, x, y, batch) -> np.ndarray:
    return vector(jax.jit(inner_solver(problem, settings).solve)(x, y, batch))


def _agrees(flat, reference: Reference) -> bool:
    """Return whether central differences agree with the reference."""
    return reference.control <= max(0.02, 100 * flat.rounding ** (2 / 3))


def _sound(flat, reference: Reference) -> bool:
    """Return whether the reference is consistent: a solved system, and differences that agree."""
    return reference.solved and _agrees(flat, reference) and not reference.linear_residual > 1e-6


def _reference_findings(flat, reference: Reference) -> list[str]:
    """Return why there is no reference, or why it is not sound."""
    there = float(flat.outer(flat.x, reference.y)) if np.isfinite(reference.y).all() else 0.0
    if not np.isfinite(there):
        return [f"f is {there:g} at the inner solution, though it is finite at the start."]
    if reference.solved:
        if _sound(flat, reference):
            return []
        return [
            "The reference is uncertain: central differences of f(x, y*(x)) differ from it by a share of "
            f"{reference.control:.2g}, and its linear residual is {reference.linear_residual:.2g}. y*(x) is "
            "not smooth here, or the losses compute in low precision. The responses are not judged."
        ]
    return [
        "No minimum of g was found from this y: Newton's method ends at |g_y| "
        f"{reference.inner_residual:.2g}. Is g bounded from below? Add an L2 term to g, or start y elsewhere."
    ]


def _judge(answers: Mapping[str, Answer], rows, point, usual, settings: Settings, start):
    """Return the findings and the remarks on the answers."""
    findings, notes, unsolved = [], [], []
    reference = point.reference
    for row in rows:
        name, answer = row.response, answers[row.response]
        if not reference.solved:
            if not np.isfinite(answer.gradient).all():
                findings += faults.of_answer(name, answer, row, point, exact=False)[0]
            continue
        if usual and name in BASELINES:
            continue
        found, miss = faults.of_answer(
            name, answer, row, point, exact=not usual, path=usual and name == "unrolled"
        )
        # A series that is slow where CG is not is a matter of settings.
        slow = usual and name == "implicit(neumann)" and not findings
        (notes if slow else findings).extend(found)
        unsolved += [] if miss is None else [miss]
    steps = enough = None
    if usual and unsolved:
        steps = settings.inner_steps
        enough = enough_steps(
            point.problem, point.flat, reference, settings, point.x, point.y, point.batch, point.tolerance
        )
    findings += faults.of_unsolved(unsolved, start, steps, enough, point)
    return list(dict.fromkeys(findings)), notes


def _notes(flat, reference: Reference, spectrum: Spectrum) -> list[str]:
    if not reference.solved:
        return ["There is no reference, so the errors are unknown."]
    size = flat.y.size
    condition = (
        "" if not math.isfinite(spectrum.condition) else f"; condition number {spectrum.condition:.3g}"
    )
    notes = [
        f"Reference: {reference.method}, float64, y of {size:,} {'entry' if size == 1 else 'entries'}, "
        f"|g_y| {reference.inner_residual:.1g}; central differences "
        f"{'agree to' if _agrees(flat, reference) else 'differ by'} {reference.control:.1g}{condition}."
    ]
    if flat.rounding > 1e-15:
        notes.append(
            f"The losses round to {flat.rounding:.1g} even where their input is float64, so the reference is "
            "less exact."
        )
    if flat.project is not None:
        active = active_constraints(flat, flat.x, reference.y)
        notes.append(f"Active constraints of the inner set: {active}. The reference holds them fixed.")
    return notes


def _report(
    findings, notes, rows=(), reference=None, spectrum=None, curves=None, settings=None, tolerance=None
):
    numbers = {} if settings is None else settings._asdict() | {"tolerance": tolerance}
    optimizer = numbers.get("inner_optimizer")
    if optimizer is not None and not isinstance(optimizer, float | int):
        numbers["inner_optimizer"] = getattr(optimizer, "__name__", type(optimizer).__name__)
    about = {}
    if reference is not None:
        about = {
            "method": reference.method,
            "solved": reference.solved,
            "gradient_norm": float(np.linalg.norm(reference.gradient)),
            "inner_residual": reference.inner_residual,
            "linear_residual": reference.linear_residual,
            "central_difference_error": reference.control,
        }
    edges = {} if spectrum is None else spectrum._asdict() | {"condition": spectrum.condition}
    return Report(
        findings=tuple(findings),
        notes=tuple(notes),
        rows=tuple(rows),
        reference=about,
        spectrum=edges,
        curves=curves or {"inner_steps": {}, "linear_steps": {}},
        settings=numbers,
        environment=environment(),
    )
