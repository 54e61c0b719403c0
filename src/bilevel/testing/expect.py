"""Assertions on pytrees."""

from typing import Any

import jax
import numpy as np


def expect(holds: Any, rule: str) -> None:
    """Raise `AssertionError` with the rule unless `holds`."""
    if not holds:
        raise AssertionError(rule)


def expect_same_form(one: Any, other: Any, rule: str) -> None:
    """Raise `AssertionError` unless two pytrees have the same structure, shapes and dtypes."""
    structures = jax.tree.structure(one), jax.tree.structure(other)
    expect(structures[0] == structures[1], f"{rule}, got the structures {structures[0]} and {structures[1]}")
    leaves = jax.tree_util.tree_leaves_with_path(one)
    for (path, a), b in zip(leaves, jax.tree.leaves(other), strict=True):
        forms = [f"{leaf.dtype}{list(leaf.shape)}" for leaf in (a, b)]
        place = jax.tree_util.keystr(path) or "the value"
        expect(forms[0] == forms[1], f"{rule}, got {forms[0]} and {forms[1]} at {place}")


def expect_equal(one: Any, other: Any, rule: str, *, tolerance: float = 0.0) -> None:
    """Raise `AssertionError` unless two pytrees have the same form and equal values.

    Args:
      one, other: pytrees of arrays.
      rule: the sentence of the error.
      tolerance: largest difference, relative to 1 plus the largest value of a leaf; 0 means bit for bit.
    """
    one, other = (jax.tree.map(_array, value) for value in (one, other))
    expect_same_form(one, other, rule)
    leaves = jax.tree_util.tree_leaves_with_path(one)
    for (path, a), b in zip(leaves, jax.tree.leaves(other), strict=True):
        place = jax.tree_util.keystr(path) or "the value"
        if tolerance == 0.0 or not np.issubdtype(a.dtype, np.floating):
            expect(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), f"{rule}, and {place} differs")
        else:
            error = np.max(np.abs(a - b), initial=0.0) / (1 + np.max(np.abs(a), initial=0.0))
            expect(error <= tolerance, f"{rule}, and {place} differs by {error:.1e}, relative")


def _array(leaf):
    if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)
