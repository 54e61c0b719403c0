"""Every public algorithm with settings that suit the shared problems: add yours here."""

from functools import partial

import bilevel as b

ALGORITHMS = {
    "itd_bio": partial(b.itd_bio, inner_steps=100),
    "aid_bio": partial(b.aid_bio, linear_solver=b.cg(6)),
    "stocbio": partial(b.stocbio, inner_steps=20, terms=100),
    "fsla": b.fsla,
    "soba": b.soba,
    "pzobo": partial(b.pzobo, inner_steps=100, directions=20, smoothing=1e-4),
}
