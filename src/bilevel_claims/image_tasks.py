"""How entries on tasks of images start, and how they count and compare errors."""

import math
from typing import Any

import jax.numpy as jnp

# Folded into the key of a start: beyond the numbers of the tasks that are measured, whose keys are alike.
START = 10**6


def wrong(outputs: Any, labels: Any) -> Any:
    """Share of the images taken for another class; NaN where an output is not finite.

    The `argmax` of NaN is the first class: what diverged would score as chance does.
    """
    share = jnp.mean(jnp.argmax(outputs, -1) != labels)
    return jnp.where(jnp.all(jnp.isfinite(outputs)), share, jnp.nan)


def over(error: float, other: float, images: int) -> float:
    """The ratio of two errors, none below one of the images that were asked.

    >>> over(0.3, 0.6, 100), over(0.0, 0.0, 100), over(0.05, 0.0, 100)
    (0.5, 1.0, 5.0)
    """
    least = 1 / images
    return max(error, least) / max(other, least)


def percent(error: float) -> str:
    """The accuracy in words.

    >>> percent(0.25), percent(math.inf)
    ('75.0 %', 'diverged')
    """
    return f"{100 * (1 - error):.1f} %" if math.isfinite(error) else "diverged"
