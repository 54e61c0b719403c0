"""Learners: few-shot methods applied to a network, with settings of training."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from bilevel.fewshot.episodes import Episode
from bilevel.fewshot.kinds import Count, Positive
from bilevel.models import Network
from bilevel.types import Algorithm, PyTree

Method = TypeVar("Method", bound=Callable[..., Any])


class Learner(NamedTuple):
    """A few-shot method applied to a network.

    Attributes:
      algorithm: over tasks; the outer minibatch is an `Episode` with a leading axis of tasks.
      start: `key -> (x, y)`.
      answer: `(x, episode, ways) -> (queries, ways) logits` after training on the support.
      fresh_head: whether every task gets a new head. The learner then answers tasks of any number of ways.
      shares_features: whether all tasks use the same features. Their images can then be processed together.
    """

    algorithm: Algorithm
    start: Callable[[Any], tuple[PyTree, PyTree]]
    answer: Callable[[PyTree, Episode, int], jax.Array]
    fresh_head: bool
    shares_features: bool


class Training(NamedTuple):
    """Settings of a method's training that are not its hyper-parameters.

    Attributes:
      outer_step: step size of the outer optimiser; it falls to zero along a cosine.
      tasks: number of episodes in an outer step.
      train_ways: classes of a training episode; None means the ways of the test. A default
        above the number of training classes is reduced to it.
      train_queries: query images per class of a training episode. A default above the
        number of images that the support leaves is reduced to it.
      optimizer: `schedule -> outer optimiser`.
    """

    outer_step: Positive = 3e-3
    tasks: Count = 8
    train_ways: int | None = None
    train_queries: int = 5
    optimizer: Callable[[optax.Schedule], optax.GradientTransformation] = optax.adam


def trained_with(training: Training) -> Callable[[Method], Method]:
    """Return a decorator that attaches the default `Training` to a method."""

    def attach(method: Method) -> Method:
        method.training = training
        return method

    return attach


def training(method: Callable[..., Any]) -> Training:
    """Return the default `Training` of a method.

    >>> from bilevel.fewshot import METHODS
    >>> training(METHODS["reptile"]).outer_step
    1.0
    """
    return method.training


def gradient_descent(step_size: Any, momentum: float) -> optax.GradientTransformation:
    """Return gradient descent, with heavy-ball momentum unless that is 0."""
    return optax.sgd(step_size, momentum or None)


def cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the mean cross-entropy over images."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))


def query_features(net: Network, parameters: PyTree, episode: Episode, transductive: bool) -> jax.Array:
    """Return features of the query images.

    With `transductive`, batch normalisation uses the statistics of the query, otherwise of the support.
    """
    support, query = episode.support.pixels, episode.query.pixels
    if transductive:
        return net.features(parameters, query)
    both = net.features(parameters, jnp.concatenate([support, query]), len(support))
    return both[len(support) :]
