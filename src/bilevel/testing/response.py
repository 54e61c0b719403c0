"""The check of a response."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.inner import inner_residual
from bilevel.response.types import Response, solution
from bilevel.testing.asserting import (
    assert_calls,
    assert_close,
    assert_equal,
    assert_finite,
    assert_same_shape,
    assert_true,
    to_single,
)
from bilevel.testing.counting import count_calls
from bilevel.testing.quadratic import (
    PROBLEM,
    B,
    as_x,
    as_y,
    central_difference,
    cotangent,
    guarded,
    on_host,
    variables,
    whole,
)
from bilevel.types import Draws, Problem


def check_response(
    make: Callable[[Problem], Response],
    *,
    truth: Literal["solution", "path"] | None = "solution",
    tolerance: float = 1e-7,
    differentiable: bool = True,
    stops_early: bool = False,
    key: Any = None,
) -> None:
    """Check a `Response` on a quadratic inner loss of 3 unknowns.

    The inner Hessian has the eigenvalues 0.5, 0.75 and 1. The check covers the structure and dtype of y
    and of `Pulled`, the value of the pullback, the derivative of y, `jit`, `draws` and `cost`.

    Args:
      make: `problem -> Response`, with settings that suit this loss, and at least one inner step.
      truth: expected value of the pullback. "solution": the derivative of the exact inner solution,
        which y must then equal. "path": the derivative of y, by central differences. None: any value.
      tolerance: relative error of y and the pullback.
      differentiable: whether `jax.grad` through `solution(response)` follows the pullback; False for a
        response whose y is documented as a constant.
      stops_early: whether the response may make fewer oracle calls than it declares. Use it also for a
        response that recomputes its path, since the Hessian of a quadratic does not depend on the path.
      key: random key, for responses that need one.

    Raises:
      AssertionError: when the response breaks the protocol.

    >>> from bilevel import cg, descend, first_order, implicit
    >>> check_response(lambda problem: implicit(problem, descend(problem, 1.0, steps=30), cg(3)))
    >>> check_response(lambda problem: first_order(descend(problem, 1.0, steps=3)), truth=None)
    """
    with jax.enable_x64(True):
        _check(make, truth, tolerance, differentiable, stops_early, key)


def _check(make, truth, tolerance, differentiable, stops_early, key):
    response = make(PROBLEM)
    (x, y0), w = variables(), cotangent()
    data = guarded(Draws(0, response.draws))

    def pulled(response, x, y0, w, data):
        y, pullback = response.respond(x, y0, data, key)
        return y, pullback(w, response.adjoint(y0))

    for arguments in ((x, y0, w), to_single((x, y0, w))):
        y, found = jax.eval_shape(lambda x, y0, w: pulled(response, x, y0, w, data), *arguments)
        assert_same_shape(y, arguments[1], "y must be shaped like y0")
        assert_same_shape(found.x, arguments[0], "the cotangent on x must be shaped like x")
        adjoint = jax.eval_shape(response.adjoint, arguments[1])
        assert_same_shape(found.v, adjoint, "the carried adjoint must be shaped like adjoint(y)")
        assert_equal(np.shape(found.residual), (), "the residual must be a scalar")

    @jax.jit
    def compiled(x):
        y, found = pulled(response, x, y0, w, data)
        through = jax.vjp(lambda x: solution(response)(x, y0, data, key), x)[1](w)[0]
        residuals = [inner_residual(PROBLEM, x, value, jnp.ones(())) for value in (y0, y)]
        return y, found, through if differentiable else found.x, residuals

    y, found, through, (before, after) = compiled(x)
    claim = f"the response must read batch.inner[0] to batch.inner[{response.draws - 1}] only, as draws says"
    assert_finite((y, found), claim)
    assert_true(after < before, f"training must reduce ||g_y||: got {after} after {before}")
    again = pulled(response, x, y0, w, whole())
    claim = "y and the pullback must be the same without jit, and on full data"
    assert_close((again[0], again[1].x), (y, found.x), 1e-12, claim)

    if truth == "solution":
        assert_close(y, as_y(B @ on_host(x)), tolerance, "y must be the inner solution")
        claim = "the pullback must be the derivative of the inner solution"
        assert_close(found.x, as_x(B.T @ on_host(w)), tolerance, claim)
    if truth == "path":
        want = central_difference(lambda x: on_host(compiled(x)[0]) @ on_host(w), x)
        assert_close(found.x, want, tolerance, "the pullback must be the derivative of y")

    assert_close(through, found.x, 1e-12, "the derivative of y must follow the pullback")

    counted, counts = count_calls(PROBLEM)
    counting_response = make(counted)

    @jax.jit
    def counting(x):
        y, found = pulled(counting_response, x, y0, w, data)
        # The residual is not returned, so its product, which `cost` leaves out, is not computed.
        return y, found.x, found.v

    jax.block_until_ready(counting(x))
    assert_calls(counts, response.cost, "oracle calls of respond and one pullback", stops_early)
