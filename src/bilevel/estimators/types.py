"""The protocol of estimators."""

from collections.abc import Callable
from typing import Any, NamedTuple

from bilevel.directions.types import Terms
from bilevel.types import Batch, Point

Evaluate = Callable[[Point, Batch], Terms]
"""The oracle as an estimator sees it: `(point, batch) -> Terms`, with the key of the step."""


class Estimator(NamedTuple):
    """An estimator: a pair of pure functions around an oracle.

    `bilevel.testing.check_estimator` tests an implementation.

    Attributes:
      init: `(point, blocks) -> state`, the state before the first step, a pytree. `point` is the starting
        `Point`, and `blocks` are the numbers of outer and inner minibatches in an epoch; only estimators
        with a table of minibatches read them.
      update: `(oracle, state, point, batch, key) -> (direction, state, terms)`. `oracle(point, batch)`
        returns the `Terms` at a point. `direction` is a `Point` shaped like `point`, the new state has the
        structure, shapes and dtypes of the old one, and `terms` are `oracle(point, batch)`. All
        arguments but `oracle` may be traced.
      calls: oracle calls of one update, without those on the whole set.
      fixed: whether every epoch must have the same minibatches, as a table of minibatches needs.
      seeds_in_sequence: whether some updates cost more than others (`lax.cond`), so that several seeds
        should run one after the other.
    """

    init: Callable[[Point, tuple[int, int]], Any]
    update: Callable[[Evaluate, Any, Point, Batch, Any], tuple[Point, Any, Terms]]
    calls: int
    fixed: bool = False
    seeds_in_sequence: bool = False
