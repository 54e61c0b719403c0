"""Checks of the extension protocols, to run on an implementation of your own.

Each check raises an `AssertionError` that names the broken rule. The checks of solvers, responses, oracles
and estimators solve a small problem with a known answer in float64, whatever the settings of JAX are.

>>> import bilevel
>>> from bilevel import testing
>>> testing.check_linear_solver(bilevel.cg(3))
>>> testing.check_inner_solver(lambda problem: bilevel.descend(problem, 0.5, steps=5))
"""

from bilevel.testing.algorithm import check_algorithm
from bilevel.testing.counting import count_calls
from bilevel.testing.estimator import check_estimator
from bilevel.testing.inner_solver import check_inner_solver
from bilevel.testing.linear_solver import check_linear_solver
from bilevel.testing.oracle import check_oracle
from bilevel.testing.response import check_response
from bilevel.testing.source import check_source

__all__ = [
    "check_algorithm",
    "check_estimator",
    "check_inner_solver",
    "check_linear_solver",
    "check_oracle",
    "check_response",
    "check_source",
    "count_calls",
]
