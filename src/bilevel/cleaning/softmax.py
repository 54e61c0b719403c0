"""Softmax regression on scaled rows: training, and the choice of its penalty."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special
from jax import lax

from bilevel.cleaning.losses import cross_entropy
from bilevel.cleaning.precision import single_precision
from bilevel.cleaning.scaling import ScaledRows
from bilevel.sparse import times

# From strong to weak, for a mean loss over rows scaled by `scaling`.
PENALTIES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
MAX_STEPS = 200
TEMPERATURES = np.geomspace(1 / 2, 16, 11)


class Fit(NamedTuple):
    """A trained softmax regression.

    Attributes:
      y: parameters.
      penalty: penalty of the training loss.
      residual: norm of the gradient where training stopped.
    """

    y: Any
    penalty: float
    residual: float


def initial_parameters(columns: int, classes: int) -> dict[str, jax.Array]:
    """Return zeros: the matrix (columns, classes) and the bias (classes,)."""
    return {
        "matrix": jnp.zeros((columns, classes), jnp.float32),
        "bias": jnp.zeros((classes,), jnp.float32),
    }


def logits(y: Any, features: Any) -> jax.Array:
    """Return the (n, classes) logits of dense rows, or of `Sparse` rows in one block."""
    outputs = times(features, y["matrix"])
    return outputs.reshape(-1, outputs.shape[-1]) + y["bias"][None]


@single_precision()
def fit(
    rows: ScaledRows,
    weights: Any,
    penalty: float,
    y: Any,
    *,
    tolerance: float = 3e-4,
) -> Fit:
    """Return the parameters trained on weighted rows by full-batch L-BFGS.

        min_y  sum_i w_i CE_i(y) / sum_i w_i + penalty ||y||^2

    Args:
      rows: all rows, including rows of weight 0. Subsets of the same rows then share one compilation.
      weights: (n,) non-negative weights, not all 0.
      penalty: factor of the squared norm.
      y: parameters from which training starts.
      tolerance: norm of the gradient at which training stops; it takes at most 200 steps.

    Returns:
      A `Fit`.
    """
    weights = jnp.asarray(np.asarray(weights) / np.sum(weights), jnp.float32)
    y, residual = _lbfgs(rows, weights, jnp.float32(penalty), y, jnp.float32(tolerance))
    return Fit(y, penalty, float(residual))


@jax.jit
def _lbfgs(rows, weights, penalty, y, tolerance):
    def loss(y):
        losses = cross_entropy(logits(y, rows.features), rows.labels)
        return weights @ losses + penalty * optax.tree.norm(y, squared=True)

    optimizer = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def unfinished(carry):
        return (carry[2] < MAX_STEPS) & (carry[3] > tolerance)

    def step(carry):
        y, state, count, _ = carry
        value, gradient = value_and_grad(y, state=state)
        update, state = optimizer.update(gradient, state, y, value=value, grad=gradient, value_fn=loss)
        residual = optax.tree.norm(optax.tree.get(state, "grad"))
        return optax.apply_updates(y, update), state, count + 1, residual

    y, _, _, residual = lax.while_loop(unfinished, step, (y, optimizer.init(y), 0, jnp.float32(jnp.inf)))
    return y, residual


def fit_path(rows: ScaledRows, weights: Any, y: Any, judge: Callable[[Any], float]) -> Fit:
    """Return the fit with the best of the penalties, tried from strong to weak.

    Each fit starts at the one before it. The search ends at the first penalty that is worse than the
    best so far.

    Args:
      rows, weights, y: see `fit`.
      judge: `y -> loss`; the penalty with the smallest loss is best.
    """
    best, best_loss = None, np.inf
    for penalty in PENALTIES:
        current = fit(rows, weights, penalty, y)
        loss = judge(current.y)
        y = current.y
        if loss > best_loss * (1 + 1e-4):
            break
        if loss < best_loss:
            best, best_loss = current, loss
    assert best is not None
    return best


def calibrated_loss(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Return the cross entropy at the best of a few temperatures.

    A classifier trained on wrong labels is rightly unsure of itself, and plain cross entropy would
    favour one that overfits them. The best temperature removes the effect of its confidence.

    Args:
      outputs: (n, classes) logits.
      labels: (n,) class indices.
    """
    outputs = outputs.astype(np.float64)

    def loss(temperature):
        logs = scipy.special.log_softmax(temperature * outputs, axis=1)
        return -logs[np.arange(len(labels)), labels].mean()

    return min(loss(temperature) for temperature in TEMPERATURES)
