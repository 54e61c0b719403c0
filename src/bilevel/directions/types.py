"""Oracles: the directions in which a single-loop method moves x, y and v at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from bilevel.types import Batch, Cost, Draws, Point, PyTree


class Terms(NamedTuple):
    """A direction as a sum of two terms. SAGA keeps a table for each of them.

    Attributes:
      outer: the part that depends on the outer minibatch, a `Point`.
      inner: the part that depends on the inner minibatches, a `Point`.
      linear_residual: `||f_y - H v|| / ||f_y||`, a scalar; 0 if there is no adjoint.
    """

    outer: Point
    inner: Point
    linear_residual: Any

    @property
    def total(self) -> Point:
        """Sum of the two terms: the direction itself."""
        return optax.tree.add(self.outer, self.inner)


class Oracle(NamedTuple):
    """An oracle: the direction of a single-loop method at a point.

    `bilevel.testing.check_oracle` tests an implementation.

    Attributes:
      evaluate: `(point, batch, key) -> Terms`, a pure function. `point` is the `Point(x, y, v)`, and both
        terms are `Point`s of the same structure, shapes and dtypes. The variables move against the sum
        of the terms. It reads `batch.outer[i]` and `batch.inner[i]`. All arguments may be traced. `key` is
        a JAX random key, or None; only random oracles need one.
      adjoint: `y -> v`, the third variable at the start; `()` for oracles that have none.
      draws: number of minibatches that one evaluation reads at each level, from the first on.
      cost: oracle calls of one evaluation, without a product that only `linear_residual` reads.
      third_is_inner: whether v is a second inner variable, which is kept in the feasible set of y, and not an
        adjoint, which is never projected.
    """

    evaluate: Callable[[Point, Batch, Any], Terms]
    adjoint: Callable[[PyTree], PyTree]
    draws: Draws
    cost: Cost
    third_is_inner: bool = False
