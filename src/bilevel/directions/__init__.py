"""Oracles: the directions in which a single-loop method moves x, y and v."""

from bilevel.directions.implicit import implicit_direction
from bilevel.directions.neumann import neumann_direction
from bilevel.directions.penalty import penalty_direction
from bilevel.directions.types import Oracle, Terms

__all__ = ["Oracle", "Terms", "implicit_direction", "neumann_direction", "penalty_direction"]
