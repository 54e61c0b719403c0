"""Estimators: what is made of an oracle's noisy directions.

An estimator receives the oracle itself, `(point, batch) -> Terms`, since some call it twice on the
same minibatches.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.types import Point, PyTree, check

tree = optax.tree


class Estimator(NamedTuple):
    """A pair of pure functions around an oracle.

    Attributes:
      init: `point -> state`.
      update: `(oracle, state, point, batch) -> (direction, state)`, the direction a `Point`.
      calls: oracle calls of one update.
    """

    init: Callable[[Point], Any]
    update: Callable[[Callable, Any, Point, Any], tuple[Point, Any]]
    calls: int


class MomentumState(NamedTuple):
    """The last direction, and how many there were."""

    direction: Point
    count: jax.Array


class StormState(NamedTuple):
    """The last point, its direction, and how many there were."""

    point: Point
    direction: Point
    count: jax.Array


def minibatch() -> Estimator:
    """The oracle's direction on the current minibatch. One oracle call a step."""

    def update(oracle, state, point, batch):
        return oracle(point, batch).total, state

    return Estimator(lambda point: (), update, calls=1)


def momentum(weight: float | optax.Schedule) -> Estimator:
    """Exponential average of directions.

        d_t = (1 - weight) d_{t-1} + weight h(p_t; b_t),   d_0 = h(p_0; b_0)

    `weight=1` is `minibatch()`. One oracle call a step.

    Args:
      weight: share of the fresh direction, in (0, 1], or a schedule `step -> weight`.

    Returns:
      An `Estimator`.

    Raises:
      ValueError: when a constant `weight` is not in (0, 1].
    """
    check_weight(weight)

    def update(oracle, state, point, batch):
        fresh = oracle(point, batch).total
        direction = remember(fresh, tree.sub(state.direction, fresh), weight, state.count)
        return direction, MomentumState(direction, state.count + 1)

    def init(point):
        return MomentumState(tree.zeros_like(point), jnp.zeros((), jnp.int32))

    return Estimator(init, update, calls=1)


def storm(weight: float | optax.Schedule) -> Estimator:
    """Recursive momentum: the last direction, corrected on the current minibatch.

        d_t = h(p_t; b_t) + (1 - weight) (d_{t-1} - h(p_{t-1}; b_t)),   d_0 = h(p_0; b_0)

    `weight=1` is `minibatch()`. Two oracle calls a step.

    Args:
      weight: share of the fresh direction, in (0, 1], or a schedule `step -> weight`.

    Returns:
      An `Estimator`.

    Raises:
      ValueError: when a constant `weight` is not in (0, 1].

    Reference: Cutkosky and Orabona, Momentum-Based Variance Reduction in Non-Convex SGD,
    NeurIPS 2019, arXiv:1905.10018.
    """
    check_weight(weight)

    def update(oracle, state, point, batch):
        fresh = oracle(point, batch).total
        # The same minibatch at both points: the noise of the two calls cancels.
        drift = tree.sub(state.direction, oracle(state.point, batch).total)
        direction = remember(fresh, drift, weight, state.count)
        return direction, StormState(point, direction, state.count + 1)

    def init(point):
        return StormState(point, tree.zeros_like(point), jnp.zeros((), jnp.int32))

    return Estimator(init, update, calls=2)


def remember(fresh: PyTree, drift: PyTree, weight: float | optax.Schedule, count: jax.Array) -> PyTree:
    """`fresh + (1 - weight) drift`, and `fresh` alone at the first step, which has no past."""
    share = weight(count) if callable(weight) else weight
    past = jnp.where(count == 0, 0.0, 1 - share)
    # A schedule may be of wider dtype than the variables; the direction keeps theirs.
    return jax.tree.map(lambda f, d: f + past.astype(f.dtype) * d, fresh, drift)


def check_weight(weight: float | optax.Schedule) -> None:
    """Raise `ValueError` unless `weight` is a schedule, is traced or lies in (0, 1]."""
    if not callable(weight):
        check((weight > 0) & (weight <= 1), "weight must be in (0, 1]", weight)
