"""The entries of `bilevel reproduce`, by name."""

from bilevel.datasets.errors import did_you_mean
from bilevel.reproduce.claims import (
    accbio_worstcase,
    aid_itd_warmstart,
    fsla_quadratic,
    stocbio_estimator,
    ufo_counterexample,
)
from bilevel.reproduce.types import Claim

CLAIMS: dict[str, Claim] = {
    module.CLAIM.name: module.CLAIM
    for module in (
        accbio_worstcase,
        aid_itd_warmstart,
        fsla_quadratic,
        stocbio_estimator,
        ufo_counterexample,
    )
}  # fmt: skip


def names() -> list[str]:
    """Names of all entries, in order."""
    return list(CLAIMS)


def get(name: str) -> Claim:
    """The entry of a name.

    Raises:
      ValueError: when there is none.
    """
    if name not in CLAIMS:
        raise ValueError(f"unknown claim {name!r}; {did_you_mean(name, CLAIMS)}")
    return CLAIMS[name]
