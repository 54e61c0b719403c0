"""The rule that answers: given a cotangent on the inner solution, what is the cotangent on x?"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from bilevel.calculus import dense, untagged
from bilevel.types import Cost, PyTree


class Pulled(NamedTuple):
    """What a pullback returns.

    Attributes:
      x: cotangent on the outer variable (minus the cross product for implicit responses).
      v: adjoint to carry to the next step, `()` for responses that have none.
      residual: relative residual of the linear solve, 0 where there is none.
    """

    x: PyTree
    v: PyTree
    residual: Any


class Response(NamedTuple):
    """An inner solver together with the derivative of its answer.

    Attributes:
      respond: `(x, y0, batch, key) -> (y, pullback)`; `pullback(w, v) -> Pulled`, where w is the
        cotangent on y and v the adjoint of the step before. `y` itself is differentiable: reverse
        derivatives of it follow the same rule.
      adjoint: `y -> v`, the adjoint before the first step (`()` for responses that carry none).
      draws: inner minibatches read.
      cost: oracle calls of the solve and one pullback.
    """

    respond: Callable[[PyTree, PyTree, Any, Any], tuple[PyTree, Callable[[PyTree, PyTree], Pulled]]]
    adjoint: Callable[[PyTree], PyTree]
    draws: int
    cost: Cost


def no_adjoint(y: PyTree) -> tuple:
    """For responses that carry no adjoint."""
    return ()


def with_pullback(solve: Callable, pullback_at: Callable) -> Callable:
    """`respond` from a solver and a rule at its solution.

    Args:
      solve: `(x, y0, batch) -> y`.
      pullback_at: `(x, y0, y, batch, key) -> pullback`.

    Returns:
      `respond(x, y0, batch, key) -> (y, pullback)` with a differentiable y. The derivative with
      respect to y0 is zero, as it is for an exact inner solution.
    """

    @jax.custom_vjp
    def solution(x, y0, batch, key):
        return solve(x, y0, batch)

    def forward(x, y0, batch, key):
        x, y0, batch, key = untagged((x, y0, batch, key), data=(batch, key))
        # The differentiable solution itself, not solve: else second derivatives are silently wrong.
        y = solution(x, y0, batch, key)
        return y, (x, y0, y, batch, key)

    def backward(saved, w):
        y0, w = saved[1], dense(w)
        pulled = pullback_at(*saved)(w, optax.tree.zeros_like(w))
        return pulled.x, optax.tree.zeros_like(y0), None, None

    solution.defvjp(forward, backward, symbolic_zeros=True)

    def respond(x, y0, batch, key):
        y = solution(x, y0, batch, key)
        return y, pullback_at(x, y0, y, batch, key)

    return respond


def solution(response: Response) -> Callable:
    """A function `(x, y0, batch, key=None) -> y*` that `jax.grad` sees through.

    First and second reverse derivatives (`jax.grad`, `jax.jacrev(jax.grad(...))`) follow the rule
    of the response; put it anywhere inside a larger JAX program. It is differentiated in x (and,
    if `unrolled`, in y0), never in its data: what you differentiate belongs in x. With every response but
    `unrolled` the derivative with respect to the starting point y0 is zero: learning an
    initialisation (MAML) needs `unrolled`, with its `start` where x is that initialisation.

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


def following(respond: Callable, adjoint: Callable) -> Callable:
    """The same `respond`, with a y whose reverse derivatives follow the pullback.

    For responses that answer otherwise than by differentiating their solver. What differentiates
    y makes the inner solve once more.
    """

    @jax.custom_vjp
    def tied(x, y, y0, batch, key):
        return y

    def forward(x, y, y0, batch, key):
        x, y, y0, batch, key = untagged((x, y, y0, batch, key), data=(batch, key))
        # As above: y itself would be a constant to second derivatives.
        return tied(x, y, y0, batch, key), (x, y0, batch, key)

    def backward(saved, w):
        x, y0, batch, key = saved
        w = dense(w)
        pulled = respond(x, y0, batch, key)[1](w, adjoint(w))
        return pulled.x, optax.tree.zeros_like(w), optax.tree.zeros_like(y0), None, None

    tied.defvjp(forward, backward, symbolic_zeros=True)

    def followed(x, y0, batch, key):
        y, pullback = respond(x, y0, batch, key)
        return tied(x, jax.lax.stop_gradient(y), y0, batch, key), pullback

    return followed
