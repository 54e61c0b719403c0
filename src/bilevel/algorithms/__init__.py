"""The named algorithms, one file each."""

from bilevel.algorithms.aid_bio import aid_bio
from bilevel.algorithms.fsla import fsla
from bilevel.algorithms.itd_bio import itd_bio
from bilevel.algorithms.pzobo import pzobo
from bilevel.algorithms.soba import soba
from bilevel.algorithms.stocbio import stocbio

__all__ = ["aid_bio", "fsla", "itd_bio", "pzobo", "soba", "stocbio"]
