"""A small quadratic problem with a known solution, on which the checks run.

    g(x, y) = weight (y - B x)'H(y - B x) / 2,   f(x, y) = weight (|y - t|^2 + |x - s|^2) / 2

A minibatch is an array of weights, and the losses take its mean. With all weights 1 the inner solution
is y* = B x, and a cotangent w on y* is the cotangent B'w on x. H has the eigenvalues 0.5, 0.75 and 1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.sampling import Stacked, full
from bilevel.types import Batch, Draws, Problem, PyTree

_U = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
_BASIS = np.eye(3) - 2 * np.outer(_U, _U)
H = _BASIS * np.array([0.5, 0.75, 1.0]) @ _BASIS.T
B = np.array([[0.5, -0.2], [0.1, 0.4], [-0.3, 0.6]])
S, T = np.array([0.4, -0.7]), np.array([1.0, -0.5, 0.3])


def flat(values: PyTree) -> jax.Array:
    """Return the entries of a pytree as one vector."""
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(values)])


def on_host(values: PyTree) -> np.ndarray:
    """Return the entries of a pytree as one NumPy vector, which compiles nothing."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(values)])


def as_x(vector: Any) -> PyTree:
    """Return a vector of 2 entries as an outer variable, a dict."""
    return {"c": vector[:1], "d": vector[1]}


def as_y(vector: Any) -> PyTree:
    """Return a vector of 3 entries as an inner variable, a dict."""
    return {"p": vector[:2], "q": vector[2:].reshape(1, 1)}


def _inner(x, y, weight):
    y, x = flat(y), flat(x)
    gap = y - jnp.asarray(B, y.dtype) @ x
    return 0.5 * jnp.mean(weight).astype(y.dtype) * (gap @ jnp.asarray(H, y.dtype) @ gap)


def _outer(x, y, weight):
    y, x = flat(y), flat(x)
    square = jnp.sum((y - jnp.asarray(T, y.dtype)) ** 2) + jnp.sum((x - jnp.asarray(S, x.dtype)) ** 2)
    return 0.5 * jnp.mean(weight).astype(y.dtype) * square


PROBLEM = Problem(_outer, _inner)


def variables() -> tuple[PyTree, PyTree]:
    """Return a point `(x, y)` away from the solution."""
    return jax.tree.map(jnp.asarray, (as_x(np.array([0.3, -0.8])), as_y(np.array([1.0, 0.5, -1.5]))))


def cotangent() -> PyTree:
    """Return a cotangent on `y`."""
    return jax.tree.map(jnp.asarray, as_y(np.array([0.7, 0.2, -0.4])))


def whole() -> Batch:
    """Return data whose every minibatch is the whole set."""
    return full(jnp.ones(()), jnp.ones(()))


def guarded(draws: Draws) -> Batch:
    """Return the minibatches of one step; every minibatch after them is NaN."""

    def source(count):
        # An index past the end reads the last entry.
        return Stacked(jnp.asarray(np.append(np.ones(count), np.nan)))

    return Batch(source(draws.outer), source(draws.inner))


def central_difference(function: Callable[[PyTree], Any], x: PyTree, step: float = 1e-5) -> PyTree:
    """Return the gradient of a scalar function of `x` by central differences.

    In float64 the error is about 1e-10: `step^2` plus rounding over `step`.
    """

    def at(vector):
        return function(jax.tree.map(jnp.asarray, as_x(vector)))

    x = on_host(x)
    return as_x(np.array([(at(x + move) - at(x - move)) / (2 * step) for move in step * np.eye(2)]))
