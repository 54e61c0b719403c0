"""The SAGA estimator, which keeps a table with an entry for every minibatch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.directions.types import Terms
from bilevel.estimators.types import Estimator, Evaluate
from bilevel.types import Batch, Point, PyTree
from bilevel.widening import widened

tree = optax.tree


class SagaTable(NamedTuple):
    """A table of the last value of every minibatch.

    Attributes:
      entries: the values, stacked along a leading axis, one for each minibatch.
      mean: mean of the entries, weighted by rows, in at least float32: it sums small changes.
    """

    entries: PyTree
    mean: PyTree


class SagaState(NamedTuple):
    """State of `saga`: the tables of the outer and of the inner terms."""

    outer: SagaTable
    inner: SagaTable


def saga() -> Estimator:
    """Return the SAGA estimator: a table of the last direction of every minibatch.

        d = mean + (fresh - table[i]);   mean += share_i (fresh - table[i]);   table[i] = fresh

    There is one table for the outer terms and one for the inner terms. The noise of the direction
    vanishes as the variables converge. The direction is unbiased for every batch size: the change
    `fresh - table[i]` is weighted by the size of its minibatch relative to the mean size, and a ragged
    last minibatch is evaluated on its own rows only.

    Returns:
      An `Estimator` whose tables start at zero. Its memory is one value of x, y and v for each minibatch
      and level. On CPU every step also copies the tables, which dominates its time when there are
      thousands of minibatches.

    Cost: 1 oracle call per step.

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

    return Estimator(init=init, update=update, calls=1, fixed=True)


def empty_table(value: PyTree, entries: int) -> SagaTable:
    """Return a table of `entries` zeros shaped like `value`."""
    room = jax.tree.map(lambda leaf: jnp.zeros((entries, *leaf.shape), leaf.dtype), value)
    return SagaTable(room, jax.tree.map(widened, tree.zeros_like(value)))


def recall(table: SagaTable, fresh: PyTree, source: Any, draw: int = 0) -> tuple[PyTree, SagaTable]:
    """Estimate the mean over all minibatches and store the fresh value.

    Args:
      table: the last value of every minibatch.
      fresh: value on minibatch number `draw` of the step.
      source: the source of minibatches, which numbers them and knows their shares of the rows.
      draw: index of the minibatch in the step.

    Returns:
      `(estimate, table)`: the SAGA estimate, and the table with `fresh` in it.
    """
    entry, share = source.entry(draw)
    last = jax.tree.map(lambda rows: lax.dynamic_index_in_dim(rows, entry, keepdims=False), table.entries)
    # All reads come before the write, so that XLA makes fewer copies of the tables.
    last, fresh = lax.optimization_barrier((last, fresh))
    change = jax.tree.map(lambda new, old: widened(new) - widened(old), fresh, last)

    def moved(by):
        return jax.tree.map(lambda m, c: m + jnp.asarray(by, c.dtype) * c, table.mean, change)

    entries = jax.tree.map(
        lambda rows, new: lax.dynamic_update_index_in_dim(rows, new, entry, 0), table.entries, fresh
    )
    estimate = jax.tree.map(lambda m, new: m.astype(new.dtype), moved(share * source.count), fresh)
    return estimate, SagaTable(entries, moved(share))


def on_true_rows(oracle: Evaluate, point: Point, batch: Batch) -> Terms:
    """Evaluate the terms, a ragged last minibatch on its own rows only."""
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
    """Return the numbers of outer and inner minibatches in an epoch.

    >>> from bilevel import minibatches
    >>> count_blocks(minibatches(jnp.arange(10), jnp.arange(20), batch_size=4))
    (3, 5)
    """
    return data.outer.count, data.inner.count


def check_blocks(state: SagaState, batch: Batch) -> None:
    """Raise `ValueError` unless the tables have one entry per minibatch."""
    counts = tuple(source.count for source in batch)
    blocks = tuple(len(jax.tree.leaves(table.entries)[0]) for table in state)
    if counts != blocks:
        raise ValueError(
            f"the tables must have an entry for each of {counts} outer and inner minibatches, got {blocks}; "
            "make the state with bilevel.initial_state(algorithm, x, y, data)"
        )
