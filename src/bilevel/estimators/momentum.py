"""Estimators that remember the last direction: momentum, plain and recursive."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.estimators.types import Estimator
from bilevel.types import Point, PyTree, require

tree = optax.tree
Weight = float | optax.Schedule | Point


class MomentumState(NamedTuple):
    """The last direction, how many there were, and the state of what is averaged."""

    direction: Point
    count: jax.Array
    of: Any


class StormState(NamedTuple):
    """The last point, its direction, and how many there were."""

    point: Point
    direction: Point
    count: jax.Array


def plain() -> Estimator:
    """The oracle's direction on the current minibatch. One oracle call a step."""

    def update(oracle, state, point, batch, key):
        terms = oracle(point, batch)
        return terms.total, state, terms

    return Estimator(lambda point, blocks: (), update, calls=1)


def momentum(weight: Weight, of: Estimator | None = None) -> Estimator:
    """Exponential average of directions.

        d_t = (1 - weight) d_{t-1} + weight h(p_t; b_t),   d_0 = h(p_0; b_0)

    `weight=1` is `plain()`. One oracle call a step.

    Args:
      weight: share of the fresh direction, in (0, 1], or a schedule `step -> weight`, cut at 1, or a
        `Point` with one for each variable.
      of: the estimator whose directions h are averaged, `plain()` when None.

    Returns:
      An `Estimator`.

    Raises:
      ValueError: when a constant `weight` is not in (0, 1].
    """
    check_weight(weight)
    of = plain() if of is None else of

    def update(oracle, state, point, batch, key):
        fresh, of_state, terms = of.update(oracle, state.of, point, batch, key)
        direction = remember(fresh, tree.sub(state.direction, fresh), weight, state.count)
        return direction, MomentumState(direction, state.count + 1, of_state), terms

    def init(point, blocks):
        return MomentumState(tree.zeros_like(point), jnp.zeros((), jnp.int32), of.init(point, blocks))

    return Estimator(init, update, of.calls, of.fixed, of.seeds_in_sequence)


def storm(weight: Weight) -> Estimator:
    """Recursive momentum: the last direction, corrected on the current minibatch.

        d_t = h(p_t; b_t) + (1 - weight) (d_{t-1} - h(p_{t-1}; b_t)),   d_0 = h(p_0; b_0)

    `weight=1` is `plain()`. Two oracle calls a step.

    Args:
      weight: share of the fresh direction, in (0, 1], or a schedule `step -> weight`, cut at 1, or a
        `Point` with one for each variable.

    Returns:
      An `Estimator`.

    Raises:
      ValueError: when a constant `weight` is not in (0, 1].

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

    return Estimator(init, update, calls=2)


def remember(fresh: PyTree, drift: PyTree, weight: Weight, count: jax.Array) -> PyTree:
    """`fresh + (1 - weight) drift`, and `fresh` alone at the first step, which has no past."""
    if isinstance(weight, Point):
        return Point(*(remember(*parts, count) for parts in zip(fresh, drift, weight, strict=True)))
    # Above 1 the past would count with the wrong sign.
    share = jnp.minimum(1.0, weight(count)) if callable(weight) else weight
    past = jnp.where(count == 0, 0.0, 1 - share)
    # A schedule may be of wider dtype than the variables; the direction keeps theirs.
    return jax.tree.map(lambda f, d: f + past.astype(f.dtype) * d, fresh, drift)


def check_weight(weight: Weight) -> None:
    """Raise `ValueError` unless every weight is a schedule, is traced or lies in (0, 1]."""
    for share in weight if isinstance(weight, Point) else (weight,):
        if not callable(share):
            require((share > 0) & (share <= 1), "weight must be in (0, 1]", share)
