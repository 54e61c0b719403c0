"""Few-shot learning: from a set of images by class to a tested learner of new classes."""

from bilevel.fewshot.defaults import paper_recipe, recipe
from bilevel.fewshot.episodes import (
    Episode,
    Episodes,
    Images,
    Shape,
    as_episode,
    fixed_episodes,
    host_episodes,
)
from bilevel.fewshot.learn import FewShotResult, learn
from bilevel.fewshot.learner import Learner, Settings
from bilevel.fewshot.methods import METHODS
from bilevel.fewshot.saved import load_learner

__all__ = [
    "METHODS",
    "Episode",
    "Episodes",
    "FewShotResult",
    "Images",
    "Learner",
    "Settings",
    "Shape",
    "as_episode",
    "fixed_episodes",
    "host_episodes",
    "learn",
    "load_learner",
    "paper_recipe",
    "recipe",
]
