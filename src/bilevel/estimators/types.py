"""What an estimator is."""

from collections.abc import Callable
from typing import Any, NamedTuple

from bilevel.types import Point


class Estimator(NamedTuple):
    """A pair of pure functions around an oracle.

    Attributes:
      init: `(point, blocks) -> state`, where `blocks` are the numbers of outer and inner minibatches in
        an epoch; only estimators that keep a table of minibatches read them.
      update: `(oracle, state, point, batch, key) -> (direction, state, terms)`: the direction a
        `Point`, the terms those of the point on the minibatch.
      calls: oracle calls of one update, refreshes on the whole set apart.
      fixed: whether epochs must have the same minibatches.
      seeds_in_sequence: whether some updates cost more than others, by `lax.cond`.
    """

    init: Callable[[Point, tuple[int, int]], Any]
    update: Callable[[Callable, Any, Point, Any, Any], tuple[Point, Any, Any]]
    calls: int
    fixed: bool = False
    seeds_in_sequence: bool = False
