"""Claims of the papers, tested: one entry a claim, run by `bilevel reproduce`."""

from bilevel_claims.registry import get, names

__all__ = ["get", "names"]
