"""Claims of the NBO paper."""

from bilevel_claims.nbo import cleaning, ijcnn1, synthetic

CLAIMS = tuple(entry.CLAIM for entry in (cleaning, ijcnn1, synthetic))
