"""Estimators that recompute the exact direction from time to time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.estimators.momentum import StormState
from bilevel.estimators.types import Estimator
from bilevel.keys import key_for
from bilevel.types import require

tree = optax.tree


def spider(period: int) -> Estimator:
    """Return the SPIDER estimator: a periodic exact direction, plus its changes.

        d_t = h(p_t; all rows)                          if t is a multiple of `period`
        d_t = d_{t-1} + h(p_t; b_t) - h(p_{t-1}; b_t)    otherwise

    Args:
      period: number of steps from one refresh to the next, at least 1.

    Returns:
      An `Estimator`. It needs the full data set: use `full` or `minibatches`.

    Raises:
      ValueError: when `period` < 1.

    Cost: 2 oracle calls per step, and one on the full data set per `period` steps.

    Reference: Fang, Li, Lin and Zhang, SPIDER: Near-Optimal Non-Convex Optimization via Stochastic
    Path-Integrated Differential Estimator, NeurIPS 2018, arXiv:1807.01695.
    """
    require(period >= 1, "period must be at least 1", period)
    return _refreshing(lambda state, key: state.count % period == 0)


def page(probability: float) -> Estimator:
    """Return the PAGE estimator: a random exact direction, plus its changes.

        d_t = h(p_t; all rows)                          with this probability, and at t = 0
        d_t = d_{t-1} + h(p_t; b_t) - h(p_{t-1}; b_t)    otherwise

    Args:
      probability: probability of a refresh, in (0, 1].

    Returns:
      An `Estimator`. It needs a key and the full data set: use `full` or `minibatches`.

    Raises:
      ValueError: when `probability` is not in (0, 1].

    Cost: 2 oracle calls per step, and at a refresh one on the full data set.

    Reference: Li, Bao, Zhang and Richtarik, PAGE: A Simple and Optimal Probabilistic Gradient
    Estimator for Nonconvex Optimization, ICML 2021, arXiv:2008.10898.
    """
    require((probability > 0) & (probability <= 1), "probability must be in (0, 1]", probability)

    def refreshes(state, key):
        # The oracle uses the key itself.
        return (state.count == 0) | jax.random.bernoulli(key_for("refresh", key), probability)

    return _refreshing(refreshes)


def _refreshing(refreshes: Callable) -> Estimator:
    def update(oracle, state, point, batch, key):
        terms = oracle(point, batch)
        direction = lax.cond(
            refreshes(state, key),
            lambda: oracle(point, batch.whole()).total,
            # The same minibatch at both points: the noise of the two calls cancels.
            lambda: tree.add(state.direction, tree.sub(terms.total, oracle(state.point, batch).total)),
        )
        return direction, StormState(point, direction, state.count + 1), terms

    def init(point, blocks):
        return StormState(point, tree.zeros_like(point), jnp.zeros((), jnp.int32))

    return Estimator(init=init, update=update, calls=2, seeds_in_sequence=True)
