"""Assertions for the checks; each fails with a message of one line."""

from typing import Any

import jax
import numpy as np

from bilevel.types import Cost, PyTree


def assert_equal(got: Any, want: Any, claim: str) -> None:
    """Raise `AssertionError` unless two plain values are equal."""
    if got != want:
        raise AssertionError(f"{claim}: got {got}, expected {want}")


def assert_true(holds: Any, claim: str) -> None:
    """Raise `AssertionError` with the claim unless it holds."""
    if not holds:
        raise AssertionError(claim)


def assert_same_shape(got: PyTree, like: PyTree, claim: str) -> None:
    """Raise `AssertionError` unless structures, shapes and dtypes agree."""
    structures = jax.tree.structure(got), jax.tree.structure(like)
    assert_true(
        structures[0] == structures[1], f"{claim}, got the structures {structures[0]} and {structures[1]}"
    )
    leaves = jax.tree_util.tree_leaves_with_path(got)
    for (path, one), other in zip(leaves, jax.tree.leaves(like), strict=True):
        forms = [f"{jax.numpy.result_type(leaf)}{list(np.shape(leaf))}" for leaf in (one, other)]
        place = jax.tree_util.keystr(path) or "the value"
        assert_true(forms[0] == forms[1], f"{claim}, got {forms[0]} and {forms[1]} at {place}")


def assert_close(got: PyTree, want: PyTree, tolerance: float, claim: str) -> None:
    """Raise `AssertionError` unless `|got - want| <= tolerance max(1, |want|)`."""
    assert_equal(jax.tree.structure(got), jax.tree.structure(want), f"{claim}, same structure")
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        one, other = np.asarray(one), np.asarray(other)
        # Written so that NaN fails.
        if one.shape != other.shape or not np.all(
            np.abs(one - other) <= tolerance * np.maximum(1, np.abs(other))
        ):
            raise AssertionError(f"{claim}: got {one}, expected {other} within {tolerance:g}")


def assert_identical(one: Any, other: Any, claim: str, *, tolerance: float = 0.0) -> None:
    """Raise `AssertionError` unless two pytrees have the same form and equal values.

    Args:
      one, other: pytrees of arrays.
      claim: the sentence of the error.
      tolerance: largest difference, relative to 1 plus the largest value of a leaf; 0 means bit for bit.
    """
    one, other = (jax.tree.map(_plain, value) for value in (one, other))
    assert_same_shape(one, other, claim)
    leaves = jax.tree_util.tree_leaves_with_path(one)
    for (path, a), b in zip(leaves, jax.tree.leaves(other), strict=True):
        place = jax.tree_util.keystr(path) or "the value"
        if tolerance == 0.0 or not np.issubdtype(a.dtype, np.floating):
            assert_true(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), f"{claim}, and {place} differs")
        else:
            error = np.max(np.abs(a - b), initial=0.0) / (1 + np.max(np.abs(a), initial=0.0))
            assert_true(error <= tolerance, f"{claim}, and {place} differs by {error:.1e}, relative")


def assert_finite(values: PyTree, claim: str) -> None:
    """Raise `AssertionError` unless every entry is a finite number."""
    if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(values)):
        raise AssertionError(f"{claim}: got {values}")


def to_single(values: PyTree) -> PyTree:
    """Convert every float64 array to float32."""
    return jax.tree.map(lambda leaf: leaf.astype(np.float32) if leaf.dtype == np.float64 else leaf, values)


def assert_calls(counts: dict[str, int], cost: Cost, claim: str, at_most: bool = False) -> None:
    """Raise `AssertionError` unless the counted oracle calls are the declared ones."""
    declared = cost._asdict()
    if at_most:
        few = all(counts[kind] <= declared[kind] for kind in declared)
        assert_true(few, f"{claim}: got {counts}, expected at most {declared}")
    else:
        assert_equal(counts, declared, claim)


def _plain(leaf):
    if isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)
