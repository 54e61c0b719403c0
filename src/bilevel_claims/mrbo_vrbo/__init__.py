"""Claims of the MRBO and VRBO paper."""

from bilevel_claims.mrbo_vrbo import cleaning

CLAIMS = tuple(entry.CLAIM for entry in (cleaning,))
