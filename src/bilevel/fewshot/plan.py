"""Plans of few-shot runs: a network and episodes that fit the data."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from bilevel import models
from bilevel.datasets import ImageClasses
from bilevel.fewshot.episodes import Episodes, Shape
from bilevel.fewshot.learner import Learner
from bilevel.fewshot.recipes import Recipe
from bilevel.models import Network
from bilevel.sampling import Full
from bilevel.types import Batch, require

DEFAULT_NETWORK = "conv4-32"
TEST_QUERIES = 15


class Plan(NamedTuple):
    """A method, a network and episodes that fit each other and the data.

    Attributes:
      data: images by class.
      recipe: the method, with its hyper-parameters and its training.
      network: features of images.
      train_shape: shape of the training episodes.
      test_shape: shape of the validation and test episodes.
    """

    data: ImageClasses
    recipe: Recipe
    network: Network
    train_shape: Shape
    test_shape: Shape

    @property
    def scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the pixels."""
        return np.asarray(self.data.mean, np.float32), np.asarray(self.data.std, np.float32)

    def build(self, steps: int) -> Learner:
        """Return the learner for a number of outer steps."""
        training = self.recipe.training
        optimizer = training.optimizer(optax.cosine_decay_schedule(training.outer_step, steps))
        return self.recipe.build(self.network, self.train_shape.ways, optimizer)

    def batches(self) -> Batch:
        """Return the source of training episodes."""
        mean, std = self.scale
        source = Episodes(
            images=jnp.asarray(self.data.train),
            mean=mean,
            std=std,
            keys=None,
            shape=self.train_shape,
            tasks=self.recipe.training.tasks,
        )
        return Batch(source, Full(None))


def plan_run(
    data: ImageClasses, recipe: Recipe, network: str | Network | None, ways: int, shots: int
) -> Plan:
    """Return the plan of a run.

    Args:
      data: images by class.
      recipe: the method, with its hyper-parameters and its training.
      network: one of `models.MODULES`, or any `Network`; None means `conv4-32`.
      ways, shots: classes of a test episode, support images of each.

    Raises:
      ValueError: when the episodes do not fit the data, or the network does not fit the images.
    """
    train_ways, train_queries = recipe.training.train_ways, recipe.training.train_queries
    # A default is reduced to fit the data. A value from the user is not: `validate` checks it.
    if train_ways is None:
        train_ways = ways
    elif "train_ways" not in recipe.changed:
        train_ways = min(train_ways, len(data.train))
    if "train_queries" not in recipe.changed:
        train_queries = max(1, min(train_queries, data.train.shape[1] - shots))
    train_shape = Shape(train_ways, shots, train_queries)
    test_shape = Shape(ways, shots, max(1, min(TEST_QUERIES, data.test.shape[1] - shots)))
    train_shape.validate(data.train, "training")
    test_shape.validate(data.validation, "validation")
    test_shape.validate(data.test, "test")
    if not isinstance(network, Network):
        network = models.network(network or DEFAULT_NETWORK, data.train.shape[2:])
    plan = Plan(data=data, recipe=recipe, network=network, train_shape=train_shape, test_shape=test_shape)
    reason = f"because all tasks of {recipe.method} share one head"
    rule = f"train_ways must be {ways}, the ways of the test, {reason}"
    require(train_ways == ways or plan.build(1).fresh_head, rule, train_ways)
    return plan
