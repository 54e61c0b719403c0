"""Batches of a problem whose rows are all in memory."""

from typing import Any

from bilevel.sampling import full, minibatches
from bilevel.types import Batch


def batches(outer: Any, inner: Any, batch_size: int | None, seed: int = 0) -> Batch:
    """Return minibatches of the rows of both losses, or all rows if `batch_size` is None."""
    if batch_size is None:
        return full(outer, inner)
    return minibatches(outer, inner, batch_size=batch_size, seed=seed)
