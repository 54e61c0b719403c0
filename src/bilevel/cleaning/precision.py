"""Single precision for cleaning, whatever the caller's JAX settings are."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def single_precision() -> Iterator[None]:
    """Return a context manager, also a decorator, in which floats are float32.

    optax keeps some state in the default float and relies on type promotion. A program in float64 or
    with strict promotion could not train float32 models without this context.
    """
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
