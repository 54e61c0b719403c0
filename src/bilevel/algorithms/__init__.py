"""The named algorithms, one file each. These imports are the only list of them."""

from bilevel.algorithms.accbio import accbio as accbio
from bilevel.algorithms.accbio_bg import accbio_bg as accbio_bg
from bilevel.algorithms.aid_bio import aid_bio as aid_bio
from bilevel.algorithms.amigo import amigo as amigo
from bilevel.algorithms.anil import anil as anil
from bilevel.algorithms.bome import bome as bome
from bilevel.algorithms.bsa import bsa as bsa
from bilevel.algorithms.constrained_first_order import constrained_first_order as constrained_first_order
from bilevel.algorithms.darts import darts as darts
from bilevel.algorithms.f2sa import f2sa as f2sa
from bilevel.algorithms.f3sa import f3sa as f3sa
from bilevel.algorithms.fo_blo import fo_blo as fo_blo
from bilevel.algorithms.fo_itd_bio import fo_itd_bio as fo_itd_bio
from bilevel.algorithms.fomaml import fomaml as fomaml
from bilevel.algorithms.fsla import fsla as fsla
from bilevel.algorithms.hoag import hoag as hoag
from bilevel.algorithms.imaml import imaml as imaml
from bilevel.algorithms.itd_bio import itd_bio as itd_bio
from bilevel.algorithms.lancbio import lancbio as lancbio
from bilevel.algorithms.ma_nsbo_saga import ma_nsbo_saga as ma_nsbo_saga
from bilevel.algorithms.ma_soba import ma_soba as ma_soba
from bilevel.algorithms.maml import maml as maml
from bilevel.algorithms.mrbo import mrbo as mrbo
from bilevel.algorithms.nbo import nbo as nbo
from bilevel.algorithms.nsbo import nsbo as nsbo
from bilevel.algorithms.nsbo_saga import nsbo_saga as nsbo_saga
from bilevel.algorithms.prox_aid import prox_aid as prox_aid
from bilevel.algorithms.pzobo import pzobo as pzobo
from bilevel.algorithms.pzobo_s import pzobo_s as pzobo_s
from bilevel.algorithms.qnbo import qnbo as qnbo
from bilevel.algorithms.record import About as About
from bilevel.algorithms.record import about as about
from bilevel.algorithms.record import hyperparameters as hyperparameters
from bilevel.algorithms.reptile import reptile as reptile
from bilevel.algorithms.reverse import reverse as reverse
from bilevel.algorithms.saba import saba as saba
from bilevel.algorithms.sama import sama as sama
from bilevel.algorithms.shine import shine as shine
from bilevel.algorithms.soba import soba as soba
from bilevel.algorithms.srba import srba as srba
from bilevel.algorithms.stable import stable as stable
from bilevel.algorithms.stocbio import stocbio as stocbio
from bilevel.algorithms.subbio import subbio as subbio
from bilevel.algorithms.sustain import sustain as sustain
from bilevel.algorithms.truncated import truncated as truncated
from bilevel.algorithms.ttsa import ttsa as ttsa
from bilevel.algorithms.ufo_blo import ufo_blo as ufo_blo
from bilevel.algorithms.v_pbgd import v_pbgd as v_pbgd
from bilevel.algorithms.vrbo import vrbo as vrbo

ALGORITHMS = {
    name: value for name, value in list(globals().items()) if isinstance(getattr(value, "about", None), About)
}

__all__ = [*ALGORITHMS]  # pyright: ignore[reportUnsupportedDunderAll]
