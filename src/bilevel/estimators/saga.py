"""The estimator with a memory of every minibatch."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.estimators.types import Estimator
from bilevel.types import Batch, Point, PyTree

tree = optax.tree


class SagaTable(NamedTuple):
    """The last value of every minibatch.

    Attributes:
      entries: values stacked along a leading axis, one a minibatch.
      mean: of the entries, weighted by rows.
    """

    entries: PyTree
    mean: PyTree


class SagaState(NamedTuple):
    """The tables of the outer and of the inner terms."""

    outer: SagaTable
    inner: SagaTable


def saga() -> Estimator:
    """A table of the last direction of every minibatch: no noise in the end.

        d = mean + (fresh - table[i]);   mean += share_i (fresh - table[i]);   table[i] = fresh

    one table for the outer and one for the inner terms. The fresh change counts as many times as
    its minibatch is larger than the average one, and a ragged last minibatch is evaluated on its
    own rows: the direction is unbiased whatever the batch size. One oracle call a step.

    Returns:
      An `Estimator` that starts from empty tables. Memory: for each minibatch and level one value of
      x, y, v. On CPU a step also copies the tables: with thousands of minibatches that is its time.

    Reference: Defazio, Bach and Lacoste-Julien, SAGA: A Fast Incremental Gradient Method With
    Support for Non-Strongly Convex Composite Objectives, NeurIPS 2014, arXiv:1407.0202.
    """

    def update(oracle, state, point, batch, key):
        check_blocks(state, batch)
        terms = on_true_rows(oracle, point, batch)
        outer, outer_table = recall(state.outer, terms.outer, batch.outer)
        inner, inner_table = recall(state.inner, terms.inner, batch.inner)
        return tree.add(outer, inner), SagaState(outer_table, inner_table), terms

    def init(point, blocks):
        return SagaState(*(empty_table(point, entries) for entries in blocks))

    return Estimator(init, update, calls=1, fixed=True)


def empty_table(value: PyTree, entries: int) -> SagaTable:
    """A table of zeros with room for so many values."""
    room = jax.tree.map(lambda leaf: jnp.zeros((entries, *leaf.shape), leaf.dtype), value)
    return SagaTable(room, tree.zeros_like(value))


def recall(table: SagaTable, fresh: PyTree, source: Any, draw: int = 0) -> tuple[PyTree, SagaTable]:
    """The table's estimate of the mean over all minibatches, and the table with the fresh value."""
    entry, share = source.entry(draw)
    last = jax.tree.map(lambda rows: lax.dynamic_index_in_dim(rows, entry, keepdims=False), table.entries)
    # Reading ends before writing begins: fewer copies of the tables (on CPU XLA still makes some).
    last, fresh = lax.optimization_barrier((last, fresh))
    change = tree.sub(fresh, last)

    def moved(by):
        return jax.tree.map(lambda m, c: m + jnp.asarray(by, c.dtype) * c, table.mean, change)

    entries = jax.tree.map(
        lambda rows, new: lax.dynamic_update_index_in_dim(rows, new, entry, 0), table.entries, fresh
    )
    return moved(share * source.count), SagaTable(entries, moved(share))


def on_true_rows(oracle: Callable, point: Point, batch: Batch) -> Any:
    """The terms, those of a ragged last minibatch on its own rows, without the wrapped ones."""
    terms = oracle(point, batch)
    for level in Batch._fields:
        source = getattr(batch, level)
        tail = source.tail()
        if tail is not None:
            part = lax.cond(
                source.entry(0)[0] == source.count - 1,
                lambda level=level, tail=tail: getattr(oracle(point, batch._replace(**{level: tail})), level),
                lambda level=level: getattr(oracle(point, batch), level),
            )
            terms = terms._replace(**{level: part})
    return terms


def count_blocks(data: Batch) -> tuple[int, int]:
    """Minibatches of an epoch at each level, for algorithms that keep a table of them.

    >>> from bilevel import minibatches
    >>> count_blocks(minibatches(jnp.arange(10), jnp.arange(20), batch_size=4))
    (3, 5)
    """
    return data.outer.count, data.inner.count


def check_blocks(state: SagaState, batch: Batch) -> None:
    """Raise `ValueError` unless the tables have an entry for each minibatch of the data."""
    counts = tuple(source.count for source in batch)
    blocks = tuple(len(jax.tree.leaves(table.entries)[0]) for table in state)
    if counts != blocks:
        raise ValueError(
            f"the tables must have an entry for each of {counts} outer and inner minibatches, got {blocks}; "
            "make the state by bilevel.initial_state(algorithm, x, y, data)"
        )
