"""Layers that flax does not have, or not fast enough to differentiate twice on CPU."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bilevel.models.convolution import convolution


def conv(features: int, size: int = 3, stride: int = 1, *, bias: bool = False, padding="SAME") -> nn.Module:
    """A convolution layer of flax, He start, on the fast convolution of this package."""
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
    """Batch normalisation by the statistics of the images at hand, with no running averages.

    Tasks are small and each is another distribution: averages over tasks fit none of them. Given
    `first`, only the first so many images make the statistics, so that the others (the query) are
    normalised without a look at one another.
    """

    epsilon: float = 1e-5
    pool: bool = False

    @nn.compact
    def __call__(self, values: jax.Array, first: int | None = None) -> jax.Array:
        """Values (n, height, width, channels) with mean 0 and variance 1, scaled and shifted.

        With `pool` the greatest of each 2x2 block of them, see `max_pool`.
        """
        scale = self.param("scale", nn.initializers.ones, (values.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (values.shape[-1],))
        seen = values[:first]
        mean = jnp.mean(seen, (0, 1, 2))
        # One pass over the values; rounding can make it a little less than nothing.
        variance = jnp.maximum(jnp.mean(seen * seen, (0, 1, 2)) - mean * mean, 0)
        scale = scale * lax.rsqrt(variance + self.epsilon)
        shift = bias - mean * scale
        if not self.pool:
            return values * scale + shift
        # Where it falls, the greatest comes from the least: pooling before scaling is a quarter of the
        # work, and its derivatives need no copy of the values.
        sign = jnp.where(scale < 0, -1.0, 1.0).astype(scale.dtype)
        return max_pool(values * sign) * (scale * sign) + shift


@jax.custom_jvp
def max_pool(values: jax.Array) -> jax.Array:
    """The greatest of each 2x2 block of pixels; an odd last row or column is left out.

    Of equal pixels the first has the derivative. A NaN is passed over but in the first pixel of a
    block, and there it stays.
    """
    return _greatest(_blocks(values))[0]


@max_pool.defjvp
def _max_pool_jvp(values, tangents):
    _, corner = _greatest(_blocks(*values))
    # A comparison that spreads the corners over the blocks: slices would become paddings in reverse,
    # which XLA does not turn into vector instructions. For the same reason the value comes by this rule.
    chosen = corner[:, :, None, :, None] == jnp.arange(4, dtype=corner.dtype).reshape(1, 1, 2, 1, 2, 1)
    return max_pool(*values), jnp.sum(jnp.where(chosen, _blocks(*tangents), 0), (2, 4))


def _blocks(values):
    n, height, width, channels = values.shape
    rows, columns = height // 2, width // 2
    return values[:, : 2 * rows, : 2 * columns].reshape(n, rows, 2, columns, 2, channels)


def _greatest(blocks):
    """The greatest of each block, and the number 0 to 3 of its corner."""
    a, b, c, d = (blocks[:, :, i, :, j] for i in (0, 1) for j in (0, 1))
    upper, lower = jnp.where(a < b, b, a), jnp.where(c < d, d, c)
    corner = jnp.where(upper < lower, jnp.where(c < d, 3, 2), jnp.where(a < b, 1, 0))
    return jnp.where(upper < lower, lower, upper), corner.astype(jnp.int8)
