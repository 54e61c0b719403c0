"""The check of an inner solver."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from bilevel.inner import InnerSolver, inner_residual
from bilevel.testing.asserting import (
    assert_calls,
    assert_close,
    assert_finite,
    assert_same_shape,
    assert_true,
    to_single,
)
from bilevel.testing.counting import count_calls
from bilevel.testing.quadratic import PROBLEM, central_difference, cotangent, guarded, on_host, variables
from bilevel.types import Draws, Problem


def check_inner_solver(
    make: Callable[[Problem], InnerSolver], *, truncated: bool = False, stops_early: bool = False
) -> None:
    """Check an `InnerSolver` on a quadratic inner loss of 3 unknowns.

    The inner Hessian has the eigenvalues 0.5, 0.75 and 1. The check covers the structure and dtype of
    y, the decrease of `||g_y||`, `jit`, `vmap`, `draws`, `cost`, and with a `back_cost` the reverse
    derivative and its calls.

    Args:
      make: `problem -> InnerSolver`, with settings that suit this loss, and at least one step.
      truncated: whether the reverse derivative leaves out some steps on purpose; it must then only be
        finite.
      stops_early: whether the solver may make fewer oracle calls than it declares. Use it also for a solver
        that recomputes its path, since the Hessian of a quadratic does not depend on the path.

    Raises:
      AssertionError: when the solver breaks the protocol.

    >>> import bilevel
    >>> check_inner_solver(lambda problem: bilevel.accelerate(problem, 1.0, steps=5, condition=2.0))
    """
    with jax.enable_x64(True):
        _check(make, truncated, stops_early)


def _check(make, truncated, stops_early):
    solver = make(PROBLEM)
    (x, y0), w = variables(), cotangent()
    data = guarded(Draws(0, solver.draws))

    for arguments in ((x, y0), to_single((x, y0))):
        y = jax.eval_shape(solver.solve, *arguments, data)
        assert_same_shape(y, arguments[1], "y must be shaped like y0")

    @jax.jit
    def compiled(x):
        pair = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), x)
        several = jax.vmap(lambda x: solver.solve(x, y0, data))(pair)
        y = solver.solve(x, y0, data)
        residuals = [inner_residual(PROBLEM, x, value, jnp.ones(())) for value in (y0, y)]
        return y, jax.tree.map(lambda leaf: leaf[0], several), residuals

    y, first, (before, after) = compiled(x)
    assert_finite(y, f"the solver must read batch.inner[0] to batch.inner[{solver.draws - 1}], as draws says")
    assert_true(after < before, f"training must reduce ||g_y||: got {after} after {before}")
    assert_close(first, y, 1e-12, "y must be the same under vmap")
    assert_close(solver.solve(x, y0, data), y, 1e-12, "y must be the same with and without jit")

    counted, counts = count_calls(PROBLEM)
    counting_solver = make(counted)
    jax.block_until_ready(jax.jit(counting_solver.solve)(x, y0, data))
    assert_calls(counts, solver.cost, "oracle calls of one solve", stops_early)
    if not solver.back_cost.total:
        return

    counts.update(dict.fromkeys(counts, 0))

    @jax.jit
    def pulled(x):
        y, vjp = jax.vjp(lambda x: counting_solver.solve(x, y0, data), x)
        return y, vjp(w)[0]

    x_bar = jax.block_until_ready(pulled(x))[1]
    assert_finite(x_bar, "the reverse derivative must be finite")
    if not truncated:
        want = central_difference(lambda x: on_host(compiled(x)[0]) @ on_host(w), x)
        assert_close(x_bar, want, 1e-7, "the reverse derivative must be the derivative of the path")
    declared = solver.cost.plus(solver.back_cost)
    assert_calls(counts, declared, "oracle calls of one solve and one reverse pass", stops_early)
