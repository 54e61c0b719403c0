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
    flat,
    guarded,
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
      stops_early: whether the response may make fewer oracle calls than it declares.
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
    (x, y0), w = variables(), as_y(jnp.array([0.7, 0.2, -0.4]))
    data = guarded(Draws(0, response.draws))

    def pulled(response, x, y0, w, data):
        y, pullback = response.respond(x, y0, data, key)
        return y, pullback(w, response.adjoint(y0))

    for arguments in ((x, y0, w), to_single((x, y0, w))):
        y, found = jax.eval_shape(lambda *arguments: pulled(response, *arguments, data), *arguments)
        assert_same_shape(y, arguments[1], "y must be shaped as y0")
        assert_same_shape(found.x, arguments[0], "the cotangent on x must be shaped as x")
        adjoint = jax.eval_shape(response.adjoint, arguments[1])
        assert_same_shape(found.v, adjoint, "the carried adjoint must be shaped as adjoint(y)")
        assert_equal(np.shape(found.residual), (), "the residual must be a scalar")

    compiled = jax.jit(lambda x, y0, w, data: pulled(response, x, y0, w, data))
    y, found = compiled(x, y0, w, data)
    assert_finite(
        (y, found),
        f"the response must read batch.inner[0] to batch.inner[{response.draws - 1}], as draws says",
    )
    before, after = (inner_residual(PROBLEM, x, value, jnp.ones(())) for value in (y0, y))
    assert_true(after < before, f"training must reduce ||g_y||: got {after} after {before}")
    for source, name in ((data, "without jit"), (whole(), "on full data")):
        again = pulled(response, x, y0, w, source)
        assert_close(
            (again[0], again[1].x), (y, found.x), 1e-12, f"y and the pullback must be the same {name}"
        )

    if truth == "solution":
        assert_close(y, as_y(B @ flat(x)), tolerance, "y must be the inner solution")
        claim = "the pullback must be the derivative of the inner solution"
        assert_close(found.x, as_x(B.T @ flat(w)), tolerance, claim)
    if truth == "path":
        want = central_difference(lambda x: np.dot(flat(compiled(x, y0, w, data)[0]), flat(w)), x)
        assert_close(found.x, as_x(want), tolerance, "the pullback must be the derivative of y")
    if differentiable:
        y_of_x = solution(response)
        through = jax.jit(lambda x: jax.vjp(lambda x: y_of_x(x, y0, data, key), x)[1](w)[0])(x)
        assert_close(through, found.x, 1e-12, "the derivative of y must follow the pullback")

    counted, counts = count_calls(PROBLEM)
    counting_response = make(counted)

    @jax.jit
    def counting(x):
        y, found = pulled(counting_response, x, y0, w, data)
        # Without the residual: it is not computed unless it is read, and its product is not declared.
        return y, found.x, found.v

    jax.block_until_ready(counting(x))
    assert_calls(counts, response.cost, "oracle calls of respond and one pullback", stops_early)
