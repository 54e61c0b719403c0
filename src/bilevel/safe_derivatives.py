"""Functions whose derivatives stay finite where a root or a quotient meets zero.

Adam divides by the square root of a mean of squared gradients. At a gradient of exactly zero (a constant
feature, a dead unit) the derivative of this root is infinite, and the chain rule multiplies it by zero:
reverse mode through an inner optimiser returns NaN. Here such a derivative is zero, as in
`optax.safe_norm`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.extend.core import Literal

# Number of the argument whose zero makes the derivative infinite.
SINGULAR = {"sqrt": 0, "rsqrt": 0, "div": 1, "pow": 0, "integer_pow": 0}


def safely_differentiable(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return the optimiser with zero in place of infinite derivatives of its update.

    Its values do not change.
    """
    base = optax.with_extra_args_support(optimizer)

    def update(updates, state, params=None, **extra):
        def function(updates, state, params):
            return base.update(updates, state, params, **extra)

        return with_safe_derivatives(function, updates, state, params)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def with_safe_derivatives(function: Callable, *arguments: Any) -> Any:
    """Return `function(*arguments)`, whose derivative is finite at zeros of roots and denominators."""
    leaves, structure = jax.tree.flatten(arguments)
    closed, shapes = jax.make_jaxpr(
        lambda *leaves: function(*jax.tree.unflatten(structure, leaves)), return_shape=True
    )(*leaves)
    if not _has_singular(closed.jaxpr):
        return function(*arguments)
    return jax.tree.unflatten(jax.tree.structure(shapes), _evaluate(closed.jaxpr, closed.consts, leaves))


def _has_singular(jaxpr):
    return any(
        eqn.primitive.name in SINGULAR or any(_has_singular(inner.jaxpr) for inner in _inner_jaxprs(eqn))
        for eqn in jaxpr.eqns
    )


def _inner_jaxprs(eqn) -> tuple[Any, ...]:
    if eqn.primitive.name in ("jit", "pjit"):
        return (eqn.params["jaxpr"],)
    return eqn.params["branches"] if eqn.primitive.name == "cond" else ()


def _evaluate(jaxpr, consts, arguments):
    """Evaluate a jaxpr, with safe rules for the singular operations."""
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))
    for eqn in jaxpr.eqns:
        inputs = [var.val if isinstance(var, Literal) else values[var] for var in eqn.invars]
        values |= zip(eqn.outvars, _apply(eqn, inputs), strict=True)
    return [var.val if isinstance(var, Literal) else values[var] for var in jaxpr.outvars]


def _apply(eqn, inputs):
    name, inner = eqn.primitive.name, _inner_jaxprs(eqn)
    if name in SINGULAR:
        return [_safe(eqn.primitive, eqn.params, SINGULAR[name])(*inputs)]
    if name in ("jit", "pjit"):
        return _evaluate(inner[0].jaxpr, inner[0].consts, inputs)
    if name == "cond":

        def branch(closed):
            return lambda *arguments: _evaluate(closed.jaxpr, closed.consts, arguments)

        return lax.switch(inputs[0], list(map(branch, inner)), *inputs[1:])
    params = eqn.primitive.get_bind_params(eqn.params)
    # Older versions of JAX return a pair: functions to pass first, and parameters.
    functions, params = params if isinstance(params, tuple) else ((), params)
    outputs = eqn.primitive.bind(*functions, *inputs, **params)
    return outputs if eqn.primitive.multiple_results else [outputs]


def _safe(primitive, params, place):
    def plain(*inputs):
        return primitive.bind(*inputs, **params)

    # A square has a regular derivative at zero, and its second derivative must stay.
    if primitive.name == "integer_pow" and params["y"] >= 0:
        return plain
    safe = jax.custom_jvp(plain)

    @safe.defjvp
    def rule(inputs, tangents):
        regular = inputs[place] > 0 if "sqrt" in primitive.name else inputs[place] != 0
        moved = [*inputs]
        moved[place] = jnp.where(regular, inputs[place], jnp.ones_like(inputs[place]))
        _, tangent = jax.jvp(plain, tuple(moved), tuple(tangents))
        return safe(*inputs), jnp.where(regular, tangent, jnp.zeros_like(tangent))

    return safe
