"""Second derivatives of the inner loss, which no other module computes.

Signs: `H = d2g/dy2`, `J = d2g/dxdy`, `v = +H^-1 f_y`, hypergradient `f_x - J v`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from bilevel.types import PyTree


class Products(NamedTuple):
    """Products `J w` and `H w` of one vector `w`, with second derivatives of g."""

    cross: PyTree
    hessian: PyTree


def inner_gradient(inner: Callable) -> Callable:
    """Return the function `(x, y, batch) -> g_y` with a cheap reverse derivative.

    The Jacobian of a gradient is symmetric, so the backward pass is one forward-over-reverse pass:
    `vjp(g_y)(w) = jvp(grad_{x,y} g)((0, w)) = (J w, H w)`. It keeps the point `(x, y)` only. So a scan of
    optimiser steps stores its iterates and nothing else.

    Args:
      inner: the loss `(x, y, batch) -> scalar`.

    Returns:
      A function of `(x, y, batch)` with reverse derivatives of every order in `x` and `y`.

    Raises:
      ValueError: if it is differentiated with respect to `batch`, which is data, or to a value that `inner`
        closes over.

    Cost: 1 gradient; its backward pass 1 Hessian product and 1 cross product.
    """

    def mixed(x, y, batch):
        explicit, held = hoisted(inner, x, y, batch)

        @jax.custom_vjp
        def gradient(x, y, data):
            return jax.grad(explicit, argnums=1)(x, y, data)

        def forward(x, y, data):
            x, y, data = untagged((x, y, data), data=data[0], held=data[1])
            return gradient(x, y, data), (x, y, data)

        def backward(point, w):
            x, y, data = point
            product = products(explicit, x, y, data, dense(w))
            return product.cross, product.hessian, None

        gradient.defvjp(forward, backward, symbolic_zeros=True)
        return gradient(x, y, (batch, held))

    return mixed


def products(inner: Callable, x: PyTree, y: PyTree, batch: Any, w: PyTree) -> Products:
    """Return `J w` and `H w`, by one forward-over-reverse pass.

    Cost: 1 Hessian product and 1 cross product.
    """
    return gradient_and_products(inner, x, y, batch, w)[1]


def gradient_and_products(
    inner: Callable, x: PyTree, y: PyTree, batch: Any, w: PyTree
) -> tuple[PyTree, Products]:
    """Return `g_y`, and `J w` and `H w`, by one pass.

    Cost: 1 gradient, 1 Hessian product and 1 cross product.
    """
    (_, g_y), (cross, hessian) = jax.jvp(lambda y: jax.grad(inner, argnums=(0, 1))(x, y, batch), (y,), (w,))
    return g_y, Products(cross, hessian)


def hessian_product(inner: Callable, x: PyTree, y: PyTree, batch: Any, w: PyTree) -> PyTree:
    """Return `H w`, without the cross product.

    Cost: 1 Hessian product.
    """
    return jax.jvp(lambda y: jax.grad(inner, argnums=1)(x, y, batch), (y,), (w,))[1]


def gradient_and_hessian(
    inner: Callable, x: PyTree, y: PyTree, batch: Any
) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """Return `g_y` and the map `w -> H w`, linearised once for many products.

    Cost: 1 gradient; the map 1 Hessian product per call.
    """
    return jax.linearize(lambda y: jax.grad(inner, argnums=1)(x, y, batch), y)


def cross_difference(inner: Callable, x: PyTree, y: PyTree, batch: Any, w: PyTree, length: Any) -> PyTree:
    """Return `J w` without second derivatives, by a central difference of `g_x`.

    The two points lie at distance `length` on either side of y. The error falls like the square of `length`;
    if g_x is quadratic in y, only rounding errors remain.

    Cost: 2 gradients.
    """
    norm = optax.tree.norm(w)
    scale = length / jnp.where(norm > 0, norm, 1)
    ahead, behind = (jax.grad(inner)(x, optax.tree.add_scale(y, s, w), batch) for s in (scale, -scale))
    return optax.tree.scale(0.5 / scale, optax.tree.sub(ahead, behind))


def hessian_operator(
    inner: Callable, x: PyTree, y: PyTree, source: Any
) -> Callable[[Any], Callable[[PyTree], PyTree]]:
    """Return `i -> (w -> H w)`, the Hessian of the i-th minibatch of a `Source`.

    If every minibatch is the whole set, the gradient is linearised once and the linear map is reused.
    (Inside a compiled loop XLA often does this anyway; outside of loops it halves the cost.)
    """
    if source.is_full:
        _, matvec = gradient_and_hessian(inner, x, y, source[0])
        return lambda i: matvec
    return lambda i: lambda w: hessian_product(inner, x, y, source[i], w)


def hoisted(
    function: Callable, x: PyTree, y: PyTree, batch: Any, *, needed: bool = True
) -> tuple[Callable, list]:
    """Return `function` with the traced values that it closes over as an argument, and these values.

        function(x, y, batch) = explicit(x, y, (batch, held))

    A `custom_vjp` knows whether an argument is differentiated, but not so for what its function closes over;
    and its backward pass may run when a `vmap` whose values it closes over has ended.

    Args:
      function: a function of `(x, y, batch)`; it is traced once.
      x, y, batch: its arguments.
      needed: False if it is known that `function` closes over no traced value; it is then not traced.

    Returns:
      `(explicit, held)`. Call `explicit` with arguments of the same shapes only.
    """
    if not needed:
        return lambda x, y, data: function(x, y, data[0]), []
    closed, shape = jax.make_jaxpr(function, return_shape=True)(x, y, batch)
    is_held = [isinstance(value, Tracer) for value in closed.consts]

    def explicit(x, y, data):
        batch, held = data
        values = iter(held)
        constants = [next(values) if h else value for h, value in zip(is_held, closed.consts, strict=True)]
        evaluate = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, constants))
        leaves = evaluate(*jax.tree.leaves((x, y, batch)))
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)

    return explicit, [value for h, value in zip(is_held, closed.consts, strict=True) if h]


def untagged(arguments: Any, data: Any, held: Any = (), start: Any = ()) -> Any:
    """Return the plain values of the arguments of a `custom_vjp` forward rule.

    The rule is defined with `symbolic_zeros`.

    Args:
      arguments: arguments of the rule.
      data: those that are data.
      held: those that a loss closes over, see `hoisted`.
      start: those that an inner solve starts from.

    Raises:
      ValueError: if one of `data`, `held` or `start` is differentiated; its cotangent would silently be zero.
    """

    def is_tagged(leaf):
        return isinstance(leaf, CustomVJPPrimal)

    def differentiated(part):
        return any(leaf.perturbed for leaf in jax.tree.leaves(part, is_leaf=is_tagged))

    if differentiated(data):
        raise ValueError(
            "a solver cannot be differentiated with respect to its data; "
            "put the quantity that you differentiate in `x`"
        )
    if differentiated(held):
        raise ValueError(
            "a solver cannot be differentiated with respect to a value that its loss closes over; "
            "put the quantity that you differentiate in `x`"
        )
    if differentiated(start):
        raise ValueError(
            "this response has no derivative with respect to the start y0; use unrolled(..., start=...) to "
            "learn a start, or pass jax.lax.stop_gradient(y0)"
        )
    return jax.tree.map(lambda leaf: leaf.value, arguments, is_leaf=is_tagged)


def dense(cotangents: Any) -> Any:
    """Return cotangents as arrays, with zeros in place of symbolic zeros."""

    def convert(leaf):
        zero: Any = leaf
        return jnp.zeros(zero.shape, zero.dtype) if isinstance(leaf, SymbolicZero) else leaf

    return jax.tree.map(convert, cotangents, is_leaf=lambda leaf: isinstance(leaf, SymbolicZero))
