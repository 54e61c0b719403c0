"""Losses of hyper-cleaning: weights of training rows are learnt on trusted rows.

With rows (a_i, b_i), a model of parameters y, and CE_i(y) its cross entropy on row i,

    g(x, y) = mean_i sigmoid(x_i) CE_i(y) + penalty ||y||^2        training rows
    f(x, y) = mean_j CE_j(y)                                       trusted rows

with one free logit x_i for each row, as in the papers. For a linear model, with w_i = sigmoid(x_i),
P_i = softmax(y' a_i) and r_i = P_i - e_{b_i}:

    g_y  = (1/n) sum_i w_i a_i r_i' + 2 penalty y
    H v  = (1/n) sum_i w_i a_i ((diag P_i - P_i P_i') v' a_i)' + 2 penalty v
    (J v)_i = (1/n) w_i (1 - w_i) r_i' v' a_i

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
