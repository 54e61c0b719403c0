"""Methods whose inner variable is a head on top of features; x holds the features.

The features of a task are computed once per solve. Hyper-parameters shared by several methods:

  inner_step, momentum: step size and momentum of gradient descent on the head, on the support of a task.
  inner_steps, test_steps: number of these steps in training, and on test tasks.
  penalty: weight of |y|^2 / 2 in the inner loss.
  recompute: levels of checkpointing of the inner steps, see `descend`.
  transductive: normalise query images by their own batch, otherwise by the statistics of the support.
  vectorize: run all tasks of an outer step at once by `vmap`, otherwise in sequence. The default is `vmap`,
    because all tasks share one network.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.fewshot.kinds import Count, Momentum, NotNegative, Positive, Steps
from bilevel.fewshot.learner import (
    Learner,
    Training,
    cross_entropy,
    gradient_descent,
    query_features,
    trained_with,
)
from bilevel.inner import InnerSolver, descend, embedded
from bilevel.many_tasks import nested_over_tasks
from bilevel.models import Network, head, logits
from bilevel.response import first_order, unrolled, zeroth_order
from bilevel.response.types import Response
from bilevel.sampling import full
from bilevel.types import Optimizer, Problem, PyTree


class Heads(NamedTuple):
    """Heads on top of features: y is the head of one task.

    Attributes:
      loss: `(support features, y, episode) -> inner loss`.
      outputs: `(y, features) -> (n, ways) logits`.
      zero: `ways -> y`, the y at which training starts.
    """

    loss: Callable
    outputs: Callable
    zero: Callable[[int], PyTree]


class Descent(NamedTuple):
    """The inner training of heads.

    Attributes:
      optimizer: the inner optimiser.
      inner_steps, test_steps: number of steps in training, and on test tasks.
      recompute: levels of checkpointing.
    """

    optimizer: optax.GradientTransformation
    inner_steps: int
    test_steps: int
    recompute: int = 0


def linear_heads(net: Network, penalty: float) -> Heads:
    """Return linear heads trained by cross-entropy plus (penalty / 2) |y|^2."""

    def loss(features, y, episode):
        squares = optax.tree.norm(y, squared=True)
        return cross_entropy(logits(y, features), episode.support.labels) + 0.5 * penalty * squares

    def zero(ways):
        return {"kernel": jnp.zeros((net.width, ways)), "bias": jnp.zeros(ways)}

    return Heads(loss, logits, zero)


def prototypes(net: Network) -> Heads:
    """Return heads that are the mean features of each class.

    One descent step of size 1 finds them.
    """

    def loss(features, y, episode):
        # Support images come class by class.
        means = jnp.mean(features.reshape(len(y), -1, net.width), axis=1)
        return 0.5 * jnp.sum((y - means) ** 2)

    def outputs(y, features):
        return -jnp.sum((features[:, None] - y) ** 2, axis=-1)

    return Heads(loss, outputs, lambda ways: jnp.zeros((ways, net.width)))


def _learner(
    name: str,
    net: Network,
    ways: int,
    optimizer: Optimizer,
    *,
    heads: Heads,
    descent: Descent,
    respond: Callable[[InnerSolver], Response],
    transductive: bool,
    vectorize: bool,
    learnt_head: bool = False,
) -> Learner:
    """Return a learner of features on top of which every task trains a head."""

    def embed(x, episode):
        return net.features(x["features"], episode.support.pixels)

    def outputs(x, y, episode):
        return heads.outputs(y, query_features(net, x["features"], episode, transductive))

    def outer(x, y, episode):
        return cross_entropy(outputs(x, y, episode), episode.query.labels)

    def inner(x, y, episode):
        return heads.loss(embed(x, episode), y, episode)

    def solver(steps):
        on_features = Problem(outer, heads.loss)
        return embedded(descend(on_features, descent.optimizer, steps, recompute=descent.recompute), embed)

    algorithm = nested_over_tasks(
        Problem(outer, inner),
        respond(solver(descent.inner_steps)),
        optimizer,
        vectorize=vectorize,
        name=name,
    )

    def start(key):
        feature_key, head_key = jax.random.split(key)
        x = {"features": net.init(feature_key)}
        if learnt_head:
            x["head"] = head(head_key, net.width, ways)
        return x, heads.zero(ways)

    def answer(x, episode, ways):
        y0 = x["head"] if learnt_head else heads.zero(ways)
        y = solver(descent.test_steps).solve(x, y0, full(episode, episode))
        return outputs(x, y, episode)[:, :ways]

    return Learner(
        algorithm=algorithm, start=start, answer=answer, fresh_head=not learnt_head, shares_features=True
    )


@trained_with(Training())
def anil(
    net: Network,
    ways: int,
    optimizer: Optimizer,
    *,
    inner_step: Positive = 0.1,
    inner_steps: Steps = 10,
    test_steps: Steps = 20,
    momentum: Momentum = 0.0,
    penalty: NotNegative = 0.0,
    recompute: Steps = 0,
    transductive: bool = True,
    vectorize: bool = True,
) -> Learner:
    """Return ANIL: x holds features and the start of the head; y is the head.

    Args:
      net, ways, optimizer: the features, the outputs of the head, the outer optimiser.
      inner_step, inner_steps, test_steps, momentum, penalty, recompute, transductive, vectorize: see the
        module docstring.
    """
    return _learner(
        "anil",
        net,
        ways,
        optimizer,
        heads=linear_heads(net, penalty),
        descent=Descent(
            optimizer=gradient_descent(inner_step, momentum),
            inner_steps=inner_steps,
            test_steps=test_steps,
            recompute=recompute,
        ),
        respond=lambda solver: unrolled(solver, start=lambda x: x["head"]),
        transductive=transductive,
        vectorize=vectorize,
        learnt_head=True,
    )


@trained_with(Training())
def itd_bio(
    net: Network,
    ways: int,
    optimizer: Optimizer,
    *,
    inner_step: Positive = 0.1,
    inner_steps: Steps = 10,
    test_steps: Steps = 20,
    momentum: Momentum = 0.0,
    penalty: NotNegative = 0.0,
    recompute: Steps = 0,
    transductive: bool = True,
    vectorize: bool = True,
) -> Learner:
    """Return ITD-BiO: the gradient through all steps of a head that starts at zero.

    Args:
      net, ways, optimizer: the features, the classes of a task, the outer optimiser.
      inner_step, inner_steps, test_steps, momentum, penalty, recompute, transductive, vectorize: see the
        module docstring.
    """
    return _learner(
        "itd_bio",
        net,
        ways,
        optimizer,
        heads=linear_heads(net, penalty),
        descent=Descent(
            optimizer=gradient_descent(inner_step, momentum),
            inner_steps=inner_steps,
            test_steps=test_steps,
            recompute=recompute,
        ),
        respond=unrolled,
        transductive=transductive,
        vectorize=vectorize,
    )


@trained_with(Training())
def fo_itd_bio(
    net: Network,
    ways: int,
    optimizer: Optimizer,
    *,
    inner_step: Positive = 0.1,
    inner_steps: Steps = 10,
    test_steps: Steps = 20,
    momentum: Momentum = 0.0,
    penalty: NotNegative = 0.0,
    transductive: bool = True,
    vectorize: bool = True,
) -> Learner:
    """Return FO-ITD-BiO: the gradient of the query loss with the head held fixed.

    Args:
      net, ways, optimizer: the features, the classes of a task, the outer optimiser.
      inner_step, inner_steps, test_steps, momentum, penalty, transductive, vectorize: see the module
        docstring.
    """
    return _learner(
        "fo_itd_bio",
        net,
        ways,
        optimizer,
        heads=linear_heads(net, penalty),
        descent=Descent(
            optimizer=gradient_descent(inner_step, momentum), inner_steps=inner_steps, test_steps=test_steps
        ),
        respond=first_order,
        transductive=transductive,
        vectorize=vectorize,
    )


@trained_with(Training())
def pzobo(
    net: Network,
    ways: int,
    optimizer: Optimizer,
    *,
    inner_step: Positive = 0.1,
    inner_steps: Steps = 10,
    test_steps: Steps = 20,
    momentum: Momentum = 0.0,
    penalty: NotNegative = 0.0,
    directions: Count = 1,
    smoothing: Positive = 0.01,
    transductive: bool = True,
    vectorize: bool = True,
) -> Learner:
    """Return PZOBO: the response of the head by differences along random directions.

    Args:
      net, ways, optimizer: the features, the classes of a task, the outer optimiser.
      directions: random directions per task.
      smoothing: length of the differences.
      inner_step, inner_steps, test_steps, momentum, penalty, transductive, vectorize: see the module
        docstring.
    """
    return _learner(
        "pzobo",
        net,
        ways,
        optimizer,
        heads=linear_heads(net, penalty),
        descent=Descent(
            optimizer=gradient_descent(inner_step, momentum), inner_steps=inner_steps, test_steps=test_steps
        ),
        respond=lambda solver: zeroth_order(solver, directions, smoothing=smoothing),
        transductive=transductive,
        vectorize=vectorize,
    )


# More ways in training give better features, also for tests with few ways.
@trained_with(Training(tasks=1, train_ways=40))
def protonet(
    net: Network,
    ways: int,
    optimizer: Optimizer,
    *,
    transductive: bool = True,
    vectorize: bool = True,
) -> Learner:
    """Return prototypical networks, the baseline without inner training.

    Args:
      net, ways, optimizer: the features, the classes of a task, the outer optimiser.
      transductive, vectorize: see the module docstring.

    Reference: Snell, Swersky and Zemel, Prototypical Networks for Few-shot Learning, NeurIPS 2017,
    arXiv:1703.05175.
    """
    return _learner(
        "protonet",
        net,
        ways,
        optimizer,
        heads=prototypes(net),
        descent=Descent(optimizer=gradient_descent(1.0, 0.0), inner_steps=1, test_steps=1),
        respond=unrolled,
        transductive=transductive,
        vectorize=vectorize,
    )
