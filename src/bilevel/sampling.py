"""Sources of minibatches: lazy, planned for a whole chunk of steps before the hot loop.

A source is a pytree, so its data travel as arguments of compiled functions and never become
constants. `source.plan(key, first, count)` picks the minibatches number `first` to
`first + count - 1` of a run, and `source.view(picks)` is what a step indexes: `view[i]`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel.types import Batch, PyTree

_STRIDES = 64


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=[])
@dataclass(frozen=True)
class Full:
    """Every minibatch is the whole set; nothing is copied."""

    arrays: PyTree
    is_full = True
    count = 1

    def __getitem__(self, i):
        return self.arrays

    def plan(self, key, first, count, fixed=False):
        """No choice to make: one placeholder a minibatch."""
        return jnp.zeros((count,), jnp.int32)

    def view(self, picks):
        """The set itself."""
        return self

    def whole(self):
        """The set itself."""
        return self

    def entry(self, i):
        """Which block `self[i]` is, and its share of the rows."""
        return 0, 1.0

    def tail(self):
        """The last block when it is ragged, else None."""
        return None


@partial(
    jax.tree_util.register_dataclass, data_fields=["arrays", "picks", "strides"], meta_fields=["rows", "size"]
)
@dataclass(frozen=True)
class Blocks:
    """Contiguous blocks of `size` rows of data shuffled once.

    An epoch is `count = ceil(rows / size)` blocks that start at a random row, wrap around the end,
    and are visited in the order of a random stride: every row is visited in every epoch, a ragged
    remainder included, and every row is as likely as any other. Choosing costs nothing that
    grows with the number of rows. With `fixed` the blocks are cut from row 0 on: every epoch has the
    same ones, in another order, the last of them ragged.

    Attributes:
      arrays: pytree of arrays with `rows + size - 1` rows; the first rows are repeated at the end,
        so that a block that wraps is one slice.
      picks: first rows of the blocks that `self[i]` returns, or None before planning.
      strides: numbers coprime to the number of blocks.
      rows, size: rows of the set, rows of a block.
    """

    arrays: PyTree
    picks: Any
    strides: Any
    rows: int
    size: int
    is_full = False

    @property
    def count(self):
        """Blocks of an epoch."""
        return math.ceil(self.rows / self.size)

    def __getitem__(self, i):
        if self.picks is None:
            raise ValueError(
                "`run` chooses the minibatches; to index them yourself, take "
                "source.view(source.plan(key, 0, count))"
            )
        return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, self.picks[i], self.size), self.arrays)

    def plan(self, key, first, count, fixed=False):
        """First rows of the blocks number `first` to `first + count - 1`, shape (count,)."""
        blocks = self.count
        number = first + jnp.arange(count, dtype=jnp.int32)

        def start(number):
            epoch_key = jax.random.fold_in(key, number // blocks)
            # Remainders of 32 bits: their bias is rows / 2^32, and they compile fast.
            offset, stride = jax.random.bits(epoch_key, (2,), "uint32") % jnp.array(
                [blocks if fixed else self.rows, len(self.strides)], "uint32"
            )
            offset = offset.astype(jnp.int32)
            block = _product_modulo(number % blocks, self.strides[stride], blocks)
            if fixed:
                # Any block may come first: else the i-th of several draws a step could meet the same
                # few blocks in every epoch.
                return (block + offset) % blocks * self.size
            return (offset + block * self.size) % self.rows

        return jax.vmap(start)(number)

    def view(self, picks):
        """The blocks that start at the rows `picks`."""
        return Blocks(self.arrays, picks, self.strides, self.rows, self.size)

    def whole(self):
        """All rows at once."""
        return Full(jax.tree.map(lambda a: a[: self.rows], self.arrays))

    def entry(self, i):
        """Which of the fixed blocks `self[i]` is, and its true share of the rows."""
        number = self.picks[i] // self.size
        left = self.rows - (self.count - 1) * self.size
        # Numbers of Python, so that the share has the precision of what it multiplies.
        return number, jnp.where(number == self.count - 1, left / self.rows, self.size / self.rows)

    def tail(self):
        """The true rows of the last fixed block when it is ragged, else None."""
        first = (self.count - 1) * self.size
        if first + self.size == self.rows:
            return None
        return Full(jax.tree.map(lambda a: a[first : self.rows], self.arrays))


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=[])
@dataclass(frozen=True)
class Stacked:
    """Minibatches stacked along a leading axis: `self[i]` is the i-th."""

    arrays: PyTree
    is_full = False

    def __getitem__(self, i):
        return jax.tree.map(lambda a: a[i], self.arrays)

    def plan(self, key, first, count, fixed=False):
        """Places in the stack, which holds the minibatches of one chunk."""
        return jnp.arange(count, dtype=jnp.int32)

    def view(self, picks):
        """The minibatches at the places `picks`."""
        return Stacked(jax.tree.map(lambda a: a[picks], self.arrays))

    def whole(self):
        """Refused: the stack holds one chunk of minibatches, not the set."""
        raise ValueError(
            "this algorithm reads the whole set now and then, which data that come by minibatch from "
            "the host do not show; use `full` or `minibatches`, or an algorithm without refreshes"
        )


@dataclass(frozen=True)
class Host:
    """Minibatches made on the host, for data that do not fit in memory.

    Attributes:
      fetch: `i -> pytree of arrays`, the i-th minibatch of the run; the same `i` must give the same
        minibatch, so that a resumed run is the uninterrupted one. Those of one step more than is
        run are read, for the last metrics; those of `log_every` steps are in memory at once.
    """

    fetch: Callable[[int], PyTree]
    is_full = False

    def stack(self, first: int, count: int, room: int) -> Stacked:
        """Minibatches `first` to `first + count - 1`, padded to `room` by repeating the last."""
        fetched = [self.fetch(first + i) for i in range(count)]
        fetched += fetched[-1:] * (room - count)
        return Stacked(jax.tree.map(lambda *leaves: np.stack(leaves), *fetched))


@partial(jax.tree_util.register_dataclass, data_fields=["source"], meta_fields=["skip"])
@dataclass(frozen=True)
class Shifted:
    """A source without its first `skip` minibatches."""

    source: Any
    skip: int

    @property
    def is_full(self):
        """Whether every minibatch is the whole set."""
        return self.source.is_full

    @property
    def count(self):
        """Blocks of an epoch."""
        return self.source.count

    def __getitem__(self, i):
        return self.source[self.skip + i]

    def entry(self, i):
        """That of the source's minibatch."""
        return self.source.entry(self.skip + i)

    def tail(self):
        """That of the source."""
        return self.source.tail()


def full(outer: PyTree, inner: PyTree) -> Batch:
    """Data whose every minibatch is the whole set.

    Args:
      outer, inner: pytrees of arrays, passed whole to the outer and the inner loss (None is fine).

    Returns:
      A `Batch` for `run`, `hypergradient` and `solution`.

    >>> full(outer=None, inner=jnp.arange(3)).inner[5]
    Array([0, 1, 2], dtype=int32)
    """
    return Batch(Full(outer), Full(inner))


def minibatches(outer: PyTree, inner: PyTree, *, batch_size: int, seed: int = 0) -> Batch:
    """Data that each loss sees `batch_size` rows at a time.

    Rows are shuffled once, here; a run then reads contiguous blocks of them, every row once or
    (a ragged remainder) twice in an epoch. The blocks of an epoch do not overlap: minibatches of one
    step are independent as draws without replacement are, nearly so where there are many blocks.

    Args:
      outer, inner: pytrees of arrays with one leading row axis each, or None.
      batch_size: rows of a minibatch, at most the rows of either set.
      seed: of the shuffle.

    Returns:
      A `Batch` for `run`.

    Raises:
      ValueError: when leaves disagree on the number of rows, or the batch size does not fit.

    >>> minibatches(np.arange(10), np.arange(20), batch_size=4).inner.rows
    20
    """
    return Batch(_blocks(outer, batch_size, seed, "outer"), _blocks(inner, batch_size, seed + 1, "inner"))


def _blocks(arrays, size, seed, level) -> Blocks | Full:
    leaves = jax.tree.leaves(arrays)
    if not leaves:
        return Full(arrays)
    counts = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in leaves}
    if len(counts) != 1:
        raise ValueError(f"all {level} arrays need the same number of rows, got {sorted(counts)}")
    rows = counts.pop()
    if not 1 <= size <= rows:
        raise ValueError(f"batch_size must be in 1..{rows} (the rows of the {level} data), got {size}")
    order = np.random.default_rng(seed).permutation(rows)
    order = np.concatenate([order, order[: size - 1]])
    return Blocks(
        jax.tree.map(lambda a: jnp.asarray(np.asarray(a)[order]), arrays),
        None,
        jnp.asarray(_coprime_strides(math.ceil(rows / size), seed), jnp.int32),
        rows,
        size,
    )


def _coprime_strides(blocks, seed):
    """Up to 64 random numbers below `blocks` without a common factor with it."""
    candidates = np.random.default_rng(seed).permutation(np.arange(1, min(blocks, 4096) + 1))
    return [int(c) for c in candidates if math.gcd(int(c), blocks) == 1][:_STRIDES]


def _product_modulo(a, b, modulus):
    """`a * b mod modulus` in 32 bits, for b below 2^13 and moduli below 2^27, 3 bits of b at a time."""
    product = jnp.zeros_like(a)
    for shift in (12, 9, 6, 3, 0):
        product = (product * 8 + a * ((b >> shift) & 7)) % modulus
    return product
