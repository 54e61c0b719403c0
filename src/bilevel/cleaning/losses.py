"""Data hyper-cleaning: learn how much each training row counts, judged by trusted rows.

With rows (a_i, b_i), a model of parameters y, and CE_i(y) its cross entropy on row i,

    g(x, y) = mean_i sigmoid(s_i(x)) CE_i(y) + penalty ||y||^2        training rows
    f(x, y) = mean_j CE_j(y)                                         trusted rows

`per_row` has one free logit a row, s_i(x) = x_i (the papers' form). `shared` computes the logit by
one small net from fixed scores of the row, s_i(x) = net(x, scores_i): few unknowns, so that few
trusted rows do not overfit. For a linear model, with w_i = sigmoid(s_i), P_i = softmax(y' a_i) and
r_i = P_i - e_{b_i}:

    g_y  = (1/n) sum_i w_i a_i r_i' + 2 penalty y
    H v  = (1/n) sum_i w_i a_i ((diag P_i - P_i P_i') v' a_i)' + 2 penalty v
    (J v)_i = (1/n) w_i (1 - w_i) r_i' v' a_i                         (per row)

Reference: Franceschi, Donini, Frasconi and Pontil, Forward and Reverse Gradient-Based
Hyperparameter Optimization, ICML 2017, arXiv:1703.01785 (hyper-cleaning).
"""

import jax
import jax.numpy as jnp
import optax

from bilevel.types import Problem


def cross_entropy(logits, labels):
    """Cross entropy of each row, shape of the labels."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def per_row(logits, penalty: float) -> Problem:
    """Hyper-cleaning with one free logit a row.

    Args:
      logits: the model, `(y, features) -> (..., classes)`.
      penalty: factor of `||y||^2`.

    Returns:
      A `Problem`; x is (n,). Outer minibatches are dicts with `features`, `labels`; inner ones also
      have `row`, the position of each row in x.

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


def shared(logits, penalty: float) -> Problem:
    """Hyper-cleaning with one small net from the scores of a row to its logit, cross-fitted.

    Scores that come from trusted rows know their labels. So the trusted rows are dealt into K folds,
    y is K models side by side, model k trains on weights from scores that have not seen fold k,
    and fold k judges model k:

        g = sum_k [mean_i sigmoid(net(x, scores_ik)) CE_i(y_k)] + penalty ||y||^2
        f = K mean_j CE_j(y_{fold j})

    Args:
      logits: the model, `(y_k, features) -> (..., classes)`.
      penalty: factor of `||y||^2`.

    Returns:
      A `Problem`; x are the parameters of `net`, y those of the model with a leading axis K. Outer
      minibatches are dicts with `features`, `labels`, `fold`; inner ones with `features`, `labels`,
      `scores` (..., K, s).
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


def init_net(key, scores: int, *, width: int = 16, dtype=jnp.float32):
    """Parameters of `net` that give every row the weight 1/2."""
    return {
        "in": jax.random.normal(key, (scores, width), dtype) / scores**0.5,
        "shift": jnp.zeros((width,), dtype),
        "out": jnp.zeros((width,), dtype),
        "bias": jnp.zeros((), dtype),
    }


def net(x, scores):
    """Logits of the weights of rows, shape (...), from their scores (..., s)."""
    hidden = scores @ x["in"] + jnp.expand_dims(x["shift"], tuple(range(scores.ndim - 1)))
    return jnp.tanh(hidden) @ x["out"] + x["bias"]
