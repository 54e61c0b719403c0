"""A convolution that is fast on CPU in loops, `vmap` and all derivatives.

On CPU, XLA runs a convolution by fast matrix kernels when images are laid out channels last and the
kernel is not reversed. Derivatives of a convolution are convolutions too, but with permuted axes and a
reversed kernel. XLA rewrites those outside of loops only; inside a loop it falls back to plain loops, ten
to twenty times slower. Here every derivative is written in the fast form.

On CPU, 3x3 kernels with many channels use Winograd's minimal filtering instead. If a window has no more
entries than there are output features, one matrix product over all windows is used.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from bilevel.models.winograd import resized, tiled_convolution, tiled_correlation, worth_tiling


def convolution(
    inputs: jax.Array,
    kernel: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """Convolve images, channels last; a drop-in for `lax.conv_general_dilated`.

    Use it as `flax.linen.Conv(..., conv_general_dilated=convolution)`. With strides it is one matrix
    product of all windows with the kernel, on every device.

    Args:
      inputs: (n, height, width, channels).
      kernel: (rows, columns, channels, features).
      window_strides: vertical and horizontal stride.
      padding: "SAME", "VALID", or ((top, bottom), (left, right)).
      lhs_dilation, rhs_dilation, feature_group_count: must be 1 or None, as in a plain convolution.
      dimension_numbers, precision: ignored; flax passes them.

    Returns:
      (n, new height, new width, features).

    Raises:
      ValueError: for dilations or several groups.

    >>> convolution(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 2)), (1, 1), "SAME").shape
    (1, 4, 4, 2)
    """
    plain = all(set(dilation or (1,)) == {1} for dilation in (lhs_dilation, rhs_dilation))
    if not plain or feature_group_count != 1:
        raise ValueError(
            f"convolution must have no dilation and one group, got dilations {lhs_dilation} and "
            f"{rhs_dilation}, {feature_group_count} groups; use lax.conv_general_dilated"
        )
    strides = tuple(window_strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(inputs.shape[1:3], kernel.shape[:2], strides, padding)
    (top, bottom), (left, right) = padding
    padding = (top, bottom), (left, right)
    if strides == (1, 1):
        return _convolve(inputs, kernel, padding)
    # The derivatives of a matrix product are fast as they are.
    return _as_product(inputs, kernel, strides, padding)


def _patches(inputs, window, strides, padding):
    """Return the pixels of each window: (n, height, width, rows * columns * channels)."""
    n, _, _, channels = inputs.shape
    (rows, columns), (down, across) = window, strides
    every = _windows(inputs, window, padding)
    height, width = ((count - 1) // stride + 1 for count, stride in zip(every, strides, strict=True))
    # In blocks as large as the strides, pixel (i, j) of all windows is a contiguous slice.
    blocks = height + (rows - 1) // down, width + (columns - 1) // across
    inputs = resized(inputs, padding, (blocks[0] * down, blocks[1] * across))
    inputs = inputs.reshape(n, blocks[0], down, blocks[1], across, channels)
    pixels = [
        inputs[:, i // down :, i % down, j // across :, j % across][:, :height, :width]
        for i in range(rows)
        for j in range(columns)
    ]
    return jnp.concatenate(pixels, -1)


def _as_product(inputs, kernel, strides, padding):
    """Convolve by one matrix product, in which every window is a row."""
    return _patches(inputs, kernel.shape[:2], strides, padding) @ kernel.reshape(-1, kernel.shape[3])


def _convolve(inputs, kernel, padding):
    return _convolve_p.bind(inputs, kernel, padding=padding)


def _correlate(inputs, outputs, padding):
    """Return the derivative with respect to the kernel."""
    return _correlate_p.bind(inputs, outputs, padding=padding)


def _by_inputs(outputs, kernel, padding):
    """Return the derivative with respect to the inputs, by the reversed kernel."""
    reversed_kernel = kernel[::-1, ::-1].swapaxes(2, 3)
    sizes = zip(kernel.shape[:2], padding, strict=True)
    rest = [(size - 1 - before, size - 1 - after) for size, (before, after) in sizes]
    return _convolve(outputs, reversed_kernel, (rest[0], rest[1]))


def _convolve_on_cpu(inputs, kernel, padding):
    size = _windows(inputs, kernel.shape[:2], padding)
    if worth_tiling(kernel.shape[:2], size, *kernel.shape[2:]):
        return tiled_convolution(inputs, kernel, padding, size)
    if _fewer_than_outputs(kernel.shape, size):
        return _as_product(inputs, kernel, (1, 1), padding)
    return _native(inputs, kernel, padding)


def _correlate_on_cpu(inputs, outputs, padding):
    size = outputs.shape[1:3]
    kernel = *_windows(inputs, size, padding), inputs.shape[3], outputs.shape[3]
    if worth_tiling(kernel[:2], size, *kernel[2:]):
        return tiled_correlation(inputs, outputs, padding)
    if _fewer_than_outputs(kernel, size):
        pixels = _patches(inputs, kernel[:2], (1, 1), padding)
        return jnp.tensordot(pixels, outputs, 2 * [(0, 1, 2)]).reshape(kernel)
    return _native_correlate(inputs, outputs, padding)


def _fewer_than_outputs(kernel, size):
    """Return whether a window has no more entries than there are features."""
    rows, columns, channels, features = kernel
    return min(size) > 0 and 0 < rows * columns * channels <= features


def _native_correlate(inputs, outputs, padding):
    # Channels act as images, images as channels, and outputs as the kernel.
    found = _native(inputs.transpose(3, 1, 2, 0), outputs.transpose(1, 2, 0, 3), padding)
    return found.transpose(1, 2, 0, 3)


def _native(inputs, kernel, padding):
    return lax.conv_general_dilated(
        inputs, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _windows(images, window, padding):
    """Return the numbers of windows that fit along the height and the width."""
    sizes = zip(images.shape[1:3], window, padding, strict=True)
    return tuple(size + sum(pads) - width + 1 for size, width, pads in sizes)


_convolve_p = Primitive("channels_last_convolution")
_correlate_p = Primitive("channels_last_correlation")


def _shape(implementation):
    def shape(inputs, other, *, padding):
        structs = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in (inputs, other)]
        found = jax.eval_shape(partial(implementation, padding=padding), *structs)
        return ShapedArray(found.shape, found.dtype)

    return shape


for _primitive, _everywhere, _on_cpu in (
    (_convolve_p, _native, _convolve_on_cpu),
    (_correlate_p, _native_correlate, _correlate_on_cpu),
):
    _primitive.def_impl(jax.jit(_primitive.bind, static_argnames="padding"))
    _primitive.def_abstract_eval(_shape(_everywhere))
    mlir.register_lowering(_primitive, mlir.lower_fun(_everywhere, multiple_results=False))
    mlir.register_lowering(_primitive, mlir.lower_fun(_on_cpu, multiple_results=False), platform="cpu")

ad.defbilinear(
    _convolve_p,
    lambda cotangent, inputs, kernel, *, padding: _by_inputs(cotangent, kernel, padding),
    lambda cotangent, inputs, kernel, *, padding: _correlate(inputs, cotangent, padding),
)
ad.defbilinear(
    _correlate_p,
    lambda cotangent, inputs, outputs, *, padding: _by_inputs(outputs, cotangent, padding),
    lambda cotangent, inputs, outputs, *, padding: _convolve(inputs, cotangent, padding),
)


def _batch_convolve(arguments, axes, *, padding):
    inputs, kernel = _batch_first(arguments, axes)
    if axes[1] is None:
        return _split(_convolve(_merged(inputs), kernel, padding), inputs.shape[0]), 0
    if axes[0] is None:
        # All kernels become features of one convolution.
        count, *size = kernel.shape
        found = _convolve(inputs, jnp.moveaxis(kernel, 0, 3).reshape(*size[:3], -1), padding)
        return jnp.moveaxis(found.reshape(*found.shape[:3], count, -1), 3, 0), 0
    return _each(_convolve_p, inputs, kernel, padding), 0


def _batch_correlate(arguments, axes, *, padding):
    inputs, outputs = _batch_first(arguments, axes)
    if axes[1] is None:
        count, channels = inputs.shape[0], inputs.shape[-1]
        side_by_side = jnp.moveaxis(inputs, 0, 3).reshape(*inputs.shape[1:4], -1)
        found = _correlate(side_by_side, outputs, padding)
        return jnp.moveaxis(found.reshape(*found.shape[:2], count, channels, -1), 2, 0), 0
    if axes[0] is None:
        count = outputs.shape[0]
        side_by_side = jnp.moveaxis(outputs, 0, 3).reshape(*outputs.shape[1:4], -1)
        found = _correlate(inputs, side_by_side, padding)
        return jnp.moveaxis(found.reshape(*found.shape[:3], count, -1), 3, 0), 0
    return _each(_correlate_p, inputs, outputs, padding), 0


def _each(primitive, inputs, others, padding):
    """Apply the primitive to pairs in sequence: a grouped convolution is slow on CPU."""
    return lax.map(lambda pair: primitive.bind(*pair, padding=padding), (inputs, others))


def _batch_first(arguments, axes):
    pairs = zip(arguments, axes, strict=True)
    return [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in pairs]


def _merged(images):
    return images.reshape(-1, *images.shape[2:])


def _split(images, count):
    return images.reshape(count, -1, *images.shape[1:])


batching.primitive_batchers[_convolve_p] = _batch_convolve
batching.primitive_batchers[_correlate_p] = _batch_correlate
