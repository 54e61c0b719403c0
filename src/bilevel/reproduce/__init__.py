"""Claims of the papers, tested: one entry a claim, run by `bilevel reproduce`."""

from bilevel.reproduce.registry import get, names

__all__ = ["get", "names"]
