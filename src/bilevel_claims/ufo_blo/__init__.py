"""Claims of the UFO-BLO paper."""

from bilevel_claims.ufo_blo import counterexample, miniimagenet, omniglot, tradeoff

CLAIMS = tuple(entry.CLAIM for entry in (counterexample, miniimagenet, omniglot, tradeoff))
