"""The entries of `bilevel reproduce`, by name."""

from bilevel.datasets.errors import did_you_mean
from bilevel.reproduce.claims import (
    accbio_worstcase,
    aid_itd_warmstart,
    anil_steps,
    fsla_cleaning,
    fsla_quadratic,
    itd_fewshot,
    maml_steps,
    mrbo_vrbo_cleaning,
    nbo_cleaning,
    nbo_ijcnn1,
    nbo_synthetic,
    pzobo_deep,
    pzobo_fewshot,
    pzobo_mnist,
    pzobo_resnet12,
    pzobo_shallow,
    stocbio_cleaning,
    stocbio_estimator,
    stocbio_newsgroups,
    ufo_counterexample,
    ufo_miniimagenet,
    ufo_omniglot,
    ufo_tradeoff,
)
from bilevel.reproduce.types import Claim

CLAIMS: dict[str, Claim] = {
    module.CLAIM.name: module.CLAIM
    for module in (
        accbio_worstcase,
        aid_itd_warmstart,
        anil_steps,
        fsla_cleaning,
        fsla_quadratic,
        itd_fewshot,
        maml_steps,
        mrbo_vrbo_cleaning,
        nbo_cleaning,
        nbo_ijcnn1,
        nbo_synthetic,
        pzobo_deep,
        pzobo_fewshot,
        pzobo_mnist,
        pzobo_resnet12,
        pzobo_shallow,
        stocbio_cleaning,
        stocbio_estimator,
        stocbio_newsgroups,
        ufo_counterexample,
        ufo_miniimagenet,
        ufo_omniglot,
        ufo_tradeoff,
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
