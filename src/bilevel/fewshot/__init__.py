"""Few-shot learning: from images by class to a tested learner of new classes."""

from bilevel.fewshot.episodes import (
    Episode,
    Episodes,
    Images,
    Shape,
    as_episode,
    fixed_episodes,
    host_episodes,
)
from bilevel.fewshot.judge import AnsweredEpisode
from bilevel.fewshot.learner import Learner, Training, training
from bilevel.fewshot.learning import FewShotResult, learn
from bilevel.fewshot.published import paper_recipe
from bilevel.fewshot.recipes import METHODS, Recipe, recipe
from bilevel.fewshot.saved import load_learner

__all__ = [
    "METHODS",
    "AnsweredEpisode",
    "Episode",
    "Episodes",
    "FewShotResult",
    "Images",
    "Learner",
    "Recipe",
    "Shape",
    "Training",
    "as_episode",
    "fixed_episodes",
    "host_episodes",
    "learn",
    "load_learner",
    "paper_recipe",
    "recipe",
    "training",
]
