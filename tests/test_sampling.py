"""Sources of minibatches: every row, without bias, without copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as b
from bilevel.sampling import Full, Stacked

KEY = jax.random.key(3)


def rows_seen(source, first, count):
    view = source.view(source.plan(KEY, first, count))
    return np.stack([np.asarray(view[i]) for i in range(count)])


@pytest.mark.parametrize("rows, size", [(12, 4), (13, 4), (7, 7), (5, 1), (9, 8)])
def test_every_row_is_visited_in_every_epoch_a_ragged_one_included(rows, size):
    source = b.minibatches(np.arange(rows), np.arange(rows), batch_size=size).inner
    blocks = -(-rows // size)
    for epoch in range(5):
        seen = rows_seen(source, epoch * blocks, blocks)
        assert set(seen.ravel()) == set(range(rows))


def test_every_row_is_as_likely_as_any_other():
    source = b.minibatches(np.arange(10), np.arange(10), batch_size=4).outer
    counts = np.bincount(rows_seen(source, 0, 3000).ravel(), minlength=10)
    # 12,000 rows in 1,000 epochs of 12: the extra two of each epoch start at a random row.
    assert counts.min() > 1150 and counts.max() < 1250


def test_epochs_differ():
    source = b.minibatches(np.arange(64), np.arange(64), batch_size=4).inner
    starts = source.plan(KEY, 0, 160).reshape(10, 16)
    assert len({tuple(row) for row in np.asarray(starts)}) == 10


def test_a_plan_does_not_depend_on_where_it_is_cut():
    source = b.minibatches(np.arange(50), np.arange(50), batch_size=8).inner
    whole = source.plan(KEY, 0, 30)
    np.testing.assert_array_equal(whole[11:], source.plan(KEY, 11, 19))


def test_products_of_strides_do_not_overflow():
    rng = np.random.default_rng(0)
    for modulus in (7, 4097, 2**24 + 3, 2**27 - 1):
        a, stride = rng.integers(0, modulus, 1000), rng.integers(1, 4097, 1000)
        got = b.sampling._product_modulo(jnp.asarray(a, jnp.int32), jnp.asarray(stride, jnp.int32), modulus)
        np.testing.assert_array_equal(got, a * stride % modulus)


def test_a_level_without_data_may_be_none():
    data = b.minibatches(None, np.arange(5), batch_size=2)
    assert data.outer[0] is None and data.outer.is_full


def test_large_sets_are_planned_without_overflow():
    source = b.sampling.Blocks(None, None, jnp.array([4095, 1], jnp.int32), rows=500_000_000, size=100)
    starts = np.asarray(source.plan(KEY, 4_900_000, 1000))
    assert starts.min() >= 0 and starts.max() < 500_000_000 and len(set(starts)) == 1000


def test_the_two_levels_are_shuffled_differently():
    data = b.minibatches(np.arange(100), np.arange(100), batch_size=10)
    assert np.any(data.outer.arrays != data.inner.arrays)
    again = b.minibatches(np.arange(100), np.arange(100), batch_size=10)
    np.testing.assert_array_equal(data.inner.arrays, again.inner.arrays)


def test_rows_of_all_leaves_stay_together():
    arrays = {"features": np.arange(20.0)[:, None] * np.ones((1, 3)), "labels": np.arange(20)}
    source = b.minibatches(arrays, arrays, batch_size=6).inner
    block = source.view(source.plan(KEY, 0, 1))[0]
    np.testing.assert_array_equal(block["features"][:, 0], block["labels"])


def test_full_data_are_not_copied():
    array = jnp.arange(5)
    data = b.full(array, array)
    assert isinstance(data.outer, Full) and data.outer[17] is array


def test_host_sources_are_stacked_and_padded():
    source = b.Host(lambda i: {"n": np.array([i, 10 * i])})
    stacked = source.stack(5, 2, 4)
    assert isinstance(stacked, Stacked)
    np.testing.assert_array_equal(stacked.arrays["n"][:, 0], [5, 6, 6, 6])


@pytest.mark.parametrize(
    "arrays, size, rule",
    [
        ((np.zeros(3), np.zeros(4)), 2, r"same number of rows, got \[3, 4\]"),
        (np.zeros(3), 4, r"batch_size must be in 1..3 \(the rows of the outer data\), got 4"),
        (np.zeros(3), 0, "got 0"),
        (np.zeros(()), 1, "got 1"),
    ],
)
def test_bad_arguments(arrays, size, rule):
    with pytest.raises(ValueError, match=rule):
        b.minibatches(arrays, arrays, batch_size=size)
