"""Classifiers that cleaning trains: a linear one and one with a hidden layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.sparse import times


class Classifier(NamedTuple):
    """A classifier as two pure functions.

    Attributes:
      init: `(key, columns, classes) -> y`.
      logits: `(y, features) -> (..., classes)`, for dense and `Sparse` features.
      step: inner step size for rows scaled by `scaling`.
      convex: whether its loss is convex in y.
    """

    init: Callable[[Any, int, int], Any]
    logits: Callable[[Any, Any], Any]
    step: float
    convex: bool


def linear() -> Classifier:
    """Return softmax regression that starts at zero.

    The largest second moment of the scaled rows is 1. The curvature of the loss is then at most about
    1/2 + 1/2 (features and bias), so a step of 1 is stable.
    """
    return Classifier(init=_init_linear, logits=_linear_logits, step=1.0, convex=True)


def mlp() -> Classifier:
    """Return a network with one hidden layer of 64 ReLU units."""
    return Classifier(init=_init_mlp, logits=_mlp_logits, step=0.1, convex=False)


CLASSIFIERS = {"linear": linear, "mlp": mlp}


def _init_linear(key, columns, classes):
    return {"matrix": jnp.zeros((columns, classes), jnp.float32), "bias": jnp.zeros((classes,), jnp.float32)}


def _linear_logits(y, features):
    return _add_bias(times(features, y["matrix"]), y["bias"])


def _init_mlp(key, columns, classes, width=64):
    first, second = jax.random.split(key)
    return {
        "matrix": 0.2 * jax.random.normal(first, (columns, width), jnp.float32),
        "shift": jnp.zeros((width,), jnp.float32),
        "head": jax.random.normal(second, (width, classes), jnp.float32) / width**0.5,
        "bias": jnp.zeros((classes,), jnp.float32),
    }


def _mlp_logits(y, features):
    hidden = jax.nn.relu(_add_bias(times(features, y["matrix"]), y["shift"]))
    return _add_bias(hidden @ y["head"], y["bias"])


def _add_bias(outputs, bias):
    return outputs + jnp.expand_dims(bias, tuple(range(outputs.ndim - 1)))
