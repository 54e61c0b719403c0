"""Methods whose inner variable is the whole network, and whose x is where its training starts."""

from collections.abc import Callable
from typing import Any

import jax

from bilevel import algorithms
from bilevel.algorithms.imaml import pulled_to_start
from bilevel.fewshot.episodes import dealt_again
from bilevel.fewshot.learner import Learner, Settings, cross_entropy, query_features
from bilevel.inner import descend
from bilevel.models import Network, head, logits
from bilevel.sampling import full
from bilevel.types import Algorithm, Problem


def whole_network(net: Network, ways: int, settings: Settings) -> tuple[Problem, Callable, Callable]:
    """`(problem, start, answers)` of methods whose y is the whole network and x where it starts."""

    def answers(y, episode):
        features = query_features(net, y["features"], episode, settings.transductive)
        return logits(y["head"], features)

    def inner(x, y, episode):
        support = episode.support
        outputs = logits(y["head"], net.features(y["features"], support.pixels))
        return cross_entropy(outputs, support.labels)

    def outer(x, y, episode):
        return cross_entropy(answers(y, episode), episode.query.labels)

    def start(key):
        feature_key, head_key = jax.random.split(key)
        x = {"features": net.init(feature_key), "head": head(head_key, net.width, ways)}
        return x, x

    return Problem(outer, inner), start, answers


def _learns_start(
    algorithm: Algorithm, parts: tuple[Problem, Callable, Callable], settings: Settings
) -> Learner:
    """A learner that trains the whole network on a new task, from x."""
    problem, start, answers = parts
    solver = descend(problem, settings.inner_optimizer, settings.test_steps)

    def answer(x, episode, ways):
        outputs = answers(solver.solve(x, x, full(episode, episode)), episode)
        return outputs[:, :ways]

    return Learner(algorithm, start, answer, fresh_head=False, shares_features=False)


def _common(optimizer, settings: Settings) -> dict[str, Any]:
    return {
        "inner_optimizer": settings.inner_optimizer,
        "outer_optimizer": optimizer,
        "inner_steps": settings.inner_steps,
        "vectorize": settings.vectorize,
    }


def maml(net: Network, ways: int, optimizer, settings: Settings) -> Learner:
    """Second order, through all inner steps."""
    parts = whole_network(net, ways, settings)
    common = _common(optimizer, settings)
    return _learns_start(algorithms.maml(parts[0], recompute=settings.recompute, **common), parts, settings)


def fomaml(net: Network, ways: int, optimizer, settings: Settings) -> Learner:
    """First order: the gradient at the trained network."""
    parts = whole_network(net, ways, settings)
    return _learns_start(algorithms.fomaml(parts[0], **_common(optimizer, settings)), parts, settings)


def ufo_blo(net: Network, ways: int, optimizer, settings: Settings) -> Learner:
    """First order, debiased by an exact gradient now and then."""
    parts = whole_network(net, ways, settings)
    algorithm = algorithms.ufo_blo(
        parts[0],
        start=lambda x: x,
        tasks=True,
        probability=settings.probability,
        recompute=settings.recompute > 0,
        **_common(optimizer, settings),
    )
    return _learns_start(algorithm, parts, settings)


def imaml(net: Network, ways: int, optimizer, settings: Settings) -> Learner:
    """Implicit gradients of training pulled towards its start; new tasks are trained so too."""
    problem, start, answers = whole_network(net, ways, settings)
    algorithm = algorithms.imaml(
        problem,
        pull=settings.pull,
        linear_steps=settings.linear_steps,
        damping=settings.damping,
        **_common(optimizer, settings),
    )
    pulled = pulled_to_start(problem, settings.pull)
    return _learns_start(algorithm, (pulled, start, answers), settings)


def reptile(net: Network, ways: int, optimizer, settings: Settings) -> Learner:
    """The start moves towards the trained network; every inner step sees other images of the task."""
    parts = whole_network(net, ways, settings)

    def resample(episode, key):
        return dealt_again(episode, ways, key)

    algorithm = algorithms.reptile(parts[0], resample=resample, **_common(optimizer, settings))
    return _learns_start(algorithm, parts, settings)
