"""Claims of the AID-BiO, ITD-BiO and stocBiO paper."""

from bilevel_claims.stocbio import aid_itd_warmstart, cleaning, estimator, itd_fewshot, newsgroups

CLAIMS = tuple(entry.CLAIM for entry in (aid_itd_warmstart, itd_fewshot, cleaning, estimator, newsgroups))
