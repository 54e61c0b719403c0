"""Claims of the FSLA paper."""

from bilevel_claims.fsla import cleaning, quadratic

CLAIMS = tuple(entry.CLAIM for entry in (cleaning, quadratic))
