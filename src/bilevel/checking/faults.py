"""Faults of an inner solve, of a linear solve, and of a response, in plain sentences."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.checking.flat import Flat, flatten, vector
from bilevel.checking.losses import perturbed
from bilevel.checking.reference import (
    Reference,
    Spectrum,
    active_constraints,
    hypergradient_at,
    implicit_pullback,
)
from bilevel.checking.rows import Answer, Row, cosine, relative_error
from bilevel.sampling import Full
from bilevel.types import Batch, Problem, PyTree


class Point(NamedTuple):
    """What every judgement of a response reads.

    Attributes:
      problem, flat: the problem, as given and on flat vectors.
      x, y, batch: the point.
      reference, spectrum: the reference, and the edges of the inner Hessian there.
      tolerance: relative error above which a hypergradient counts as wrong.
      ill_posed: whether the inner Hessian is indefinite or singular, which explains every linear solve that
        fails.
      broken_step: a sentence on the inner step at which the usual inner solver ceases to be finite.
    """

    problem: Problem
    flat: Flat
    x: PyTree
    y: PyTree
    batch: Batch
    reference: Reference
    spectrum: Spectrum
    tolerance: float
    ill_posed: bool = False
    broken_step: str = ""


class Unsolved(NamedTuple):
    """An answer whose inner problem is not solved: name, residual, error and cosine of the best adjoint."""

    name: str
    residual: float
    error: float
    cosine: float | None


def of_spectrum(spectrum: Spectrum, at_solution: bool) -> list[str]:
    """Return a sentence for an indefinite or a singular inner Hessian.

    Args:
      spectrum: its edges.
      at_solution: whether they were measured where g_y is zero.
    """
    if not math.isfinite(spectrum.smallest):
        return ["The inner Hessian is not finite at the inner solution."]
    smallest = rounded(spectrum.smallest)
    if spectrum.indefinite and at_solution:
        return [
            "The inner solve ends at a saddle of g: g_y is zero, but the inner Hessian is indefinite "
            f"(smallest eigenvalue about {smallest}). Start y elsewhere, and use damping {damping(spectrum)}."
        ]
    if spectrum.indefinite:
        return [
            f"The inner Hessian is indefinite (smallest eigenvalue about {smallest}): use damping "
            f"{damping(spectrum)}, or unroll. No minimum of g was found: is g bounded from below?"
        ]
    if spectrum.singular and spectrum.largest > 0:
        return [
            "The inner Hessian is singular (smallest eigenvalue about 0): y*(x) is not unique, and the "
            "linear system may have no solution. Add an L2 term to g, or use damping."
        ]
    return []


def damping(spectrum: Spectrum) -> float:
    """Return a damping that makes the Hessian positive definite: one digit, rounded up."""
    wanted = 1.1 * abs(spectrum.smallest)
    unit = 10.0 ** math.floor(math.log10(wanted))
    return float(f"{math.ceil(wanted / unit) * unit:.1g}")


def rounded(value: float) -> str:
    """Format a number with two significant digits."""
    return f"{value:.2g}"


def of_answer(
    name: str, answer: Answer, row: Row, point: Point, *, exact: bool, path: bool = False
) -> tuple[list[str], Unsolved | None]:
    """Return what is wrong with one answer: sentences, or an unsolved inner problem.

    The error has three parts: the inner solve, the linear solve and the rule. An exact adjoint at the
    answer's own y tells the first from the others.

    Args:
      name: name of the response.
      answer: its hypergradient and y.
      row: its row of the table.
      point: the problem and the reference.
      exact: whether its data may be its own, so that it is asked again with other data.
      path: whether it differentiates the path, whose error is part of the inner solve.
    """
    flat, tolerance = point.flat, point.tolerance
    if not (np.isfinite(answer.y).all() and np.isfinite(answer.gradient).all()):
        if point.ill_posed and not point.broken_step:
            return [], None
        return [_not_finite(name, answer, point)], None
    if row.relative_error <= tolerance:
        return [], None
    best, _ = hypergradient_at(flat, flat.x, answer.y)
    f_x, f_y = flat.outer_slopes(flat.x, answer.y)
    want, _ = implicit_pullback(flat, flat.x, answer.y, f_y)
    got, length = answer.gradient - f_x, float(np.linalg.norm(want))
    error = f"relative error {row.relative_error:.2g}"
    unsolved = answer.linear_residual > tolerance
    # Conjugate gradients return zero where the Hessian is indefinite.
    if length > 0 and np.linalg.norm(got) <= 1e-6 * length and not unsolved:
        return [
            f"`{name}` ignores how y depends on x ({error}), and its pullback returns zero: it is a "
            "first-order response, or a stop_gradient lies in the inner solver."
        ], None
    if length > 0 and np.linalg.norm(got + want) <= 0.05 * length:
        return [
            f"`{name}` has the wrong sign: its pullback is the opposite of -J v (cosine "
            f"{cosine(got, want):.2f}). The cross term is subtracted: x_bar = -J v."
        ], None
    if exact and (stale := _stale(name, answer, got, point)):
        return [stale], None
    inner_error = relative_error(best, point.reference)
    if inner_error > tolerance:
        if blocked := _projecting(name, answer, point):
            return [blocked], None
        return [], Unsolved(name, row.inner_residual, inner_error, cosine(best, point.reference.gradient))
    if path:
        return [], None
    if unsolved and point.ill_posed:
        return [], None
    if unsolved:
        return [
            f"The linear system of `{name}` is not solved (residual {answer.linear_residual:.2g}, {error}): "
            f"use more linear steps, or conjugate gradients{_needed(point)}."
        ], None
    if (active := _active(point)) and _without_set(got, answer, f_y, point):
        return [
            f"The inner optimiser projects, and {_count_active(active, answer.y.size)}: `{name}` "
            f"differentiates as if none were ({error})."
        ], None
    return [
        f"`{name}` is wrong although its inner problem and its linear system are solved ({error}, cosine "
        f"{'none' if row.cosine is None else f'{row.cosine:.2f}'}): its pullback reads other data than it is "
        "given, such as a stale batch, or its rule is wrong. Compare with `bilevel.testing.check_response`."
    ], None


def of_unsolved(
    unsolved: list[Unsolved], start: float, steps: int | None, enough: int | None, point: Point
) -> list[str]:
    """Return one sentence on all answers whose inner problem is not solved.

    Args:
      unsolved: the answers.
      start: |g_y| at the start.
      steps: inner steps of the usual responses, or None if the responses are the user's.
      enough: number of these steps that solves the inner problem, or None if it is not known.
      point: the problem and the reference.
    """
    if not unsolved:
        return []
    worst = max(unsolved, key=lambda answer: answer.error)
    after = "" if steps is None else f" after {steps} inner steps"
    angle = "" if worst.cosine is None else f", cosine {worst.cosine:.2f}"
    angle = "" if angle.endswith("1.00") else angle
    need = "" if enough is None else f" (about {enough} reach an error of {point.tolerance:g})"
    return [
        "The inner problem is not solved: an implicit gradient may have the wrong sign. "
        f"|g_y| is {worst.residual:.2g}{after} ({start:.2g} at the start), and even an exact adjoint there "
        f"has a relative error of {worst.error:.2g}{angle} (`{worst.name}`). Take more or larger inner "
        f"steps{need}, or unroll if the steps themselves are the model."
    ]


def _active(point):
    if point.flat.project is None:
        return 0
    return active_constraints(point.flat, point.flat.x, point.reference.y)


def _without_set(got, answer, f_y, point):
    """Return whether a pullback equals the pullback of the problem without its inner set."""
    free = point.flat._replace(project=None, project_along=None)
    want = implicit_pullback(free, free.x, answer.y, f_y)[0]
    return bool(np.linalg.norm(got - want) <= 0.05 * np.linalg.norm(want))


def _needed(point):
    condition = point.spectrum.condition
    return f" (about {math.ceil(6 * condition**0.5)} steps)" if math.isfinite(condition) else ""


def _not_finite(name, answer, point):
    if point.broken_step and not np.isfinite(answer.y).all():
        return point.broken_step
    what = "hypergradient" if np.isfinite(answer.y).all() else "y"
    limit = 2 / point.spectrum.largest if point.spectrum.largest > 0 else math.inf
    remedy = (
        f"lower the inner step size below {rounded(limit)}"
        if math.isfinite(limit)
        else "lower the step sizes"
    )
    if what == "hypergradient":
        remedy = "look at its linear solve, and use damping"
    return f"The {what} of `{name}` is not finite: {remedy}."


def shaped(y: PyTree, flat_y: np.ndarray) -> PyTree:
    """Return a flat vector as a pytree like y, in the precision of y."""
    leaves, structure = jax.tree.flatten(y)
    cut = np.split(flat_y, np.cumsum([np.size(leaf) for leaf in leaves])[:-1])
    return jax.tree.unflatten(
        structure,
        [
            jnp.asarray(part.reshape(np.shape(leaf)), jnp.result_type(leaf))
            for part, leaf in zip(cut, leaves, strict=True)
        ],
    )


def _projecting(name, answer, point):
    """Return a sentence if the solver, started where it ended, stays or returns though g_y is not zero.

    A solver that projects rests at a fixed point, which it also reaches from near the minimum of g. One that
    oscillates leaves the neighbourhood of the minimum in both directions, so it ends elsewhere in its cycle.
    """

    def end(y):
        return answer.again(shaped(point.y, y), point.batch).y

    begin = vector(point.y)
    moved = float(np.linalg.norm(answer.y - begin))
    slope = point.flat.inner_slope(point.flat.x, answer.y)
    start = point.flat.inner_slope(point.flat.x, begin)
    if not (moved > 0 and np.linalg.norm(slope) > 1e-3 * np.linalg.norm(start)):
        return None

    def same(y, share):
        return bool(np.linalg.norm(y - answer.y) <= share * moved)

    rest = end(answer.y)
    if not same(rest, 1e-6):
        return _oscillates(point) if not same(rest, 1e-2) and same(end(rest), 1e-6) else None
    minimum = point.reference.y
    if not all(same(end(minimum + side * (answer.y - minimum)), 1e-2) for side in (0.1, -0.1)):
        return _oscillates(point)
    if point.flat.project is not None:  # the set is stated
        return None
    active = int(np.sum(np.abs(slope) > 1e-3 * np.abs(slope).max()))
    return (
        f"The inner optimiser projects, and {_count_active(active, slope.size)}: `{name}` rests where |g_y| "
        f"is {np.linalg.norm(slope):.2g}, and no response can see its projection. State the set as "
        "Problem(..., inner_projection=)."
    )


def _oscillates(point):
    largest = point.spectrum.largest
    below = f" below {rounded(2 / largest)}" if largest > 0 else ""
    return f"The inner solve oscillates: lower the inner step size{below}."


def _count_active(active, size):
    return f"{active} of {size} constraints {'is' if active == 1 else 'are'} active"


def _stale(name, answer, got, point):
    """Return a sentence if y or the pullback does not follow the data that the response is given."""
    other = perturbed(point.batch.inner[0])
    if other is None:
        return None
    again = answer.again(point.y, Batch(point.batch.outer, Full(other)))
    if not (np.isfinite(again.y).all() and np.isfinite(again.gradient).all()):
        return None
    x, start = point.flat.x, vector(point.y)
    size = float(np.linalg.norm(answer.y - start))
    flat = flatten(point.problem, point.x, point.y, point.batch.outer[0], other)
    expected = flat.inner_slope(x, answer.y) - point.flat.inner_slope(x, answer.y)
    sees_data = np.linalg.norm(expected) > 1e-6 * np.linalg.norm(flat.inner_slope(x, start))
    if size > 0 and sees_data and np.linalg.norm(again.y - answer.y) <= 1e-12 * size:
        return (
            f"`{name}` reads a stale batch: other inner data leave its y unchanged. It must read "
            "`batch.inner[i]` alone."
        )
    f_x, f_y = flat.outer_slopes(x, again.y)
    before = implicit_pullback(point.flat, x, answer.y, f_y)[0]
    after = implicit_pullback(flat, x, answer.y, f_y)[0]
    size = float(np.linalg.norm(before)) or 1.0
    linear = float(np.linalg.norm(after - before)) / size
    follows = float(np.linalg.norm(again.gradient - f_x - got)) / size
    if linear > 1e-3 and follows < 1e-3 * linear:
        return (
            f"`{name}` reads a stale batch: other inner data leave its pullback unchanged. It must read "
            "`batch.inner[i]` alone."
        )
    return None
