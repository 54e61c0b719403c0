"""All claims by name."""

from bilevel.datasets.errors import did_you_mean
from bilevel_claims import accbio, anil, fsla, maml, mrbo_vrbo, nbo, pzobo, stocbio, ufo_blo
from bilevel_claims.types import Claim

PAPERS = (accbio, anil, fsla, maml, mrbo_vrbo, nbo, pzobo, stocbio, ufo_blo)
CLAIMS: dict[str, Claim] = dict(sorted((claim.name, claim) for paper in PAPERS for claim in paper.CLAIMS))


def names() -> list[str]:
    """Return the names of all claims, in alphabetical order."""
    return list(CLAIMS)


def get(name: str) -> Claim:
    """Return the claim of this name.

    Raises:
      ValueError: if there is none.
    """
    if name not in CLAIMS:
        raise ValueError(f"unknown claim {name!r}; {did_you_mean(name, CLAIMS)}")
    return CLAIMS[name]
