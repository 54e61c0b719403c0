"""The named algorithms, one file each."""

from bilevel.algorithms.accbio import accbio
from bilevel.algorithms.accbio_bg import accbio_bg
from bilevel.algorithms.aid_bio import aid_bio
from bilevel.algorithms.amigo import amigo
from bilevel.algorithms.anil import anil
from bilevel.algorithms.bome import bome
from bilevel.algorithms.bsa import bsa
from bilevel.algorithms.constrained_first_order import constrained_first_order
from bilevel.algorithms.darts import darts
from bilevel.algorithms.f2sa import f2sa
from bilevel.algorithms.f3sa import f3sa
from bilevel.algorithms.fo_blo import fo_blo
from bilevel.algorithms.fo_itd_bio import fo_itd_bio
from bilevel.algorithms.fomaml import fomaml
from bilevel.algorithms.fsla import fsla
from bilevel.algorithms.hoag import hoag
from bilevel.algorithms.imaml import imaml
from bilevel.algorithms.itd_bio import itd_bio
from bilevel.algorithms.lancbio import lancbio
from bilevel.algorithms.ma_nsbo_saga import ma_nsbo_saga
from bilevel.algorithms.ma_soba import ma_soba
from bilevel.algorithms.maml import maml
from bilevel.algorithms.mrbo import mrbo
from bilevel.algorithms.nbo import nbo
from bilevel.algorithms.nsbo import nsbo
from bilevel.algorithms.nsbo_saga import nsbo_saga
from bilevel.algorithms.prox_aid import prox_aid
from bilevel.algorithms.pzobo import pzobo
from bilevel.algorithms.pzobo_s import pzobo_s
from bilevel.algorithms.qnbo import qnbo
from bilevel.algorithms.reptile import reptile
from bilevel.algorithms.reverse import reverse
from bilevel.algorithms.saba import saba
from bilevel.algorithms.sama import sama
from bilevel.algorithms.shine import shine
from bilevel.algorithms.soba import soba
from bilevel.algorithms.srba import srba
from bilevel.algorithms.stable import stable
from bilevel.algorithms.stocbio import stocbio
from bilevel.algorithms.subbio import subbio
from bilevel.algorithms.sustain import sustain
from bilevel.algorithms.truncated import truncated
from bilevel.algorithms.ttsa import ttsa
from bilevel.algorithms.ufo_blo import ufo_blo
from bilevel.algorithms.v_pbgd import v_pbgd
from bilevel.algorithms.vrbo import vrbo

# They learn where training starts, for many small tasks: not for a problem with one inner variable.
START_LEARNERS = ("anil", "fomaml", "imaml", "maml", "reptile")
# They move x by f_x alone: nothing is learnt where f depends on x through y only.
DIRECT_ONLY = ("fo_blo", "fo_itd_bio")

__all__ = [
    "accbio",
    "accbio_bg",
    "aid_bio",
    "amigo",
    "anil",
    "bome",
    "bsa",
    "constrained_first_order",
    "darts",
    "f2sa",
    "f3sa",
    "fo_blo",
    "fo_itd_bio",
    "fomaml",
    "fsla",
    "hoag",
    "imaml",
    "itd_bio",
    "lancbio",
    "ma_nsbo_saga",
    "ma_soba",
    "maml",
    "mrbo",
    "nbo",
    "nsbo",
    "nsbo_saga",
    "prox_aid",
    "pzobo",
    "pzobo_s",
    "qnbo",
    "reptile",
    "reverse",
    "saba",
    "sama",
    "shine",
    "soba",
    "srba",
    "stable",
    "stocbio",
    "subbio",
    "sustain",
    "truncated",
    "ttsa",
    "ufo_blo",
    "v_pbgd",
    "vrbo",
]
