"""Leaves of data as arrays that JAX holds without loss; all other leaves are refused in one line."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import JAXSparse
from jax.tree_util import SequenceKey, keystr

from bilevel.types import PyTree


def as_arrays(data: PyTree, name: str) -> PyTree:
    """Return data whose leaves are arrays or numbers that JAX holds without loss.

    JAX arrays, NumPy arrays and Python numbers stay as they are. Data frames, tensors and the like become
    NumPy arrays.

    Args:
      data: pytree of leaves.
      name: name of the data in errors.

    Raises:
      ValueError: if JAX has no such type, or its arrays of 32 bits cannot hold a value.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _as_array(name + keystr(path), leaf),
        data,
        is_leaf=lambda node: isinstance(node, JAXSparse),
    )


def rows_of(data: PyTree, name: str) -> int:
    """Return the number of rows of data that have at least one leaf.

    Raises:
      ValueError: if a leaf has no row axis, or the leaves disagree on the number of rows.
    """
    leaves = jax.tree_util.tree_leaves_with_path(data)
    for path, leaf in leaves:
        if np.ndim(leaf) == 0:
            listed = bool(path) and isinstance(path[-1], SequenceKey)
            kind = "a list or tuple of single numbers" if listed else "a single number"
            place = name + keystr(path[:-1] if listed else path)
            raise ValueError(
                f"minibatches need arrays with a leading row axis, but {place} is {kind}; "
                "make an array of it by `numpy.asarray`, or use `full`"
            )
    counts = {np.shape(leaf)[0] for _, leaf in leaves}
    if len(counts) != 1:
        raise ValueError(f"all {name} arrays must have the same number of rows, got {sorted(counts)}")
    return counts.pop()


def take(leaf: Any, order: np.ndarray) -> jax.Array:
    """Return the rows `order` of an array on the device; random keys stay keys."""
    return leaf[order] if is_key(leaf) else jnp.asarray(np.asarray(leaf)[order])


def is_key(leaf: Any) -> bool:
    """Return whether a leaf is an array of random keys, made by `jax.random.key`."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_array(place, leaf):
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) or hasattr(leaf, "__jax_array__"):
        return leaf
    if type(leaf).__module__.startswith("scipy.sparse"):
        raise ValueError(
            f"{place} is a SciPy matrix ({type(leaf).__name__}), which JAX cannot read; give "
            "`bilevel.sparse.sparse_blocks(matrix)` of its CSR form, or the dense `matrix.toarray()`"
        )
    if isinstance(leaf, JAXSparse):
        raise ValueError(
            f"{place} is a sparse JAX matrix ({type(leaf).__name__}), whose rows cannot be cut; give "
            "`bilevel.sparse.sparse_blocks(matrix)` of a SciPy CSR matrix, or the dense `matrix.todense()`"
        )
    if isinstance(leaf, np.ma.MaskedArray):
        raise ValueError(
            f"{place} is a masked array, and JAX would read its masked values; fill them by `filled(...)`"
        )
    array = np.asarray(leaf)
    if not _is_known(array.dtype):
        raise ValueError(
            f"{place} has the type {array.dtype}, which JAX does not have; encode its values as numbers"
        )
    if (value := _unheld(array)) is not None:
        raise ValueError(
            f"{place} holds {value}, which {jax.dtypes.canonicalize_dtype(array.dtype)} cannot hold; "
            "scale or renumber its values, or set `jax_enable_x64`"
        )
    return leaf if isinstance(leaf, np.ndarray | np.generic | bool | int | float | complex) else array


def _is_known(dtype):
    """Return whether JAX has a type; `longdouble` is a number of NumPy alone."""
    kinds = np.bool_, np.integer, np.floating, np.complexfloating
    known = any(jnp.issubdtype(dtype, kind) for kind in kinds)
    wide = dtype.itemsize > (16 if jnp.issubdtype(dtype, np.complexfloating) else 8)
    return known and not wide and not jnp.issubdtype(dtype, np.timedelta64)


def _unheld(array):
    """Return the largest value that JAX's precision cannot hold, or None."""
    held = jax.dtypes.canonicalize_dtype(array.dtype)
    if held == array.dtype or not array.size:
        return None
    if jnp.issubdtype(held, np.integer):
        limits, ends = jnp.iinfo(held), (array.min(), array.max())
        return next((end for end in ends if not limits.min <= int(end) <= limits.max), None)
    sizes = np.abs(np.stack([array.real, array.imag]) if np.iscomplexobj(array) else array)
    largest = np.max(sizes, initial=0.0, where=np.isfinite(sizes))
    return largest if largest > jnp.finfo(held).max else None
