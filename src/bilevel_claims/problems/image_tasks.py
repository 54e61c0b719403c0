"""Few-shot tasks of images: errors, ratios of errors and accuracies in words."""

import math
from typing import Any

import jax.numpy as jnp

# Folded into the key of a start. It exceeds the number of measured tasks, whose keys are folded too.
START = 10**6


def wrong(outputs: Any, labels: Any) -> Any:
    """Return the share of misclassified images; NaN if an output is not finite.

    The `argmax` of NaN is the first class: a diverged model would score like chance.
    """
    share = jnp.mean(jnp.argmax(outputs, -1) != labels)
    return jnp.where(jnp.all(jnp.isfinite(outputs)), share, jnp.nan)


def over(error: float, other: float, images: int) -> float:
    """Return the ratio of two error rates, each at least one of the tested images.

    >>> over(0.3, 0.6, 100), over(0.0, 0.0, 100), over(0.05, 0.0, 100)
    (0.5, 1.0, 5.0)
    """
    return max(error, 1 / images) / max(other, 1 / images)


def percent(error: float) -> str:
    """Return the accuracy in words.

    >>> percent(0.25), percent(math.inf)
    ('75.0 %', 'diverged')
    """
    return f"{100 * (1 - error):.1f} %" if math.isfinite(error) else "diverged"
