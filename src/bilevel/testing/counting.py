"""Counters of the oracle calls that a compiled program really makes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.types import Problem


def count_calls(problem: Problem) -> tuple[Problem, dict[str, int]]:
    """Return a problem that counts its oracle calls, and the counts.

    A call is counted at run time, and only if its value is used. Run a compiled function of the
    returned problem, wait for its result, then read the counts.

    Args:
      problem: the two losses.

    Returns:
      `(problem, counts)`. The dict `counts` has the keys of `Cost`: `gradients` of f and of g,
      `hessian_products` and `cross_products`.

    >>> problem, counts = count_calls(Problem(None, lambda x, y, batch: 0.5 * (y - x) ** 2))
    >>> gradient = jax.jit(jax.grad(problem.inner, argnums=1))
    >>> float(gradient(jnp.ones(()), jnp.zeros(()), None)), counts["gradients"]
    (-1.0, 1)
    """
    counts = {"gradients": 0, "hessian_products": 0, "cross_products": 0}

    def count(kind, value):
        def add():
            counts[kind] += 1

        return counted_zero(add, value)

    def tick(kind, value):
        return value + jnp.broadcast_to(count(kind, value), value.shape)

    @jax.custom_jvp
    def mark(g_x, g_y):
        # One call, whichever of the two parts is used.
        once = count("gradients", g_x.sum() + g_y.sum())
        return g_x + jnp.broadcast_to(once, g_x.shape), g_y + jnp.broadcast_to(once, g_y.shape)

    @mark.defjvp
    def rule(primals, tangents):
        return mark(*primals), (tick("cross_products", tangents[0]), tick("hessian_products", tangents[1]))

    @jax.custom_vjp
    def inner(x, y, batch):
        return problem.inner(x, y, batch)

    def forward_inner(x, y, batch):
        return problem.inner(x, y, batch), (x, y, batch)

    def backward_inner(saved, scale):
        gradient = jax.grad(problem.inner, argnums=(0, 1))(*saved)
        (x_leaves, x_tree), (y_leaves, y_tree) = map(jax.tree.flatten, gradient)
        x_leaves[0], y_leaves[0] = mark(x_leaves[0], y_leaves[0])
        parts = jax.tree.unflatten(x_tree, x_leaves), jax.tree.unflatten(y_tree, y_leaves)
        return *jax.tree.map(lambda leaf: leaf * scale, parts), None

    inner.defvjp(forward_inner, backward_inner)

    @jax.custom_vjp
    def outer(x, y, batch):
        return problem.outer(x, y, batch)

    def forward(x, y, batch):
        return problem.outer(x, y, batch), (x, y, batch)

    def backward(saved, scale):
        # Both parts of one gradient of f share one call. It is tied to the loss, so that XLA does not
        # hoist it out of a loop over iterates or minibatches.
        scale = tick("gradients", scale + 0 * problem.outer(*saved))
        gradients = jax.grad(problem.outer, argnums=(0, 1))(*saved)
        return *jax.tree.map(lambda g: scale * g, gradients), None

    outer.defvjp(forward, backward)
    return replace(problem, outer=outer, inner=inner), counts


def counted_zero(add: Callable[[], None], value: Any) -> jax.Array:
    """Return a scalar zero that calls `add()` on the host whenever it is computed.

    Args:
      add: counts one call.
      value: an array that the zero depends on. The zero is computed whenever `value` is, since XLA
        can neither drop nor hoist it alone.
    """

    def host(_):
        add()
        return np.zeros((), value.dtype)

    shape = jax.ShapeDtypeStruct((), value.dtype)
    return jax.pure_callback(host, shape, value.sum(), vmap_method="sequential")
