"""Cleaning computes in float32, whatever the rest of the program does."""

from contextlib import contextmanager

import jax


@contextmanager
def single_precision():
    """A context, or decorator, in which floats are float32.

    optax keeps some state in the default float and relies on promotion, so that a program in
    float64 or with strict promotion could not train float32 models otherwise.
    """
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
