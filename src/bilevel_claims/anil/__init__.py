"""Claims of the ANIL paper."""

from bilevel_claims.anil import steps

CLAIMS = tuple(entry.CLAIM for entry in (steps,))
