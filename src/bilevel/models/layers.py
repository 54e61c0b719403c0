"""Layers that flax lacks, or whose second derivatives are slow on CPU in flax."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bilevel.models.convolution import convolution


def conv(
    features: int, size: int = 3, stride: int = 1, *, bias: bool = False, padding: str = "SAME"
) -> nn.Module:
    """Return a flax layer with He initialisation that uses `convolution`."""
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=padding,
        use_bias=bias,
        kernel_init=nn.initializers.he_normal(),
        conv_general_dilated=convolution,
    )


class BatchNorm(nn.Module):
    """Batch normalisation by the current batch, without running averages.

    Every task has a distribution of its own, which averages over tasks would not fit. With `first`, the
    statistics come from the first `first` images only, so the others (the query) do not affect each other.

    Attributes:
      epsilon: added to the variance.
      pool: also take the maximum of each 2x2 block, see `max_pool`.
    """

    epsilon: float = 1e-5
    pool: bool = False

    @nn.compact
    def __call__(self, values: jax.Array, first: int | None = None) -> jax.Array:
        """Normalise `values` (n, height, width, channels), scale and shift them."""
        scale = self.param("scale", nn.initializers.ones, (values.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (values.shape[-1],))
        seen = values[:first]
        mean = jnp.mean(seen, (0, 1, 2))
        # One pass over the values. Rounding can make the difference slightly negative.
        variance = jnp.maximum(jnp.mean(seen * seen, (0, 1, 2)) - mean * mean, 0)
        scale = scale * lax.rsqrt(variance + self.epsilon)
        shift = bias - mean * scale
        if not self.pool:
            return values * scale + shift
        # Pooling before scaling is a quarter of the work, and its derivatives need no copy of the values.
        # Where the scale is negative, the maximum comes from the minimum.
        sign = jnp.where(scale < 0, -1.0, 1.0).astype(scale.dtype)
        return max_pool(values * sign) * (scale * sign) + shift


@jax.custom_jvp
def max_pool(values: jax.Array) -> jax.Array:
    """Return the maximum of each 2x2 block; an odd last row or column is left out.

    Of equal pixels the first gets the derivative. A NaN in the first pixel of a block is kept; other NaNs
    are ignored.
    """
    return _maximum(_blocks(values))[0]


@max_pool.defjvp
def _max_pool_jvp(values, tangents):
    _, corner = _maximum(_blocks(*values))
    # The comparison spreads the corners over the blocks. Slices would become paddings in reverse mode, and
    # XLA does not vectorise loops that it fuses with paddings. The value calls `max_pool`, so that its
    # derivatives use this rule too.
    chosen = corner[:, :, None, :, None] == jnp.arange(4, dtype=corner.dtype).reshape(1, 1, 2, 1, 2, 1)
    return max_pool(*values), jnp.sum(jnp.where(chosen, _blocks(*tangents), 0), (2, 4))


def _blocks(values):
    n, height, width, channels = values.shape
    rows, columns = height // 2, width // 2
    return values[:, : 2 * rows, : 2 * columns].reshape(n, rows, 2, columns, 2, channels)


def _maximum(blocks):
    """Return the maximum of each block, and the number 0 to 3 of its corner."""
    a, b, c, d = (blocks[:, :, i, :, j] for i in (0, 1) for j in (0, 1))
    upper, lower = jnp.where(a < b, b, a), jnp.where(c < d, d, c)
    corner = jnp.where(upper < lower, jnp.where(c < d, 3, 2), jnp.where(a < b, 1, 0))
    return jnp.where(upper < lower, lower, upper), corner.astype(jnp.int8)
