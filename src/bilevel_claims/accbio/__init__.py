"""Claims of the AccBiO paper."""

from bilevel_claims.accbio import worstcase

CLAIMS = tuple(entry.CLAIM for entry in (worstcase,))
