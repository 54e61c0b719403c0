"""Checks of a user's hypergradients against a reference, and advice on which to use."""

from bilevel.checking.advise import Advice, advise
from bilevel.checking.check import check
from bilevel.checking.report import Report
from bilevel.checking.rows import Row

__all__ = ["Advice", "Report", "Row", "advise", "check"]
