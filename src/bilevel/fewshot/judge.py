"""Accuracy of a learner on new classes."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel.fewshot.episodes import Shape, as_episode, draw
from bilevel.fewshot.learner import Learner
from bilevel.types import PyTree

# Support and query images in a group of episodes whose features are computed together.
IMAGES_AT_ONCE = 800


class AnsweredEpisode(NamedTuple):
    """An episode with a learner's answers.

    Images of one channel show ink (255) on paper (0); images of three channels are in colour.

    Attributes:
      support: (ways, shots, height, width, channels) uint8.
      query: (n, height, width, channels) uint8.
      labels, predictions: (n,) int, the true and the predicted class, from 0 to ways - 1.
      confidence: (n,) probability of the predicted class.
    """

    support: np.ndarray
    query: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    confidence: np.ndarray


class Judge:
    """Accuracy of a learner on fixed episodes of one part of the classes.

    Args:
      learner: the learner to measure.
      images: (classes, images per class, height, width, channels) uint8.
      scale: `(mean, std)` of the pixels.
      seed: seed of the episodes.
    """

    def __init__(self, learner: Learner, images: np.ndarray, scale: tuple[Any, Any], seed: int):
        self.learner, self.scale = learner, scale
        self.images = jnp.asarray(images)
        self.key = jax.random.key(seed)

    def accuracy(self, x: PyTree, shape: Shape, episodes: int) -> tuple[float, float]:
        """Return the mean accuracy on query images and half its 95 % interval.

        An answer with outputs that are not finite counts as wrong.
        """
        keys = jax.random.split(self.key, episodes)
        images = shape.ways * (shape.shots + shape.queries)
        at_once = max(1, IMAGES_AT_ONCE // images) if self.learner.shares_features else 1
        hits = np.asarray(_accuracies(self.learner.answer, x, self.images, self.scale, keys, shape, at_once))
        return float(hits.mean()), 1.96 * float(hits.std(ddof=1)) / math.sqrt(episodes)

    def answered(self, x: PyTree, shape: Shape, count: int) -> list[AnsweredEpisode]:
        """Return a few episodes with the learner's answers."""
        return [self._answered(x, shape, key) for key in jax.random.split(self.key, count)]

    def _answered(self, x, shape, key):
        support, query, outputs = _answers(self.learner.answer, x, self.images, self.scale, key, shape)
        chances = np.asarray(jax.nn.softmax(outputs))
        labels = np.repeat(np.arange(shape.ways), shape.queries)
        query = np.asarray(query).reshape(-1, *query.shape[2:])
        return AnsweredEpisode(
            support=np.asarray(support),
            query=query,
            labels=labels,
            predictions=chances.argmax(1),
            confidence=chances.max(1),
        )


@partial(jax.jit, static_argnums=(0, 5))
def _answers(answer, x, images, scale, key, shape):
    support, query = draw(key, images, shape)
    return support, query, answer(x, as_episode(support, query, *scale), shape.ways)


@partial(jax.jit, static_argnums=(0, 5, 6))
def _accuracies(answer, x, images, scale, keys, shape, at_once):
    def one(key):
        episode = as_episode(*draw(key, images, shape), *scale)
        outputs = answer(x, episode, shape.ways)
        right = jnp.argmax(outputs, axis=1).astype(jnp.int32) == episode.query.labels
        return jnp.mean((right & jnp.all(jnp.isfinite(outputs), axis=1)).astype(jnp.float32))

    return lax.map(one, keys, batch_size=at_once)
