"""Methods whose inner variable is a head upon features; x are the features' parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.fewshot.learner import Learner, Settings, cross_entropy, query_features
from bilevel.inner import InnerSolver, descend, embedded
from bilevel.many_tasks import nested_over_tasks
from bilevel.models import Network, head, logits
from bilevel.response import first_order, unrolled, zeroth_order
from bilevel.response.types import Response
from bilevel.sampling import full
from bilevel.types import Problem, PyTree


class Heads(NamedTuple):
    """What a method does upon features: y is the head.

    Attributes:
      loss: `(support features, y, episode) -> inner loss`.
      outputs: `(y, features) -> (n, ways) logits`.
      zero: `ways -> y` where training starts.
    """

    loss: Callable
    outputs: Callable
    zero: Callable[[int], PyTree]


def linear_heads(net: Network, penalty: float) -> Heads:
    """Linear heads trained by cross-entropy and `penalty` times half their squared norm."""

    def loss(features, y, episode):
        squares = optax.tree.norm(y, squared=True)
        return cross_entropy(logits(y, features), episode.support.labels) + 0.5 * penalty * squares

    def zero(ways):
        return {"kernel": jnp.zeros((net.width, ways)), "bias": jnp.zeros(ways)}

    return Heads(loss, logits, zero)


def prototypes(net: Network) -> Heads:
    """Heads that are the mean features of each class: one descent step of size 1 finds them."""

    def loss(features, y, episode):
        # Support images come class by class.
        means = jnp.mean(features.reshape(len(y), -1, net.width), axis=1)
        return 0.5 * jnp.sum((y - means) ** 2)

    def outputs(y, features):
        return -jnp.sum((features[:, None] - y) ** 2, axis=-1)

    return Heads(loss, outputs, lambda ways: jnp.zeros((ways, net.width)))


def _learns_features(
    name: str,
    net: Network,
    heads: Heads,
    ways: int,
    optimizer,
    settings: Settings,
    respond: Callable[[InnerSolver], Response],
    learnt_head: bool = False,
) -> Learner:
    """A learner of features upon which every task trains a head; they are computed once a solve."""

    def embed(x, episode):
        return net.features(x["features"], episode.support.pixels)

    def answers(x, y, episode):
        return heads.outputs(y, query_features(net, x["features"], episode, settings.transductive))

    def outer(x, y, episode):
        return cross_entropy(answers(x, y, episode), episode.query.labels)

    def inner(x, y, episode):
        return heads.loss(embed(x, episode), y, episode)

    def solver(steps):
        on_features = Problem(outer, heads.loss)
        return embedded(
            descend(on_features, settings.inner_optimizer, steps, recompute=settings.recompute), embed
        )

    algorithm = nested_over_tasks(
        Problem(outer, inner),
        respond(solver(settings.inner_steps)),
        optimizer,
        vectorize=settings.vectorize,
        name=name,
    )

    def start(key):
        feature_key, head_key = jax.random.split(key)
        x = {"features": net.init(feature_key)}
        if learnt_head:
            x["head"] = head(head_key, net.width, ways)
        return x, heads.zero(ways)

    def answer(x, episode, ways):
        y = solver(settings.test_steps).solve(x, x.get("head", heads.zero(ways)), full(episode, episode))
        return answers(x, y, episode)[:, :ways]

    return Learner(algorithm, start, answer, fresh_head=not learnt_head, shares_features=True)


def anil(net: Network, ways: int, optimizer, settings: Settings) -> Learner:
    """Features and a start of the head; tasks train the head alone."""
    heads = linear_heads(net, settings.penalty)

    def respond(solver):
        return unrolled(solver, start=lambda x: x["head"])

    return _learns_features("anil", net, heads, ways, optimizer, settings, respond, learnt_head=True)


def itd_bio(net: Network, ways: int, optimizer, settings: Settings) -> Learner:
    """Features, through all steps of a head that starts at zero."""
    heads = linear_heads(net, settings.penalty)
    return _learns_features("itd_bio", net, heads, ways, optimizer, settings, unrolled)


def fo_itd_bio(net: Network, ways: int, optimizer, settings: Settings) -> Learner:
    """Features, by the gradient on the query images alone."""
    heads = linear_heads(net, settings.penalty)
    return _learns_features("fo_itd_bio", net, heads, ways, optimizer, settings, first_order)


def pzobo(net: Network, ways: int, optimizer, settings: Settings) -> Learner:
    """Features, with the response of the head from differences along random directions."""
    heads = linear_heads(net, settings.penalty)

    def respond(solver):
        return zeroth_order(solver, settings.directions, smoothing=settings.smoothing)

    return _learns_features("pzobo", net, heads, ways, optimizer, settings, respond)


def protonet(net: Network, ways: int, optimizer, settings: Settings) -> Learner:
    """Prototypical networks, the baseline that needs no inner training.

    Reference: Snell, Swersky and Zemel, Prototypical Networks for Few-shot Learning, NeurIPS 2017,
    arXiv:1703.05175.
    """
    one_step = settings._replace(inner_step=1.0, momentum=0.0, inner_steps=1, test_steps=1)
    return _learns_features("protonet", net, prototypes(net), ways, optimizer, one_step, unrolled)
