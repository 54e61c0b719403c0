"""Responses: how the inner solution answers a change of the outer variable."""

from bilevel.response.first_order import first_order
from bilevel.response.implicit import implicit
from bilevel.response.types import Pulled, Response, solution
from bilevel.response.unrolled import truncated, unrolled
from bilevel.response.zeroth_order import gaussian, zeroth_order

__all__ = [
    "Pulled",
    "Response",
    "first_order",
    "gaussian",
    "implicit",
    "solution",
    "truncated",
    "unrolled",
    "zeroth_order",
]
