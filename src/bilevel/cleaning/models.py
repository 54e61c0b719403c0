"""The models that cleaning trains: a linear one and one with a hidden layer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.sparse import times


class Model(NamedTuple):
    """A classifier as two pure functions.

    Attributes:
      init: `(key, columns, classes) -> y`.
      logits: `(y, features) -> (..., classes)`, for dense and `Sparse` features.
      step: inner step size that fits rows scaled by `scaling`.
      convex: whether its loss is.
    """

    init: Callable[[Any, int, int], Any]
    logits: Callable[[Any, Any], Any]
    step: float
    convex: bool


def linear() -> Model:
    """Softmax regression that starts at zero.

    Rows are scaled so that their largest second moment is 1: the curvature of the loss is then at
    most about 1/2 + 1/2 (features and bias), and a step of 1 is safe.
    """
    return Model(_init_linear, _linear_logits, 1.0, True)


def mlp() -> Model:
    """One hidden layer of 64 rectified units."""
    return Model(_init_mlp, _mlp_logits, 0.1, False)


MODELS = {"linear": linear, "mlp": mlp}


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
