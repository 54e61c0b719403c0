"""The algorithms of few-shot learning, each built for a network from the parts of this library."""

from collections.abc import Callable
from typing import Any

from bilevel.fewshot.learner import Learner, Settings
from bilevel.fewshot.on_features import anil, fo_itd_bio, itd_bio, protonet, pzobo
from bilevel.fewshot.whole_network import fomaml, imaml, maml, reptile, ufo_blo
from bilevel.models import Network

METHODS: dict[str, Callable[[Network, int, Any, Settings], Learner]] = {
    method.__name__: method
    for method in (maml, fomaml, anil, imaml, reptile, itd_bio, fo_itd_bio, pzobo, ufo_blo, protonet)
}
"""Methods of few-shot learning, by name."""

# Their head is made anew on every task, so it may have any number of ways.
FRESH_HEAD = ("itd_bio", "fo_itd_bio", "pzobo", "protonet")
