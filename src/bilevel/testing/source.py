"""The check of a data source."""

from numbers import Integral
from typing import Any

import jax
import numpy as np

from bilevel.sampling import BlockSource, Source, require_sources
from bilevel.testing.asserting import assert_identical, assert_same_shape, assert_true
from bilevel.types import Batch

_COUNT = 6


def check_source(source: Source | BlockSource, key: Any) -> None:
    """Check a data source: the protocol `Source`, and `BlockSource` if it has a count.

    Args:
      source: the source to check, not yet planned.
      key: random key.

    Raises:
      AssertionError: when a rule does not hold; the message states it.
      ValueError: if a member is missing or the source is not a pytree.

    >>> from bilevel import minibatches
    >>> check_source(minibatches(None, np.arange(10), batch_size=4).inner, jax.random.key(0))
    """
    require_sources(Batch(source, source))
    picks = source.plan(key, 0, _COUNT)
    _check_plan(source, key, picks)
    _check_view(source, picks)
    _check_whole(source)
    if isinstance(getattr(source, "count", None), Integral):
        _check_blocks(source, key)


def _check_plan(source, key, picks):
    for leaf in jax.tree.leaves(picks):
        shape = np.shape(leaf)
        assert_true(
            shape[:1] == (_COUNT,),
            f"plan must return {_COUNT} picks along the leading axis, got shape {shape}",
        )
    later = source.plan(key, 2, _COUNT - 2)
    joined = jax.tree.map(lambda *parts: jax.numpy.concatenate(parts), source.plan(key, 0, 2), later)
    assert_identical(picks, joined, "a plan must not depend on how it is cut into chunks")
    traced = jax.jit(lambda source, first: source.plan(key, first, _COUNT - 2))(source, 2)
    assert_identical(later, traced, "plan must accept a traced number of the first minibatch")
    assert_identical(picks, source.plan(key, 0, _COUNT), "the same key must give the same plan")


def _check_view(source, picks):
    view = source.view(picks)
    found = [view[i] for i in range(_COUNT)]
    for minibatch in found[1:]:
        assert_same_shape(
            jax.tree.map(np.asarray, found[0]),
            jax.tree.map(np.asarray, minibatch),
            "all minibatches must have the same structure, shapes and dtypes",
        )
    compiled = jax.jit(lambda source, picks, i: source.view(picks)[i])
    for i in (0, _COUNT - 1):
        assert_identical(found[i], compiled(source, picks, i), "a view must accept a traced index")
    leaves, structure = jax.tree.flatten(view)
    rule = "a view must be unchanged by jax.tree.flatten and jax.tree.unflatten"
    assert_identical(found[1], jax.tree.unflatten(structure, leaves)[1], rule)
    if source.is_full:
        assert_identical(found[0], found[-1], "with is_full every minibatch must be the whole set")


def _check_whole(source):
    try:
        whole = source.whole()
    except ValueError as error:
        assert_true(str(error), "the error of whole must state why there is no whole set")
        return
    require_sources(Batch(whole, whole))
    assert_true(whole.is_full, "whole must return a source whose is_full is True")
    compiled = jax.jit(lambda source: source.whole()[0])(source)
    assert_identical(whole[0], compiled, "whole must give the same result under jit")


def _check_blocks(source, key):
    require_sources(Batch(source, source), table="check_source")
    epochs = 2
    view = source.view(source.plan(key, 0, epochs * source.count, True))
    numbers, shares, seen = [], [], {}
    for i in range(epochs * source.count):
        number, share = view.entry(i)
        numbers.append(int(number))
        shares.append(float(share))
        assert_identical(
            seen.setdefault(int(number), view[i]),
            view[i],
            "a fixed minibatch must be the same in every epoch",
        )
    for epoch in range(epochs):
        part = slice(epoch * source.count, (epoch + 1) * source.count)
        found = numbers[part]
        assert_true(
            sorted(found) == list(range(source.count)),
            f"with fixed=True an epoch must have each of {source.count} minibatches once, got {found}",
        )
        total = sum(shares[part])
        assert_true(abs(total - 1) < 1e-5, f"the shares of the rows in an epoch must sum to 1, got {total}")
    tail = source.tail()
    if tail is not None:
        require_sources(Batch(tail, tail))
