"""Oracles: the directions in which a single-loop method moves x, y and v at once."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from bilevel.types import Cost, Draws, Point, PyTree


class Terms(NamedTuple):
    """A direction in two parts, each with its own finite sum (SAGA keeps a table for each).

    Attributes:
      outer: the part that reads the outer minibatch.
      inner: the part that reads inner minibatches.
      linear_residual: `||f_y - H v|| / ||f_y||`, 0 where there is no adjoint.
    """

    outer: Point
    inner: Point
    linear_residual: Any

    @property
    def total(self) -> Point:
        """The direction itself."""
        return optax.tree.add(self.outer, self.inner)


class Oracle(NamedTuple):
    """How a direction is computed at a point.

    Attributes:
      evaluate: `(point, batch, key) -> Terms`; variables move against it.
      adjoint: `y -> v` at the start.
      draws: minibatches of one evaluation.
      cost: oracle calls of one evaluation.
    """

    evaluate: Callable[[Point, Any, Any], Terms]
    adjoint: Callable[[PyTree], PyTree]
    draws: Draws
    cost: Cost
