"""Losses of hyper-cleaning: weights of training rows are learnt on trusted rows.

With rows (a_i, b_i), a model of parameters y, and CE_i(y) its cross entropy on row i,

    g(x, y) = mean_i sigmoid(s_i(x)) CE_i(y) + penalty ||y||^2        training rows
    f(x, y) = mean_j CE_j(y)                                         trusted rows

`per_row` has one free logit for each row, s_i(x) = x_i, as in the papers. `shared` computes the logits
by one small network from fixed scores of the rows, s_i(x) = net(x, scores_i). It has few parameters, so
it does not overfit a small set of trusted rows. For a linear model, with w_i = sigmoid(s_i),
P_i = softmax(y' a_i) and r_i = P_i - e_{b_i}:

    g_y  = (1/n) sum_i w_i a_i r_i' + 2 penalty y
    H v  = (1/n) sum_i w_i a_i ((diag P_i - P_i P_i') v' a_i)' + 2 penalty v
    (J v)_i = (1/n) w_i (1 - w_i) r_i' v' a_i                         (per row)

Reference: Franceschi, Donini, Frasconi and Pontil, Forward and Reverse Gradient-Based
Hyperparameter Optimization, ICML 2017, arXiv:1703.01785 (hyper-cleaning).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bilevel.types import Problem


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the cross entropy of each row, in the shape of the labels."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def per_row(logits: Callable[[Any, Any], jax.Array], penalty: float) -> Problem:
    """Return the hyper-cleaning problem with one free logit for each row.

    Args:
      logits: the model, `(y, features) -> (..., classes)`.
      penalty: factor of `||y||^2`.

    Returns:
      A `Problem` with x of shape (n,). Outer minibatches are dicts with `features` and `labels`; inner
      minibatches also have `row`, the position of each row in x.

    >>> problem = per_row(lambda y, features: features @ y, 0.0)
    >>> batch = {"features": jnp.eye(2), "labels": jnp.array([0, 1]), "row": jnp.array([0, 1])}
    >>> float(problem.inner(jnp.zeros(2), jnp.zeros((2, 2)), batch))  # half of log 2
    0.3465735912322998
    """

    def inner(x, y, batch):
        losses = cross_entropy(logits(y, batch["features"]), batch["labels"])
        return jnp.mean(jax.nn.sigmoid(x[batch["row"]]) * losses) + penalty * optax.tree.norm(y, squared=True)

    def outer(x, y, batch):
        return jnp.mean(cross_entropy(logits(y, batch["features"]), batch["labels"]))

    return Problem(outer, inner)


def shared(logits: Callable[[Any, Any], jax.Array], penalty: float) -> Problem:
    """Return the hyper-cleaning problem with one network from scores to logits.

    A score that was computed from a trusted row depends on its label. The problem is therefore
    cross-fitted. The trusted rows are split into K folds, and y holds K models. Model k trains with
    weights from scores that have not seen fold k, and its outer loss is on fold k:

        g = sum_k [mean_i sigmoid(net(x, scores_ik)) CE_i(y_k)] + penalty ||y||^2
        f = K mean_j CE_j(y_{fold j})

    Args:
      logits: the model, `(y_k, features) -> (..., classes)`.
      penalty: factor of `||y||^2`.

    Returns:
      A `Problem`; x holds the parameters of `net`, y the parameters of the models with a leading axis
      K. Outer minibatches are dicts with `features`, `labels` and `fold`; inner minibatches with
      `features`, `labels` and `scores` (..., K, s).
    """
    every = jax.vmap(logits, in_axes=(0, None), out_axes=-2)

    def inner(x, y, batch):
        outputs = every(y, batch["features"])
        labels = jnp.broadcast_to(batch["labels"][..., None], outputs.shape[:-1])
        weighted = jax.nn.sigmoid(net(x, batch["scores"])) * cross_entropy(outputs, labels)
        return weighted.shape[-1] * jnp.mean(weighted) + penalty * optax.tree.norm(y, squared=True)

    def outer(x, y, batch):
        outputs = every(y, batch["features"])
        fold = jnp.expand_dims(batch["fold"], (-1, -2))
        own = jnp.take_along_axis(outputs, fold, axis=-2)[..., 0, :]
        return outputs.shape[-2] * jnp.mean(cross_entropy(own, batch["labels"]))

    return Problem(outer, inner)


def init_net(key: jax.Array, scores: int, *, width: int = 16, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Return parameters of `net` that give every row the weight 1/2.

    Args:
      key: random key.
      scores: number of scores of a row.
      width: number of hidden units.
      dtype: dtype of the parameters.
    """
    return {
        "in": jax.random.normal(key, (scores, width), dtype) / scores**0.5,
        "shift": jnp.zeros((width,), dtype),
        "out": jnp.zeros((width,), dtype),
        "bias": jnp.zeros((), dtype),
    }


def net(x: dict[str, Any], scores: jax.Array) -> jax.Array:
    """Return the logits of the weights of rows, shape (...), from scores (..., s)."""
    hidden = scores @ x["in"] + jnp.expand_dims(x["shift"], tuple(range(scores.ndim - 1)))
    return jnp.tanh(hidden) @ x["out"] + x["bias"]
