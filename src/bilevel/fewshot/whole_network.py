"""Methods whose inner variable is the whole network; x is its starting point.

Hyper-parameters shared by all of them:

  inner_step, momentum: step size and momentum of gradient descent on the support of a task.
  inner_steps, test_steps: number of these steps in training, and on test tasks.
  transductive: normalise query images by their own batch, otherwise by the statistics of the support.
  vectorize: run all tasks of an outer step at once by `vmap`, otherwise in sequence.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from bilevel import algorithms
from bilevel.algorithms.imaml import pulled_to_start
from bilevel.fewshot.episodes import dealt_again
from bilevel.fewshot.kinds import Count, Momentum, NotNegative, Positive, Probability, Steps
from bilevel.fewshot.learner import (
    Learner,
    Training,
    cross_entropy,
    gradient_descent,
    query_features,
    trained_with,
)
from bilevel.inner import descend
from bilevel.models import Network, head, logits
from bilevel.sampling import full
from bilevel.types import Algorithm, Optimizer, Problem, PyTree


class WholeNetwork(NamedTuple):
    """A network with a linear head, trained as a whole on each task.

    Attributes:
      problem: cross-entropy on the support (inner) and on the query (outer).
      start: `key -> (x, y)`.
      outputs: `(y, episode) -> logits` of the query images.
    """

    problem: Problem
    start: Callable[[Any], tuple[PyTree, PyTree]]
    outputs: Callable[..., jax.Array]


def whole_network(net: Network, ways: int, transductive: bool) -> WholeNetwork:
    """Return the losses of a network that is trained as a whole."""

    def outputs(y, episode):
        features = query_features(net, y["features"], episode, transductive)
        return logits(y["head"], features)

    def inner(x, y, episode):
        support = episode.support
        found = logits(y["head"], net.features(y["features"], support.pixels))
        return cross_entropy(found, support.labels)

    def outer(x, y, episode):
        return cross_entropy(outputs(y, episode), episode.query.labels)

    def start(key):
        feature_key, head_key = jax.random.split(key)
        x = {"features": net.init(feature_key), "head": head(head_key, net.width, ways)}
        return x, x

    return WholeNetwork(Problem(outer, inner), start, outputs)


def _learner(
    algorithm: Algorithm,
    network: WholeNetwork,
    optimizer: optax.GradientTransformation,
    test_steps: int,
    test_problem: Problem | None = None,
) -> Learner:
    """Return a learner that trains the whole network on a new task, from x."""
    solver = descend(test_problem or network.problem, optimizer, test_steps)

    def answer(x, episode, ways):
        outputs = network.outputs(solver.solve(x, x, full(episode, episode)), episode)
        return outputs[:, :ways]

    return Learner(
        algorithm=algorithm, start=network.start, answer=answer, fresh_head=False, shares_features=False
    )


@trained_with(Training())
def maml(
    net: Network,
    ways: int,
    optimizer: Optimizer,
    *,
    inner_step: Positive = 0.4,
    inner_steps: Steps = 5,
    test_steps: Steps = 10,
    momentum: Momentum = 0.0,
    recompute: Steps = 0,
    transductive: bool = True,
    vectorize: bool = False,
) -> Learner:
    """Return MAML: second-order gradients through all inner steps.

    Args:
      net, ways, optimizer: the features, the outputs of the head, the outer optimiser.
      recompute: levels of checkpointing of the inner steps, see `descend`.
      inner_step, inner_steps, test_steps, momentum, transductive, vectorize: see the module docstring.
    """
    network, descent = whole_network(net, ways, transductive), gradient_descent(inner_step, momentum)
    algorithm = algorithms.maml(
        network.problem,
        inner_optimizer=descent,
        outer_optimizer=optimizer,
        inner_steps=inner_steps,
        recompute=recompute,
        vectorize=vectorize,
    )
    return _learner(algorithm, network, descent, test_steps)


@trained_with(Training())
def fomaml(
    net: Network,
    ways: int,
    optimizer: Optimizer,
    *,
    inner_step: Positive = 0.1,
    inner_steps: Steps = 5,
    test_steps: Steps = 10,
    momentum: Momentum = 0.0,
    transductive: bool = True,
    vectorize: bool = False,
) -> Learner:
    """Return first-order MAML: the gradient at the trained network.

    Args:
      net, ways, optimizer: the features, the outputs of the head, the outer optimiser.
      inner_step, inner_steps, test_steps, momentum, transductive, vectorize: see the module docstring.
    """
    network, descent = whole_network(net, ways, transductive), gradient_descent(inner_step, momentum)
    algorithm = algorithms.fomaml(
        network.problem,
        inner_optimizer=descent,
        outer_optimizer=optimizer,
        inner_steps=inner_steps,
        vectorize=vectorize,
    )
    return _learner(algorithm, network, descent, test_steps)


@trained_with(Training(outer_step=1e-3))
def ufo_blo(
    net: Network,
    ways: int,
    optimizer: Optimizer,
    *,
    inner_step: Positive = 0.1,
    inner_steps: Steps = 5,
    test_steps: Steps = 10,
    momentum: Momentum = 0.0,
    probability: Probability = 0.2,
    recompute: Steps = 0,
    transductive: bool = True,
    vectorize: bool = False,
) -> Learner:
    """Return UFO-BLO: first order, made unbiased by occasional exact gradients.

    Args:
      net, ways, optimizer: the features, the outputs of the head, the outer optimiser.
      probability: probability of an exact gradient.
      recompute: 0 stores the iterates of an exact gradient. Any other number recomputes each of them from
        the start, which requires a `momentum` of 0.
      inner_step, inner_steps, test_steps, momentum, transductive, vectorize: see the module docstring.
    """
    network, descent = whole_network(net, ways, transductive), gradient_descent(inner_step, momentum)
    algorithm = algorithms.ufo_blo(
        network.problem,
        inner_optimizer=descent,
        outer_optimizer=optimizer,
        inner_steps=inner_steps,
        probability=probability,
        recompute=recompute > 0,
        start=lambda x: x,
        tasks=True,
        vectorize=vectorize,
    )
    return _learner(algorithm, network, descent, test_steps)


@trained_with(Training())
def imaml(
    net: Network,
    ways: int,
    optimizer: Optimizer,
    *,
    inner_step: Positive = 0.1,
    inner_steps: Steps = 10,
    test_steps: Steps = 10,
    momentum: Momentum = 0.0,
    pull: Positive = 0.3,
    linear_steps: Count = 5,
    # The Hessians of networks are indefinite: without damping the accuracy on photographs does not rise.
    damping: NotNegative = 30.0,
    transductive: bool = True,
    vectorize: bool = False,
) -> Learner:
    """Return iMAML: implicit gradients of training pulled towards its start.

    The training on new tasks is pulled in the same way.

    Args:
      net, ways, optimizer: the features, the outputs of the head, the outer optimiser.
      pull: strength of the pull of y towards x, the weight of half the squared distance.
      linear_steps: steps of conjugate gradients.
      damping: added to the Hessian in the linear solve.
      inner_step, inner_steps, test_steps, momentum, transductive, vectorize: see the module docstring.
    """
    network, descent = whole_network(net, ways, transductive), gradient_descent(inner_step, momentum)
    algorithm = algorithms.imaml(
        network.problem,
        inner_optimizer=descent,
        outer_optimizer=optimizer,
        inner_steps=inner_steps,
        pull=pull,
        linear_steps=linear_steps,
        damping=damping,
        vectorize=vectorize,
    )
    return _learner(algorithm, network, descent, test_steps, pulled_to_start(network.problem, pull))


# The inner steps choose among all images of a task. The published runs, as we recall, had about 10 queries.
@trained_with(Training(outer_step=1.0, train_queries=10, optimizer=optax.sgd))
def reptile(
    net: Network,
    ways: int,
    optimizer: Optimizer,
    *,
    inner_step: Positive = 0.1,
    inner_steps: Steps = 8,
    test_steps: Steps = 10,
    momentum: Momentum = 0.0,
    transductive: bool = True,
    vectorize: bool = False,
) -> Learner:
    """Return Reptile: the start moves towards the trained network.

    Every inner step reads another random choice of the images of the task.

    Args:
      net, ways, optimizer: the features, the outputs of the head, the outer optimiser.
      inner_step, inner_steps, test_steps, momentum, transductive, vectorize: see the module docstring.
    """
    network, descent = whole_network(net, ways, transductive), gradient_descent(inner_step, momentum)

    def resample(episode, key):
        return dealt_again(episode, ways, key)

    algorithm = algorithms.reptile(
        network.problem,
        inner_optimizer=descent,
        outer_optimizer=optimizer,
        inner_steps=inner_steps,
        resample=resample,
        vectorize=vectorize,
    )
    return _learner(algorithm, network, descent, test_steps)
