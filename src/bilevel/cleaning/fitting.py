"""Training one model to convergence, and choosing its penalty."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special
from jax import lax

from bilevel.cleaning.losses import cross_entropy
from bilevel.cleaning.models import Model
from bilevel.cleaning.precision import single_precision
from bilevel.cleaning.scaling import Rows

# Strong to weak; they are per row and fit the scale that `scaling` gives.
PENALTIES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
TEMPERATURES = np.geomspace(1 / 2, 16, 11)


class Fit(NamedTuple):
    """A trained model.

    Attributes:
      y: its parameters.
      penalty: it was trained with.
      residual: norm of the gradient where training stopped.
    """

    y: Any
    penalty: float
    residual: float


def start(model: Model, features, classes: int, seed: int):
    """Parameters from which training starts."""
    columns = features.shape[1]
    return model.init(jax.random.key(seed), columns, classes)


@single_precision()
def fit(
    model: Model, rows: Rows, weights, penalty: float, y, *, steps: int = 200, tolerance: float = 3e-4
) -> Fit:
    """The model trained on weighted rows by L-BFGS on all of them.

        min_y  sum_i w_i CE_i(y) / sum_i w_i + penalty ||y||^2

    Args:
      model: what to train.
      rows: all rows, also those of weight 0: sets that differ in weights alone share one compilation.
      weights: (n,) non-negative, not all 0.
      penalty: factor of the squared norm.
      y: start.
      steps: at most.
      tolerance: norm of the gradient at which to stop.

    Returns:
      A `Fit`.
    """
    weights = jnp.asarray(np.asarray(weights) / np.sum(weights), jnp.float32)
    y, residual = _lbfgs(model, rows, weights, jnp.float32(penalty), y, steps, jnp.float32(tolerance))
    return Fit(y, penalty, float(residual))


@partial(jax.jit, static_argnums=(0, 5))
def _lbfgs(model, rows, weights, penalty, y, steps, tolerance):
    def loss(y):
        logits = model.logits(y, rows.features)
        losses = cross_entropy(logits.reshape(-1, logits.shape[-1]), rows.labels)
        return weights @ losses + penalty * optax.tree.norm(y, squared=True)

    optimizer = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def go_on(carry):
        return (carry[2] < steps) & (carry[3] > tolerance)

    def step(carry):
        y, state, count, _ = carry
        value, gradient = value_and_grad(y, state=state)
        update, state = optimizer.update(gradient, state, y, value=value, grad=gradient, value_fn=loss)
        residual = optax.tree.norm(optax.tree.get(state, "grad"))
        return optax.apply_updates(y, update), state, count + 1, residual

    y, _, _, residual = lax.while_loop(go_on, step, (y, optimizer.init(y), 0, jnp.float32(jnp.inf)))
    return y, residual


def fit_path(model: Model, rows: Rows, weights, y, judge: Callable[[Any], float]) -> Fit:
    """The fit whose penalty is best by `judge(y)` (lower is better), from strong to weak.

    A fit of a convex model starts at the one before it; the search ends at the first that is worse.
    """
    best, best_loss, begin = None, np.inf, y
    for penalty in PENALTIES:
        current = fit(model, rows, weights, penalty, begin)
        loss = judge(current.y)
        # A strong penalty makes a network collapse to zero, and keeps it there.
        begin = current.y if model.convex else y
        if loss > best_loss * (1 + 1e-4):
            break
        if loss < best_loss:
            best, best_loss = current, loss
    assert best is not None
    return best


@partial(jax.jit, static_argnums=0)
def _logits(model, y, features):
    logits = model.logits(y, features)
    return logits.reshape(-1, logits.shape[-1])


def logits(model: Model, y, features) -> np.ndarray:
    """(n, classes) outputs of a model."""
    return np.asarray(_logits(model, y, features))


def calibrated_loss(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Cross entropy at the best of a few temperatures.

    A model trained on wrong labels is rightly unsure of itself. Judged by plain cross entropy it
    would look best where it overfits them; the temperature takes that confidence out.
    """
    outputs = outputs.astype(np.float64)

    def loss(temperature):
        logs = scipy.special.log_softmax(temperature * outputs, axis=1)
        return -logs[np.arange(len(labels)), labels].mean()

    return min(loss(temperature) for temperature in TEMPERATURES)
