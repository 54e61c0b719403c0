"""Responses: rules that map a cotangent on the inner solution to one on `x`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from bilevel.calculus import dense, hoisted, untagged
from bilevel.types import Batch, Cost, PyTree


class Pulled(NamedTuple):
    """The result of a pullback.

    Attributes:
      x: cotangent on the outer variable, a pytree like `x`; `-J v` for implicit responses.
      v: adjoint to carry to the next step; `()` for responses that carry none.
      residual: relative residual of the linear solve, a scalar; 0 if there is no linear solve.
    """

    x: PyTree
    v: PyTree
    residual: Any


Pullback = Callable[[PyTree, PyTree], Pulled]
"""`pullback(w, v)`: `w` is a cotangent on y, and `v` the adjoint of the previous step."""


class Response(NamedTuple):
    """An inner solver together with the derivative of its solution.

    `bilevel.testing.check_response` tests an implementation.

    Attributes:
      respond: `(x, y0, batch, key) -> (y, pullback)`, a pure function. `y`, shaped like `y0`, is the
        trained inner variable, and `pullback(w, v) -> Pulled` maps a cotangent `w` on y to a cotangent
        on x; `v` is the adjoint of the previous step. Reverse derivatives of `y` follow the same rule
        (`with_pullback` and `following` give them). It reads `batch.inner[i]` only. All arguments may be
        traced. `key` is a JAX random key, or None; only random responses need one.
      adjoint: `y -> v`, the adjoint before the first step; `()` for responses that carry none. The
        `v` of every `Pulled` has the same structure, shapes and dtypes.
      draws: number of inner minibatches that `respond` and one pullback read, from `batch.inner[0]` on.
      cost: oracle calls of `respond` and one pullback, without a product that only `residual` reads.
    """

    respond: Callable[[PyTree, PyTree, Batch, Any], tuple[PyTree, Pullback]]
    adjoint: Callable[[PyTree], PyTree]
    draws: int
    cost: Cost


def no_adjoint(y: PyTree) -> tuple:
    """Return `()`, the `adjoint` of a response that carries none."""
    return ()


def with_pullback(
    solve: Callable[[PyTree, PyTree, Batch], PyTree],
    pullback_at: Callable[[PyTree, PyTree, PyTree, Batch, Any], Pullback],
) -> Callable[[PyTree, PyTree, Batch, Any], tuple[PyTree, Pullback]]:
    """Return the `respond` of a `Response` from a solver and a rule at its solution.

    Args:
      solve: `(x, y0, batch) -> y`.
      pullback_at: `(x, y0, y, batch, key) -> pullback`.

    Returns:
      `respond(x, y0, batch, key) -> (y, pullback)` with a differentiable y. The derivative with
      respect to y0 is zero, as it is for an exact inner solution.
    """

    def pull(x, y, batch):
        (y0, y, w), (batch, key) = y, batch
        return pullback_at(x, y0, y, batch, key)(w, optax.tree.zeros_like(w)).x

    def respond(x, y0, batch, key):
        explicit, held = hoisted(solve, x, y0, batch)
        explicit_pull, pull_held = hoisted(pull, x, (y0, y0, y0), (batch, key), needed=bool(held))

        @jax.custom_vjp
        def solved(x, y0, data, held, key):
            return explicit(x, y0, (data, held[0]))

        def forward(x, y0, data, held, key):
            x, y0, data, held, key = untagged((x, y0, data, held, key), data=(data, key), held=held)
            # `solved`, not `explicit`: if y were a constant, second derivatives would be wrong.
            y = solved(x, y0, data, held, key)
            return y, (x, y0, y, data, held, key)

        def backward(saved, w):
            x, y0, y, data, held, key = saved
            x_bar = explicit_pull(x, (y0, y, dense(w)), ((data, key), held[1]))
            return x_bar, optax.tree.zeros_like(y0), None, None, None

        solved.defvjp(forward, backward, symbolic_zeros=True)
        y = solved(x, y0, batch, (held, pull_held), key)
        return y, pullback_at(x, y0, y, batch, key)

    return respond


def solution(response: Response) -> Callable:
    """Return a function `(x, y0, batch, key=None) -> y*` that `jax.grad` sees through.

    First and second reverse derivatives (`jax.grad`, `jax.jacrev(jax.grad(...))`) follow the rule of
    the response, anywhere inside a larger JAX program. The function is differentiable in x, not in its
    data: put every quantity that you differentiate into x. The derivative with respect to the starting point
    y0 is zero, except with `unrolled`. To learn an initialisation (MAML), use `unrolled`, with its `start` if
    x is that initialisation.

    Args:
      response: how y is trained and differentiated, for example `implicit(...)`.

    Returns:
      `(x, y0, batch, key=None) -> y*`.

    >>> import jax, jax.numpy as jnp
    >>> from bilevel import Problem, cg, descend, full, implicit
    >>> ridge = Problem(None, lambda x, y, batch: jnp.sum((y - 1) ** 2 + jnp.exp(x) * y**2))
    >>> fit = solution(implicit(ridge, descend(ridge, 0.2, steps=60), cg(2)))
    >>> jax.grad(lambda x: fit(x, jnp.zeros(2), full(None, None)).sum())(0.0)
    Array(-0.5, dtype=float32, weak_type=True)
    """

    def solve(x, y0, batch, key=None):
        return response.respond(x, y0, batch, key)[0]

    return solve


def following(
    respond: Callable[[PyTree, PyTree, Batch, Any], tuple[PyTree, Pullback]],
    adjoint: Callable[[PyTree], PyTree],
) -> Callable[[PyTree, PyTree, Batch, Any], tuple[PyTree, Pullback]]:
    """Return the same `respond` with a `y` whose derivatives follow its pullback.

    Use it for a response whose pullback is not the derivative of its solver. Differentiating y runs
    the inner solve a second time.

    Args:
      respond: `(x, y0, batch, key) -> (y, pullback)`.
      adjoint: `y -> v`, the adjoint that the pullback starts from.
    """

    def end(x, y, batch):
        return respond(x, y, *batch)[0]

    def pull(x, y, batch):
        y0, w = y
        return respond(x, y0, *batch)[1](w, adjoint(w)).x

    def followed(x, y0, batch, key):
        _, held = hoisted(end, x, y0, (batch, key))
        explicit_pull, pull_held = hoisted(pull, x, (y0, y0), (batch, key), needed=bool(held))

        @jax.custom_vjp
        def tied(x, y, y0, data, held):
            return y

        def forward(x, y, y0, data, held):
            x, y, y0, data, held = untagged((x, y, y0, data, held), data=data, held=held)
            # As in `with_pullback`: second derivatives would see y itself as a constant.
            return tied(x, y, y0, data, held), (x, y0, data, held)

        def backward(saved, w):
            x, y0, data, held = saved
            w = dense(w)
            x_bar = explicit_pull(x, (y0, w), (data, held[1]))
            return x_bar, optax.tree.zeros_like(w), optax.tree.zeros_like(y0), None, None

        tied.defvjp(forward, backward, symbolic_zeros=True)
        y, pullback = respond(x, y0, batch, key)
        return tied(x, jax.lax.stop_gradient(y), y0, (batch, key), (held, pull_held)), pullback

    return followed
