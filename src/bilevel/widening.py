"""Wider floats for work that bfloat16 and float16 cannot do: counts, averages, factorisations."""

import jax
import jax.numpy as jnp


def widened(array: jax.Array) -> jax.Array:
    """Return the array in float32 if its floats have 16 bits, else as it is.

    >>> widened(jnp.ones(2, jnp.bfloat16)).dtype, widened(jnp.ones(2, jnp.float32)).dtype
    (dtype('float32'), dtype('float32'))
    """
    return array.astype(jnp.float32) if array.dtype.itemsize < 4 else array
