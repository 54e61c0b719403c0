"""Claims of the multi-step MAML paper."""

from bilevel_claims.maml import steps

CLAIMS = tuple(entry.CLAIM for entry in (steps,))
