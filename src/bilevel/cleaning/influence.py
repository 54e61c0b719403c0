"""Influence of each training row on the loss on trusted rows, by one linear solve.

A linear model y is trained on the mean of w_i CE_i(y) + penalty ||y||^2 with equal weights w = 1, and f
is its mean loss on the trusted rows. With g_i = d CE_i / dy and H the Hessian of the training loss in y,

    influence_i = n df/dw_i = - f_y' H^{-1} g_i

It is the hypergradient at equal weights: the first step of learning weights.

Reference: Koh and Liang, Understanding Black-box Predictions via Influence Functions, ICML 2017,
arXiv:1703.04730.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel import datasets
from bilevel.cleaning.losses import cross_entropy
from bilevel.cleaning.precision import single_precision
from bilevel.cleaning.scaling import scaling, to_device
from bilevel.cleaning.softmax import calibrated_loss, fit_path, initial_parameters, logits
from bilevel.hypergradient import hypergradient
from bilevel.inner import descend
from bilevel.linear import cg
from bilevel.response import implicit
from bilevel.sampling import full
from bilevel.types import Problem

PRODUCTS = 50


def influence(X: Any, y: Any, trusted: Any) -> np.ndarray:
    """Return the (n,) influence of each row on the loss on trusted rows.

    If it is positive, the loss is lower without the row, by about `influence / n`.

    Args:
      X, y: rows and labels, see `bilevel.clean`.
      trusted: `(X, y)` of rows whose labels are right.

    Cost: the training of a linear model, and 50 Hessian products.

    Reference: Koh and Liang, Understanding Black-box Predictions via Influence Functions, ICML 2017,
    arXiv:1703.04730.

    >>> X = np.concatenate([np.linspace(-2, -1, 50), np.linspace(1, 2, 50)])[:, None]
    >>> y = np.repeat([0, 1], 50)
    >>> y[3] = 1
    >>> int(influence(X, y, (X + 0.01, np.repeat([0, 1], 50))).argmax())
    3
    """
    data = datasets.from_arrays(X, y, trusted=trusted)
    return row_influence(
        data.features, data.labels, data.trusted_features, np.asarray(data.trusted_labels), len(data.classes)
    )


@single_precision()
def row_influence(
    features: Any, labels: np.ndarray, trusted_features: Any, trusted_labels: np.ndarray, classes: int
) -> np.ndarray:
    """Return the (n,) influence of each training row on the loss on the trusted rows.

    If it is positive, the loss is lower without the row, by about `influence / n`. The penalty is the
    one with the smallest loss on the trusted rows.

    Args:
      features: (n, ...) array or (n, d) CSR matrix.
      labels: (n,) class indices, as given.
      trusted_features, trusted_labels: rows whose labels are right.
      classes: number of classes.

    Cost: one training, and 50 Hessian products.
    """
    scale = scaling(features)
    rows, trusted = to_device(scale(features), labels), to_device(scale(trusted_features), trusted_labels)

    def judge(y):
        return calibrated_loss(np.asarray(logits(y, trusted.features)), trusted_labels)

    weights = jnp.ones(len(labels), jnp.float32)
    columns = int(np.prod(features.shape[1:]))
    chosen = fit_path(rows, weights, initial_parameters(columns, classes), judge)
    gradient = _gradient(weights, chosen.y, chosen.penalty, rows, trusted)
    return len(labels) * np.asarray(gradient, np.float64)


@jax.jit
def _gradient(weights, y, penalty, rows, trusted):
    def losses(y, batch):
        return cross_entropy(logits(y, batch.features), batch.labels)

    problem = Problem(
        outer=lambda x, y, batch: jnp.mean(losses(y, batch)),
        inner=lambda x, y, batch: jnp.mean(x * losses(y, batch)) + penalty * optax.tree.norm(y, squared=True),
    )
    response = implicit(problem, descend(problem, 1.0, steps=0), cg(PRODUCTS))
    return hypergradient(problem, response, weights, y, full(trusted, rows), diagnose=False)[0]
