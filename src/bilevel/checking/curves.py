"""Error of the hypergradient against inner steps and against linear steps."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from bilevel.checking.flat import Flat, vector
from bilevel.checking.reference import DENSE, Reference, hypergradient_at
from bilevel.checking.rows import relative_error
from bilevel.checking.usual import Settings
from bilevel.inner import descent
from bilevel.linear import cg, neumann
from bilevel.types import Batch, Problem, PyTree

Curve = list[tuple[int, float]]


def marks(last: int, count: int = 10) -> list[int]:
    """Return at most `count` whole numbers from 1 to `last`, evenly spread on a logarithmic axis.

    >>> marks(100, 5)
    [1, 3, 10, 32, 100]
    """
    return sorted({round(value) for value in np.geomspace(1, max(last, 1), count)})


def inner_curves(
    problem: Problem, flat: Flat, reference: Reference, settings: Settings, x: PyTree, y: PyTree, batch: Batch
) -> dict[str, Curve]:
    """Return the errors of an implicit and of an unrolled hypergradient, by number of inner steps.

    The implicit one has an exact adjoint, so only the inner solve makes an error. The start and
    the settings are the user's, and so is the precision of the inner steps.

    Args:
      problem: the two losses.
      flat: the problem, for the exact adjoint.
      reference: the reference hypergradient.
      settings: the inner optimiser and the number of its steps.
      x, y, batch: the point.
    """
    most = max(settings.inner_steps, 1)
    init, step = descent(problem, settings.inner_optimizer)
    indices = jnp.arange(most)

    def trained(x, y, batch, steps):
        """Return the y after a traced number of steps: one program serves all numbers."""

        def until(carry, i):
            return optax.tree.where(i < steps, step(x, batch.inner[i], carry), carry), None

        return lax.scan(until, init(y), indices)[0][0]

    def unrolled(x, y, batch, steps):
        def loss(x):
            end = trained(x, y, batch, steps)
            return problem.outer(x, end, batch.outer[0]), end

        return jax.grad(loss, has_aux=True)(x)

    program = jax.jit(unrolled)
    curves: dict[str, Curve] = {"implicit, exact adjoint": [], "unrolled": []}
    for steps in marks(most):
        through, end = program(x, y, batch, jnp.asarray(steps, indices.dtype))
        end = vector(end)
        if not np.isfinite(end).all():
            break
        exact = hypergradient_at(flat, flat.x, end)[0]
        for name, value in zip(curves, (exact, vector(through)), strict=True):
            curves[name].append((steps, relative_error(value, reference)))
    return curves


def enough_steps(
    problem: Problem,
    flat: Flat,
    reference: Reference,
    settings: Settings,
    x: PyTree,
    y: PyTree,
    batch: Batch,
    tolerance: float,
    seconds: float = 3.0,
) -> int | None:
    """Return about how many inner steps bring an implicit hypergradient within the tolerance.

    The number is measured: the path goes on, by a tenth of its length at a time, until the error is below
    the tolerance.

    Args:
      problem, flat, reference, settings: as for `inner_curves`.
      x, y, batch: the point.
      tolerance: relative error.
      seconds: time after which the search gives up.

    Returns:
      The number of steps, or None if the search gave up.
    """
    init, step = descent(problem, settings.inner_optimizer)

    @jax.jit
    def advance(x, batch, carry, first, last):
        return lax.fori_loop(first, last, lambda i, carry: step(x, batch.inner[i], carry), carry)

    carry, done, begin = init(y), 0, time.perf_counter()
    while time.perf_counter() - begin < seconds and done < 10**6:
        last = max(done + 1, round(1.1 * done))
        carry, done = advance(x, batch, carry, done, last), last
        end = vector(carry[0])
        if not np.isfinite(end).all():
            return None
        exact = hypergradient_at(flat, flat.x, end)[0]
        if relative_error(exact, reference) <= tolerance:
            return done
    return None


def broken_step(problem: Problem, settings: Settings, x: PyTree, y: PyTree, batch: Batch) -> str:
    """Return a sentence on the first inner step whose y is not finite, or an empty text."""
    init, step = descent(problem, settings.inner_optimizer)

    @jax.jit
    def path(x, y, batch):
        def move(carry, i):
            carry = step(x, batch.inner[i], carry)
            return carry, jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), carry[0])

        return lax.scan(move, init(y), jnp.arange(settings.inner_steps))[1]

    finite = [
        (jax.tree_util.keystr(place), np.asarray(leaf))
        for place, leaf in jax.tree_util.tree_leaves_with_path(path(x, y, batch))
    ]
    broken = [(int(np.argmin(leaf)) + 1, place) for place, leaf in finite if not leaf.all()]
    if not broken:
        return ""
    first, place = min(broken)
    return (
        f"The inner solve is not finite from inner step {first} on, first in y{place}: lower the inner step "
        "size, or look for a logarithm, a root or an overflow in g."
    )


def linear_curves(flat: Flat, reference: Reference, settings: Settings) -> dict[str, Curve]:
    """Return the errors of CG and of the Neumann series at the inner solution, by number of steps.

    The inner problem is solved and the numbers are float64, so only the linear solve makes
    an error.

    Args:
      flat: the problem.
      reference: the reference hypergradient and the inner solution.
      settings: the numbers of steps and the rate of the series.
    """
    x, y = flat.x, reference.y
    f_x, f_y = flat.outer_slopes(x, y)
    # A matrix compiles faster than the loss, for each number of steps.
    matrix = flat.matrix(x, y) if y.size <= DENSE else None

    def solve(solver):
        if matrix is None:
            return flat.linear(solver, x, y, f_y)
        program = jax.jit(lambda matrix, b: solver.solve(lambda i: lambda w: matrix @ w, b, None)[0])
        with jax.enable_x64(True):
            return np.asarray(program(matrix, f_y))

    def curve(make, most) -> Curve:
        found = []
        for steps in marks(most, 8):
            v = solve(make(steps))
            if not np.isfinite(v).all():
                break
            found.append((steps, relative_error(f_x - flat.cross(x, y, v), reference)))
        return found

    return {
        "conjugate gradients": curve(cg, settings.cg_steps),
        "Neumann series": curve(lambda steps: neumann(steps, settings.rate), settings.neumann_terms),
    }
