"""Lazy sources of minibatches, planned for a chunk of steps before its loop.

A source is a pytree, so its data travel as arguments of compiled functions and never become
constants. `Source` is the protocol; `full` and `minibatches` make the sources of this package.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel.arrays import as_arrays, is_key, rows_of, take
from bilevel.types import Batch, PyTree

_STRIDES = 64


class Source(Protocol):
    """Protocol of a data source: minibatches of one level, chosen by number.

    `run` calls `picks = source.plan(key, first, count)` once for each chunk of steps, before the loop, and
    `source.view(picks)` for each step, inside it. A step indexes the view: `view[i]` is its i-th minibatch.

    A source must be a pytree, for example a dataclass registered by `jax.tree_util.register_dataclass`.
    `bilevel.testing.check_source` checks an implementation.
    """

    @property
    def is_full(self) -> bool:
        """True if every minibatch is the whole set; Hessians are then linearised once."""
        ...

    def plan(self, key: Any, first: Any, count: int, fixed: bool = False) -> Any:
        """Choose the minibatches number `first` to `first + count - 1` of a run.

        Args:
          key: random key of the run.
          first: number of the first minibatch, may be traced.
          count: number of minibatches.
          fixed: whether every epoch must have the same minibatches, in another order; only for
            algorithms that keep a table, which need a `BlockSource`.

        Returns:
          A pytree of arrays with a leading axis of `count` picks. A pick depends on the key and on the number
          of its minibatch alone, so a run does not depend on how it is cut into chunks.
        """
        ...

    def view(self, picks: Any) -> "Source":
        """Return the source whose i-th minibatch is the one of `picks[i]`."""
        ...

    def __getitem__(self, i: Any) -> PyTree:
        """Return the i-th minibatch of a view; `i` may be traced."""
        ...

    def whole(self) -> "Source":
        """Return a source whose every minibatch is the whole set.

        Raises:
          ValueError: if there is no whole set, for example because examples are generated.
        """
        ...


class BlockSource(Source, Protocol):
    """Protocol of a source with a fixed set of minibatches, which a table needs."""

    @property
    def count(self) -> int:
        """Number of minibatches in an epoch."""
        ...

    def entry(self, i: Any) -> tuple[Any, Any]:
        """Return the number of the minibatch `self[i]`, and its share of the rows."""
        ...

    def tail(self) -> Source | None:
        """Return the last minibatch without repeated rows if it is ragged, else None."""
        ...


def require_sources(data: Any, *, table: str | None = None, host: bool = False) -> None:
    """Check that `data` is a `Batch` of two sources.

    Args:
      data: the value to check.
      table: name of an algorithm that keeps a table of minibatches and needs a `BlockSource`, or None.
      host: whether `Host` data are allowed.

    Raises:
      ValueError: if a source lacks a member of its protocol or is not a pytree; the message names it.
    """
    remedy = "make the data by `full` or `minibatches`"
    if not isinstance(data, Batch):
        raise ValueError(f"data must be a Batch of two sources, got {type(data).__name__}; {remedy}")
    for level, source in data._asdict().items():
        name = type(source).__name__
        if table is not None and (lacking := _lacking(source, BlockSource)):
            raise ValueError(
                f"{table} keeps a table of minibatches and needs a `bilevel.BlockSource`, but data.{level} "
                f"({name}) has no `{lacking}`; {remedy}"
            )
        if isinstance(source, Host):
            if not host:
                raise ValueError(
                    f"the data must lie on the device, but data.{level} is a Host; call `run`, or {remedy}"
                )
        elif lacking := _lacking(source, Source):
            raise ValueError(
                f"data.{level} must be a `bilevel.Source`, but {name} has no `{lacking}`; {remedy}, "
                f"or give {name} this member"
            )
        elif jax.tree_util.all_leaves([source]):
            raise ValueError(
                f"data.{level} must be a pytree, but {name} is not registered as one; "
                "register it, for example by `jax.tree_util.register_dataclass`"
            )


def _lacking(source, protocol):
    """Return the first member of the protocol that the source lacks, or None."""
    for name in vars(protocol):
        if not name.startswith("_") or name == "__getitem__":
            # A tuple has a method `count`.
            if not hasattr(source, name) or (name == "count" and callable(source.count)):
                return name
    return None


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=[])
@dataclass(frozen=True)
class Full:
    """Source whose every minibatch is the whole set; nothing is copied."""

    arrays: PyTree
    is_full = True
    count = 1

    def __getitem__(self, i: Any) -> PyTree:
        return self.arrays

    def plan(self, key: Any, first: Any, count: int, fixed: bool = False) -> jax.Array:
        """Return one placeholder for each minibatch: there is nothing to choose."""
        return jnp.zeros((count,), jnp.int32)

    def view(self, picks: Any) -> "Full":
        """Return the source itself."""
        return self

    def whole(self) -> "Full":
        """Return the source itself."""
        return self

    def entry(self, i: Any) -> tuple[int, float]:
        """Return number and share of the one minibatch."""
        return 0, 1.0

    def tail(self) -> None:
        """Return None: the one minibatch is never ragged."""
        return None


class Shuffle:
    """Seed of the order of rows. All are equal, so that one compiled program serves all seeds."""

    def __init__(self, seed: int):
        self.seed = seed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shuffle)

    def __hash__(self) -> int:
        return hash(Shuffle)

    def order(self, rows: int) -> np.ndarray:
        """Return the numbers of the rows as they lie in a source."""
        return np.random.default_rng(self.seed).permutation(rows)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["arrays", "picks", "strides"],
    meta_fields=["rows", "size", "shuffle"],
)
@dataclass(frozen=True)
class Blocks:
    """Source of contiguous blocks of `size` rows of data shuffled once.

    An epoch has `count = ceil(rows / size)` blocks. They start at a random row, wrap around the end, and
    are visited in the order of a random stride. So every epoch visits every row, every row is as likely
    as any other, and the cost of choosing does not grow with the number of rows. With `fixed` the blocks
    are cut from row 0 on: every epoch has the same ones, in another order, and the last may be ragged.

    Attributes:
      arrays: pytree of arrays with `rows + size - 1` rows. The first rows are repeated at the end,
        so that a block that wraps around is one slice.
      picks: first rows of the blocks that `self[i]` returns, or None before planning.
      strides: numbers coprime to the number of blocks.
      rows, size: rows of the set, rows of a block.
      shuffle: the order of the rows.
    """

    arrays: PyTree
    picks: Any
    strides: Any
    rows: int
    size: int
    shuffle: Shuffle
    is_full = False

    @property
    def count(self) -> int:
        """Number of blocks in an epoch."""
        return math.ceil(self.rows / self.size)

    def __getitem__(self, i: Any) -> PyTree:
        if self.picks is None:
            raise ValueError(
                "minibatches must be planned before they are read; `run` does this, and otherwise "
                "index `source.view(source.plan(key, 0, count))`"
            )
        return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, self.picks[i], self.size), self.arrays)

    def plan(self, key: Any, first: Any, count: int, fixed: bool = False) -> jax.Array:
        """Return the first rows of the blocks, shape `(count,)`."""
        blocks = self.count
        number = first + jnp.arange(count, dtype=jnp.int32)

        def start(number):
            epoch_key = jax.random.fold_in(key, number // blocks)
            # Remainders of 32-bit numbers compile fast; their bias is only rows / 2^32.
            offset, stride = jax.random.bits(epoch_key, (2,), "uint32") % jnp.array(
                [blocks if fixed else self.rows, len(self.strides)], "uint32"
            )
            offset = offset.astype(jnp.int32)
            block = _product_modulo(number % blocks, self.strides[stride], blocks)
            if fixed:
                # Any block may come first. Otherwise the i-th of several draws per step could see only the
                # same few blocks in every epoch.
                return (block + offset) % blocks * self.size
            return (offset + block * self.size) % self.rows

        return jax.vmap(start)(number)

    def view(self, picks: Any) -> "Blocks":
        """Return the source of the blocks that start at the rows `picks`."""
        return replace(self, picks=picks)

    def whole(self) -> Full:
        """Return the source of all rows at once."""
        return Full(jax.tree.map(lambda a: a[: self.rows], self.arrays))

    def entry(self, i: Any) -> tuple[jax.Array, jax.Array]:
        """Return the number of the fixed block `self[i]`, and its true share of the rows."""
        number = self.picks[i] // self.size
        left = self.rows - (self.count - 1) * self.size
        # Python numbers, so that the share takes the precision of what it multiplies.
        return number, jnp.where(number == self.count - 1, left / self.rows, self.size / self.rows)

    def tail(self) -> Full | None:
        """Return the true rows of the last fixed block if it is ragged, else None."""
        first = (self.count - 1) * self.size
        if first + self.size == self.rows:
            return None
        return Full(jax.tree.map(lambda a: a[first : self.rows], self.arrays))


@partial(jax.tree_util.register_dataclass, data_fields=["arrays"], meta_fields=[])
@dataclass(frozen=True)
class Stacked:
    """Source of the minibatches of one chunk, stacked along a leading axis."""

    arrays: PyTree
    is_full = False

    def __getitem__(self, i: Any) -> PyTree:
        return jax.tree.map(lambda a: a[i], self.arrays)

    def plan(self, key: Any, first: Any, count: int, fixed: bool = False) -> jax.Array:
        """Return places in the stack of this chunk, which do not depend on `first`."""
        return jnp.arange(count, dtype=jnp.int32)

    def view(self, picks: Any) -> "Stacked":
        """Return the source of the minibatches at the places `picks`."""
        return Stacked(jax.tree.map(lambda a: a[picks], self.arrays))

    def whole(self) -> Source:
        """Raise `ValueError`: the stack holds the minibatches of one chunk only."""
        raise ValueError(
            "a refresh needs the full data set, and a host loader cannot provide it; "
            "use `full` or `minibatches`, or an algorithm without refreshes"
        )


@dataclass(frozen=True)
class Host:
    """Minibatches made on the host, for data that do not fit in memory.

    Attributes:
      fetch: `i -> pytree of arrays`, the i-th minibatch of the run. The same `i` must give the same
        minibatch, so that a resumed run equals the uninterrupted one. `run` also reads the minibatches of one
        step beyond the last, for the metrics. It holds the minibatches of `log_every` steps in memory.
    """

    fetch: Callable[[int], PyTree]
    is_full = False

    def stack(self, first: int, count: int, room: int) -> Stacked:
        """Return `count` minibatches from `first`, padded to `room` by repeating the last."""
        fetched = [as_arrays(self.fetch(first + i), f"minibatch {first + i}") for i in range(count)]
        fetched += fetched[-1:] * (room - count)
        return Stacked(
            jax.tree.map(lambda *leaves: (jnp if is_key(leaves[0]) else np).stack(leaves), *fetched)
        )


@partial(jax.tree_util.register_dataclass, data_fields=["source"], meta_fields=["skip"])
@dataclass(frozen=True)
class Shifted:
    """A source without its first `skip` minibatches."""

    source: Any
    skip: int

    @property
    def is_full(self) -> bool:
        """True if every minibatch is the whole set."""
        return self.source.is_full

    @property
    def count(self) -> int:
        """Number of minibatches in an epoch."""
        return self.source.count

    def __getitem__(self, i: Any) -> PyTree:
        return self.source[self.skip + i]

    def plan(self, key: Any, first: Any, count: int, fixed: bool = False) -> Any:
        """Choose minibatches of the source, `skip` numbers later."""
        return self.source.plan(key, self.skip + first, count, fixed)

    def view(self, picks: Any) -> Source:
        """Return the source's view: the picks are already shifted."""
        return self.source.view(picks)

    def whole(self) -> Source:
        """Return the whole set of the source."""
        return self.source.whole()

    def entry(self, i: Any) -> tuple[Any, Any]:
        """Return number and share of the source's minibatch `skip + i`."""
        return self.source.entry(self.skip + i)

    def tail(self) -> Source | None:
        """Return the last minibatch of the source if it is ragged, else None."""
        return self.source.tail()


def full(outer: PyTree, inner: PyTree) -> Batch:
    """Return data whose every minibatch is the whole set.

    Args:
      outer, inner: pytrees of arrays, passed whole to the outer and the inner loss (None is fine).

    Returns:
      A `Batch` for `run`, `hypergradient` and `solution`.

    Raises:
      ValueError: if JAX cannot hold a leaf, for example text or an integer above 2^31 without 64 bits.

    >>> full(outer=None, inner=jnp.arange(3)).inner[5]
    Array([0, 1, 2], dtype=int32)
    """
    return Batch(Full(as_arrays(outer, "outer")), Full(as_arrays(inner, "inner")))


def minibatches(outer: PyTree, inner: PyTree, *, batch_size: int, seed: int = 0) -> Batch:
    """Return data that each loss reads `batch_size` rows at a time.

    The rows are shuffled once, here. A run then reads contiguous blocks of them: every row once in an
    epoch, or twice for some if the last block is ragged. The blocks of an epoch do not overlap. So the
    minibatches of one step are drawn without replacement, and nearly independent if there are many blocks.

    Args:
      outer, inner: pytrees of arrays with one leading row axis each, or None.
      batch_size: rows of a minibatch, at most the rows of either set.
      seed: seed of the shuffle.

    Returns:
      A `Batch` for `run`.

    Raises:
      ValueError: if JAX cannot hold a leaf, leaves disagree on the number of rows, or the batch size does
        not fit.

    >>> minibatches(np.arange(10), np.arange(20), batch_size=4).inner.rows
    20
    """
    return Batch(_blocks(outer, batch_size, seed, "outer"), _blocks(inner, batch_size, seed + 1, "inner"))


def _blocks(arrays, size, seed, level) -> Blocks | Full:
    if not jax.tree.leaves(arrays):
        return Full(arrays)
    arrays = as_arrays(arrays, level)
    rows = rows_of(arrays, level)
    if not 1 <= size <= rows:
        raise ValueError(f"batch_size must be between 1 and {rows}, the rows of the {level} data, got {size}")
    shuffle = Shuffle(seed)
    order = shuffle.order(rows)
    order = np.concatenate([order, order[: size - 1]])
    return Blocks(
        arrays=jax.tree.map(lambda a: take(a, order), arrays),
        picks=None,
        strides=jnp.asarray(_coprime_strides(math.ceil(rows / size), seed), jnp.int32),
        rows=rows,
        size=size,
        shuffle=shuffle,
    )


def unclean_row(source: Source, path: tuple) -> int | None:
    """Return the first row, as the user numbers them, that holds a value which is not finite.

    Args:
      source: a source of minibatches.
      path: path of a leaf in a minibatch.

    Returns:
      The number of the row; None if the leaf has no rows or the source has no whole set.
    """
    try:
        leaves = dict(jax.tree_util.tree_leaves_with_path(source.whole()[0]))
    except ValueError:
        return None
    leaf = np.asarray(leaves.get(path, 0.0))
    rows = np.flatnonzero(~np.isfinite(leaf.reshape(len(leaf), -1)).all(axis=1)) if leaf.ndim else ()
    if isinstance(source, Blocks):
        rows = source.shuffle.order(source.rows)[rows]
    return int(min(rows)) if len(rows) else None


def _coprime_strides(blocks, seed):
    """Return up to 64 random numbers that are at most `blocks` and coprime to it."""
    candidates = np.random.default_rng(seed).permutation(np.arange(1, min(blocks, 4096) + 1))
    return [int(c) for c in candidates if math.gcd(int(c), blocks) == 1][:_STRIDES]


def _product_modulo(a, b, modulus):
    """Return `a * b mod modulus` in 32 bits, for b below 2^13 and moduli below 2^27.

    It takes 3 bits of b at a time.
    """
    product = jnp.zeros_like(a)
    for shift in (12, 9, 6, 3, 0):
        product = (product * 8 + a * ((b >> shift) & 7)) % modulus
    return product
