"""Estimators: plain, with averaged momentum, and with recursive momentum."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.estimators.types import Estimator
from bilevel.types import Point, PyTree, Schedule, require

tree = optax.tree
Weight = float | Schedule | Point
"""Share of the fresh direction: a number, a schedule `step -> number`, or a `Point` of these."""


class MomentumState(NamedTuple):
    """State of `momentum`.

    Attributes:
      direction: the last direction.
      count: number of updates so far.
      of: state of the estimator whose directions are averaged.
    """

    direction: Point
    count: jax.Array
    of: Any


class StormState(NamedTuple):
    """State of `storm`, `spider` and `page`.

    Attributes:
      point: the point of the last update.
      direction: the last direction.
      count: number of updates so far.
    """

    point: Point
    direction: Point
    count: jax.Array


def plain() -> Estimator:
    """Return the estimator that takes the oracle's direction as it is.

    Cost: 1 oracle call per step.
    """

    def update(oracle, state, point, batch, key):
        terms = oracle(point, batch)
        return terms.total, state, terms

    return Estimator(init=lambda point, blocks: (), update=update, calls=1)


def momentum(weight: Weight, of: Estimator | None = None) -> Estimator:
    """Return the estimator that averages directions exponentially.

        d_t = (1 - weight) d_{t-1} + weight h(p_t; b_t),   d_0 = h(p_0; b_0)

    `weight=1` is `plain()`.

    Args:
      weight: share of the fresh direction, in (0, 1]; or a schedule `step -> weight`, whose values above
        1 count as 1; or a `Point` with a weight for each variable.
      of: estimator whose directions h are averaged; default: `plain()`.

    Returns:
      An `Estimator`.

    Raises:
      ValueError: when a constant `weight` is not in (0, 1].

    Cost: the oracle calls of `of`.
    """
    check_weight(weight)
    of = plain() if of is None else of

    def update(oracle, state, point, batch, key):
        fresh, of_state, terms = of.update(oracle, state.of, point, batch, key)
        direction = remember(fresh, tree.sub(state.direction, fresh), weight, state.count)
        return direction, MomentumState(direction, state.count + 1, of_state), terms

    def init(point, blocks):
        return MomentumState(tree.zeros_like(point), jnp.zeros((), jnp.int32), of.init(point, blocks))

    return of._replace(init=init, update=update)


def storm(weight: Weight) -> Estimator:
    """Return the STORM estimator: momentum corrected on the current minibatch.

        d_t = h(p_t; b_t) + (1 - weight) (d_{t-1} - h(p_{t-1}; b_t)),   d_0 = h(p_0; b_0)

    `weight=1` is `plain()`.

    Args:
      weight: share of the fresh direction, in (0, 1]; or a schedule `step -> weight`, whose values above
        1 count as 1; or a `Point` with a weight for each variable.

    Returns:
      An `Estimator`.

    Raises:
      ValueError: when a constant `weight` is not in (0, 1].

    Cost: 2 oracle calls per step.

    Reference: Cutkosky and Orabona, Momentum-Based Variance Reduction in Non-Convex SGD,
    NeurIPS 2019, arXiv:1905.10018.
    """
    check_weight(weight)

    def update(oracle, state, point, batch, key):
        terms = oracle(point, batch)
        # The same minibatch at both points: the noise of the two calls cancels.
        drift = tree.sub(state.direction, oracle(state.point, batch).total)
        direction = remember(terms.total, drift, weight, state.count)
        return direction, StormState(point, direction, state.count + 1), terms

    def init(point, blocks):
        return StormState(point, tree.zeros_like(point), jnp.zeros((), jnp.int32))

    return Estimator(init=init, update=update, calls=2)


def remember(fresh: PyTree, drift: PyTree, weight: Weight, count: jax.Array) -> PyTree:
    """Compute `fresh + (1 - weight) drift`, or `fresh` alone at step 0.

    Args:
      fresh: direction on the current minibatch.
      drift: last direction minus its counterpart on the current minibatch.
      weight: see `momentum`.
      count: number of the step.
    """
    if isinstance(weight, Point):
        return Point(*(remember(*parts, count) for parts in zip(fresh, drift, weight, strict=True)))
    # A weight above 1 would give the past direction the wrong sign.
    share = jnp.minimum(1.0, weight(count)) if callable(weight) else weight
    past = jnp.where(count == 0, 0.0, 1 - share)
    # A schedule may have a wider dtype than the variables; the direction keeps theirs.
    return jax.tree.map(lambda f, d: f + past.astype(f.dtype) * d, fresh, drift)


def check_weight(weight: Weight) -> None:
    """Raise `ValueError` unless each weight is in (0, 1], traced or a schedule."""
    for share in weight if isinstance(weight, Point) else (weight,):
        if not callable(share):
            require((share > 0) & (share <= 1), "weight must be in (0, 1]", share)
