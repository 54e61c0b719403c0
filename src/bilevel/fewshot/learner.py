"""What every few-shot method takes, and what it gives."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.fewshot.episodes import Episode
from bilevel.models import Network
from bilevel.types import Algorithm, PyTree


class Settings(NamedTuple):
    """Hyper-parameters; a method reads those that concern it.

    Attributes:
      inner_step: step size of the inner gradient descent.
      inner_steps: inner steps in training.
      test_steps: inner steps on new tasks.
      momentum: of the inner descent, 0 for none.
      penalty: of |y|^2 / 2 in the inner loss of methods that train a head alone.
      pull, linear_steps, damping: of imaml.
      probability: of an exact gradient, for ufo_blo.
      directions, smoothing: of pzobo.
      transductive: normalise the query images by their own batch; else by the support's statistics.
      recompute: levels of checkpointing of unrolled methods, see `descend`; for ufo_blo any makes
        every iterate again from the start.
      vectorize: all tasks of a step at once by `vmap`; else one after the other.
    """

    inner_step: float
    inner_steps: int
    test_steps: int
    momentum: float = 0.0
    penalty: float = 0.0
    pull: float = 2.0
    linear_steps: int = 5
    damping: float = 0.0
    probability: float = 0.2
    directions: int = 1
    smoothing: float = 0.01
    transductive: bool = True
    recompute: int = 0
    vectorize: bool = False

    @property
    def inner_optimizer(self) -> optax.GradientTransformation:
        """Gradient descent on the inner loss."""
        return optax.sgd(self.inner_step, self.momentum or None)


class Learner(NamedTuple):
    """A method made ready for a network.

    Attributes:
      algorithm: over tasks; the outer minibatch is an `Episode` with a leading axis of tasks.
      start: `key -> (x, y)`.
      answer: `(x, episode, ways) -> (queries, ways) logits` after learning from the support.
      fresh_head: whether the head is made anew for every task, for any number of ways.
      shares_features: whether all tasks use the same features: their images can then be taken at once.
    """

    algorithm: Algorithm
    start: Callable[[Any], tuple[PyTree, PyTree]]
    answer: Callable[[PyTree, Episode, int], jax.Array]
    fresh_head: bool
    shares_features: bool


def cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over images."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))


def query_features(net: Network, parameters: PyTree, episode: Episode, transductive: bool) -> jax.Array:
    """Features of the query images, normalised by their own statistics or by those of the support."""
    support, query = episode.support.pixels, episode.query.pixels
    if transductive:
        return net.features(parameters, query)
    both = net.features(parameters, jnp.concatenate([support, query]), len(support))
    return both[len(support) :]
