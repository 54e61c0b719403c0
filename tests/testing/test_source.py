"""The check of data sources passes on the sources of the package and fails on broken ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as b
from bilevel.fewshot import Episodes, Shape
from bilevel.sampling import Blocks
from bilevel.testing import check_source
from cases.sources import RandomRows

ROWS = jnp.arange(14.0).reshape(7, 2)


def blocks(rows=7, size=3):
    return b.minibatches(None, {"a": np.arange(rows), "b": np.ones((rows, 2))}, batch_size=size).inner


def episodes():
    images = jnp.arange(3 * 4 * 4, dtype=jnp.uint8).reshape(3, 4, 2, 2, 1)
    mean, std = np.zeros(1, np.float32), np.ones(1, np.float32)
    return Episodes(images=images, mean=mean, std=std, keys=None, shape=Shape(2, 1, 1), tasks=2)


SOURCES = {
    "full": b.full(ROWS, None).outer,
    "nothing": b.full(None, None).outer,
    "blocks": blocks(8, 4),
    "ragged blocks": blocks(),
    "episodes": episodes(),
    "user": RandomRows(ROWS, 2),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_obey_the_protocol(name, key):
    # Pixels are scaled by numbers for each channel.
    with jax.numpy_rank_promotion("allow"):
        check_source(SOURCES[name], key)


class DependsOnTheCut(RandomRows):
    def plan(self, key, first, count, fixed=False):
        return super().plan(jax.random.fold_in(key, count), first, count)


class IgnoresTheIndex(RandomRows):
    is_full = True


class NeedsAnInteger(RandomRows):
    def __getitem__(self, i):
        return self.rows[self.picks[int(i)]]


class WholeIsNotFull(RandomRows):
    def whole(self):
        return self


@pytest.mark.parametrize(
    "kind, rule",
    [
        (DependsOnTheCut, "a plan must not depend on how it is cut into chunks"),
        (IgnoresTheIndex, "with is_full every minibatch must be the whole set"),
        (NeedsAnInteger, "traced"),
        (WholeIsNotFull, "whole must return a source whose is_full is True"),
    ],
)
def test_broken_sources_are_found(kind, rule, key):
    jax.tree_util.register_dataclass(kind, ["rows", "picks"], ["size"])
    with pytest.raises((AssertionError, jax.errors.ConcretizationTypeError), match=rule):
        check_source(kind(ROWS, 2), key)


def test_a_table_of_wrong_shares_is_found(key):
    class Wrong(Blocks):
        def entry(self, i):
            return super().entry(i)[0], 0.5

    jax.tree_util.register_dataclass(Wrong, ["arrays", "picks", "strides"], ["rows", "size", "shuffle"])
    fine = blocks()
    wrong = Wrong(**vars(fine))
    with pytest.raises(AssertionError, match="shares of the rows in an epoch must sum to 1, got 1.5"):
        check_source(wrong, key)
