"""Checks of the extension protocols, to run on implementations of your own.

Each check raises `AssertionError` with the rule that does not hold.
"""

from bilevel.testing.algorithm import check_algorithm
from bilevel.testing.source import check_source

__all__ = ["check_algorithm", "check_source"]
