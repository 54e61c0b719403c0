"""The check of an oracle."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jax import lax

from bilevel.directions.types import Oracle
from bilevel.testing.asserting import (
    assert_calls,
    assert_close,
    assert_equal,
    assert_finite,
    assert_same_shape,
    to_single,
)
from bilevel.testing.counting import count_calls
from bilevel.testing.quadratic import PROBLEM, B, S, T, as_x, guarded, on_host, variables, whole
from bilevel.types import Draws, Point, Problem

tree = optax.tree


def check_oracle(
    make: Callable[[Problem], Oracle], *, tolerance: float = 1e-8, step_size: float = 1.0, key: Any = None
) -> None:
    """Check an `Oracle` on a quadratic problem of 2 and 3 unknowns.

    The inner Hessian has the eigenvalues 0.5, 0.75 and 1. The check moves y and v against their
    directions until they converge, at a fixed x. There the direction of x must be the hypergradient. It also
    covers structures and dtypes, the split into outer and inner terms, `jit`, `draws` and `cost`.

    Args:
      make: `problem -> Oracle`, with settings that suit this problem.
      tolerance: relative error of the hypergradient, and of the directions after convergence.
      step_size: step size of y and v; 200 steps must suffice.
      key: random key, for oracles that need one.

    Raises:
      AssertionError: when the oracle breaks the protocol.

    >>> from bilevel import implicit_direction, penalty_direction
    >>> check_oracle(implicit_direction)
    >>> check_oracle(lambda problem: penalty_direction(problem, 1e6), tolerance=1e-5)
    """
    with jax.enable_x64(True):
        _check(make, tolerance, step_size, key)


def _check(make, tolerance, step_size, key):
    oracle = make(PROBLEM)
    x, y = variables()
    point = Point(x, y, oracle.adjoint(y))
    draws = Draws(oracle.draws.outer, oracle.draws.inner)
    data = guarded(draws)

    for some_x, some_y in ((x, y), to_single((x, y))):
        like = Point(some_x, some_y, jax.eval_shape(oracle.adjoint, some_y))
        terms = jax.eval_shape(lambda point: oracle.evaluate(point, data, key), like)
        assert_same_shape(terms.outer, like, "the outer terms must be shaped like the point")
        assert_same_shape(terms.inner, like, "the inner terms must be shaped like the point")
        assert_equal(np.shape(terms.linear_residual), (), "the linear residual must be a scalar")

    evaluate = jax.jit(lambda point, data: oracle.evaluate(point, data, key))
    terms = evaluate(point, data)
    assert_finite(terms, f"the oracle must read the first {draws[:2]} minibatches only, as draws says")
    claim = "the terms must be the same without jit, and on full data"
    assert_close(oracle.evaluate(point, whole(), key), terms, 1e-12, claim)

    nothing = guarded(Draws(0, 0))
    claim = "the outer terms must not depend on the inner minibatches"
    assert_finite(evaluate(point, data._replace(inner=nothing.inner)).outer, claim)
    if draws[:2] == (1, 1):
        # Otherwise no estimator with tables accepts the oracle.
        claim = "the inner terms must not depend on the outer minibatch"
        assert_finite(evaluate(point, data._replace(outer=nothing.outer)).inner, claim)

    def move(point, _):
        total = oracle.evaluate(point, whole(), key).total
        y, v = (
            tree.add_scale(value, -step_size, slope)
            for value, slope in zip(point[1:], total[1:], strict=True)
        )
        return point._replace(y=y, v=v), None

    # Starts away from zero: an adjoint that never moves would pass from zero.
    shifted = point._replace(v=jax.tree.map(lambda leaf: leaf + 1, point.v))

    @jax.jit
    def at_rest(point):
        terms = oracle.evaluate(lax.scan(move, point, length=200)[0], whole(), key)
        return terms.total, terms.linear_residual

    total, residual = at_rest(shifted)
    still = jax.tree.map(np.zeros_like, total[1:])
    assert_close(total[1:], still, tolerance, "y and v must converge when they move against their directions")
    assert_close(residual, np.zeros(()), tolerance, "the linear residual must vanish when y and v converge")
    hypergradient = on_host(x) - S + B.T @ (B @ on_host(x) - T)
    assert_close(total.x, as_x(hypergradient), tolerance, "the direction of x must be the hypergradient")

    counted, counts = count_calls(PROBLEM)
    # The residual is not returned, so its product, which `cost` leaves out, is not computed.
    jax.block_until_ready(jax.jit(lambda point: make(counted).evaluate(point, data, key)[:2])(point))
    assert_calls(counts, oracle.cost, "oracle calls of one evaluation")
