"""How well a learner does on new classes."""

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

IMAGES_AT_ONCE = 800


class Pictured(NamedTuple):
    """An episode as a reader sees it.

    Attributes:
      support: (ways, shots, height, width, channels) uint8.
      query: (n, height, width, channels) uint8.
      labels, predictions: (n,) int.
      confidence: (n,) probability of the predicted class.
    """

    support: np.ndarray
    query: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    confidence: np.ndarray


class Judge:
    """Accuracy of a learner on episodes of one part of the classes, the same ones at every call.

    Args:
      learner: to be judged.
      images: (classes, images a class, height, width, channels) uint8.
      scale: `(mean, std)` of the pixels.
      seed: of the episodes.
    """

    def __init__(self, learner: Learner, images: np.ndarray, scale: tuple[Any, Any], seed: int):
        self.learner, self.scale = learner, scale
        self.images = jnp.asarray(images)
        self.key = jax.random.key(seed)

    def accuracy(self, x: PyTree, shape: Shape, episodes: int) -> tuple[float, float]:
        """`(mean, half width of its 95 % interval)` of the share of query images that are right."""
        keys = jax.random.split(self.key, episodes)
        images = shape.ways * (shape.shots + shape.queries)
        at_once = max(1, IMAGES_AT_ONCE // images) if self.learner.shares_features else 1
        rights = np.asarray(_rights(self.learner.answer, x, self.images, self.scale, keys, shape, at_once))
        return float(rights.mean()), 1.96 * float(rights.std(ddof=1)) / math.sqrt(episodes)

    def pictured(self, x: PyTree, shape: Shape, count: int) -> list[Pictured]:
        """A few episodes with what the learner says of them."""
        return [self._picture(x, shape, key) for key in jax.random.split(self.key, count)]

    def _picture(self, x, shape, key):
        support, query, outputs = _answered(self.learner.answer, x, self.images, self.scale, key, shape)
        chances = np.asarray(jax.nn.softmax(outputs))
        labels = np.repeat(np.arange(shape.ways), shape.queries)
        query = np.asarray(query).reshape(-1, *query.shape[2:])
        return Pictured(np.asarray(support), query, labels, chances.argmax(1), chances.max(1))


@partial(jax.jit, static_argnums=(0, 5))
def _answered(answer, x, images, scale, key, shape):
    support, query = draw(key, images, shape)
    return support, query, answer(x, as_episode(support, query, *scale), shape.ways)


@partial(jax.jit, static_argnums=(0, 5, 6))
def _rights(answer, x, images, scale, keys, shape, at_once):
    def one(key):
        episode = as_episode(*draw(key, images, shape), *scale)
        found = jnp.argmax(answer(x, episode, shape.ways), axis=1).astype(jnp.int32)
        return jnp.mean((found == episode.query.labels).astype(jnp.float32))

    return lax.map(one, keys, batch_size=at_once)
