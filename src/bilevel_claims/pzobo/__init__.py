"""Claims of the PZOBO paper."""

from bilevel_claims.pzobo import deep, fewshot, mnist, resnet12, shallow

CLAIMS = tuple(entry.CLAIM for entry in (deep, fewshot, mnist, resnet12, shallow))
