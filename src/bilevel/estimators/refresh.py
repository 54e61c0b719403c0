"""Estimators that take the exact direction now and then."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.estimators.momentum import StormState
from bilevel.estimators.types import Estimator
from bilevel.types import require

tree = optax.tree


def spider(period: int) -> Estimator:
    """The exact direction now and then, and in between the sum of its changes.

        d_t = h(p_t; all rows)                          when t is a multiple of the period
        d_t = d_{t-1} + h(p_t; b_t) - h(p_{t-1}; b_t)    else

    Two oracle calls a step, and one on the whole set in `period` steps.

    Args:
      period: steps from one refresh to the next, at least 1.

    Returns:
      An `Estimator`. It needs data that know their whole set: from `full` or `minibatches`.

    Raises:
      ValueError: when `period` < 1.

    Reference: Fang, Li, Lin and Zhang, SPIDER: Near-Optimal Non-Convex Optimization via Stochastic
    Path-Integrated Differential Estimator, NeurIPS 2018, arXiv:1807.01695.
    """
    require(period >= 1, "period must be at least 1", period)
    return _refreshing(lambda state, key: state.count % period == 0)


def page(probability: float) -> Estimator:
    """The exact direction with some probability, else the last one and its change.

        d_t = h(p_t; all rows) with this probability (and at t = 0),
        d_t = d_{t-1} + h(p_t; b_t) - h(p_{t-1}; b_t) else

    Two oracle calls a step, and with the probability one on the whole set.

    Args:
      probability: of a refresh, in (0, 1].

    Returns:
      An `Estimator`. It needs data that know their whole set: from `full` or `minibatches`.

    Raises:
      ValueError: when `probability` is not in (0, 1].

    Reference: Li, Bao, Zhang and Richtarik, PAGE: A Simple and Optimal Probabilistic Gradient
    Estimator for Nonconvex Optimization, ICML 2021, arXiv:2008.10898.
    """
    require((probability > 0) & (probability <= 1), "probability must be in (0, 1]", probability)

    def refreshes(state, key):
        # The oracle may use the key itself.
        return (state.count == 0) | jax.random.bernoulli(jax.random.fold_in(key, 1), probability)

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

    return Estimator(init, update, calls=2, seeds_in_sequence=True)
