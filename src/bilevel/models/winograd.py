"""Winograd's minimal filtering: 3x3 convolutions with a quarter of the products.

A 4x4 tile of outputs takes 36 products per channel instead of 144, as 36 matrix products on all cores.
Tiles are transformed before and after by sums of slices, kernels by one more matrix product. In float32
its rounding error is twice the error of the plain sum, and up to 6 times in derivatives in the kernel.

Reference: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, arXiv:1509.09308.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]


def worth_tiling(
    kernel_size: Sequence[int], output_size: Sequence[int], channels: int, features: int
) -> bool:
    """Return whether minimal filtering applies and is faster than a plain sum."""
    return tuple(kernel_size) == (3, 3) and min(output_size) >= _TILE and min(channels, features) >= 16


def tiled_convolution(
    inputs: jax.Array, kernel: jax.Array, padding: Padding, size: Sequence[int]
) -> jax.Array:
    """Convolve with a 3x3 kernel; `size` is the height and width of the outputs."""
    spectrum = _transformed(_SPECTRUM, kernel)
    (parts,) = _parts(size, inputs)
    found = lax.map(lambda part: _convolve(part, spectrum, padding, size), parts)
    return found.reshape(-1, *found.shape[2:])[: inputs.shape[0]]


def tiled_correlation(inputs: jax.Array, outputs: jax.Array, padding: Padding) -> jax.Array:
    """Return the derivative with respect to the kernel: (3, 3, channels, features)."""
    # Half precision is summed in single precision, as `jnp.sum` does.
    dtype = np.promote_types(inputs.dtype, np.float32)

    def add(total, part):
        return total + _correlate(part[0], part[1], padding).astype(dtype), None

    start = jnp.zeros((_PATCH**2, inputs.shape[3], outputs.shape[3]), dtype)
    products, _ = lax.scan(add, start, _parts(outputs.shape[1:3], inputs, outputs))
    return _transformed(_SPECTRUM.T, products).reshape(3, 3, *products.shape[1:]).astype(inputs.dtype)


def _transformed(matrix, arrays):
    """Multiply the matrix with the axes before the last two."""
    *_, channels, features = arrays.shape
    arrays = arrays.reshape(-1, channels * features)
    return (jnp.asarray(matrix, arrays.dtype) @ arrays).reshape(-1, channels, features)


def _toom_cook(points, tile):
    """Return the matrices B, G, A of Winograd's A' ((G kernel) * (B inputs)).

    It is a product of polynomials, evaluated at the points and at infinity. Points near 1 and their
    opposites give the smallest rounding errors.
    """
    points = np.asarray(points)
    others = [np.delete(points, index) for index in range(len(points))]
    inputs = [np.append(np.poly(roots)[::-1], 0) for roots in others] + [np.poly(points)[::-1]]
    scales = [np.prod(point - roots) for point, roots in zip(points, others, strict=True)]
    kernel = np.vstack([np.vander(points, 3, increasing=True) / np.array(scales)[:, None], [0, 0, 1]])
    outputs = np.vstack([np.vander(points, tile, increasing=True), np.eye(tile)[-1]])
    return np.array(inputs), kernel, outputs


# 36 products for 4x4 outputs of a 3x3 kernel, instead of 144.
_TILE, _PATCH = 4, 6
_TILES_AT_ONCE = 512
_B, _G, _A = _toom_cook([0, 0.75, -0.75, 1.5, -1.5], _TILE)
# Transforms rows and columns of a kernel at once.
_SPECTRUM = np.kron(_G, _G)


def _parts(size, *images):
    """Split the images into stacked parts whose tiles fit into the cache."""
    n, tiles = images[0].shape[0], -(-size[0] // _TILE) * -(-size[1] // _TILE)
    count = -(-n * tiles // _TILES_AT_ONCE)
    each = -(-n // count)

    def split(array):
        return jnp.pad(array, ((0, count * each - n), *3 * [(0, 0)])).reshape(count, each, *array.shape[1:])

    return tuple(map(split, images))


def _convolve(inputs, spectrum, padding, size):
    n, features = inputs.shape[0], spectrum.shape[2]
    patches, tiles = _patches(inputs, padding, size)
    products = jnp.einsum("pmc,pcf->pmf", patches, spectrum).reshape(_PATCH, _PATCH, n, *tiles, -1)
    # The axes inside a tile go behind those over tiles: (n, tiles, 4, tiles, 4, features).
    found = _combine(_A.T, _combine(_A.T, products, 0, 3), 0, 4)
    return found.reshape(n, tiles[0] * _TILE, tiles[1] * _TILE, features)[:, : size[0], : size[1]]


def _correlate(inputs, outputs, padding):
    n, height, width, features = outputs.shape
    patches, tiles = _patches(inputs, padding, (height, width))
    outputs = resized(outputs, ((0, 0), (0, 0)), (tiles[0] * _TILE, tiles[1] * _TILE))
    outputs = outputs.reshape(n, tiles[0], _TILE, tiles[1], _TILE, features)
    spread = _combine(_A, _combine(_A, outputs, 2, 0), 4, 1).reshape(_PATCH**2, -1, features)
    return jnp.einsum("pmc,pmf->pcf", patches, spread)


def _patches(inputs, padding, size):
    """Return transformed patches, (36, n * tiles, channels), and the grid of tiles."""
    n, _, _, channels = inputs.shape
    tiles = -(-size[0] // _TILE), -(-size[1] // _TILE)
    whole = (tiles[0] + 1) * _TILE, (tiles[1] + 1) * _TILE
    rows = resized(inputs, padding, whole).reshape(n, tiles[0] + 1, _TILE, whole[1], channels)
    along = [rows[:, i // _TILE :, i % _TILE][:, : tiles[0]] for i in range(_PATCH)]
    columns = _stacked(_B, along, 0).reshape(_PATCH, n, tiles[0], tiles[1] + 1, _TILE, channels)
    across = [columns[:, :, :, i // _TILE :, i % _TILE][:, :, :, : tiles[1]] for i in range(_PATCH)]
    return _stacked(_B, across, 1).reshape(_PATCH**2, -1, channels), tiles


def _combine(matrix, array, axis, into):
    """Multiply the matrix with the array along `axis`, which moves to `into`."""
    return _stacked(matrix, [lax.index_in_dim(array, i, axis, False) for i in range(array.shape[axis])], into)


def _stacked(matrix, parts, axis):
    # Sums of slices with constant factors: one small matrix product per tile would be slower.
    sums = [sum(float(a) * part for a, part in zip(row, parts, strict=True) if a) for row in matrix]
    return jnp.stack(sums, axis)


def resized(images: jax.Array, padding: Padding, size: Sequence[int]) -> jax.Array:
    """Pad images before, and pad or crop them after, to height and width `size`."""
    config = [(0, 0, 0), (0, 0, 0)]
    for old, new, (before, _) in zip(images.shape[1:3], size, padding, strict=True):
        config.insert(-1, (before, new - old - before, 0))
    return lax.pad(images, jnp.zeros((), images.dtype), config)
