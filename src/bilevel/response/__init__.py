"""Responses: rules that map a cotangent on the inner solution to one on `x`."""

from bilevel.response.first_order import first_order
from bilevel.response.implicit import implicit
from bilevel.response.stepwise import stepwise
from bilevel.response.types import Pullback, Pulled, Response, SolutionInfo, solution
from bilevel.response.unbiased import optimal_probability, unbiased
from bilevel.response.unified import unified_hypergradient
from bilevel.response.unrolled import unrolled
from bilevel.response.zeroth_order import gaussian, orthogonal, sphere, zeroth_order

__all__ = [
    "Pullback",
    "Pulled",
    "Response",
    "SolutionInfo",
    "first_order",
    "gaussian",
    "implicit",
    "optimal_probability",
    "orthogonal",
    "solution",
    "sphere",
    "stepwise",
    "unbiased",
    "unified_hypergradient",
    "unrolled",
    "zeroth_order",
]
