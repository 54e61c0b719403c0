"""The check of an estimator."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from bilevel.directions.types import Terms
from bilevel.estimators.saga import count_blocks
from bilevel.estimators.types import Estimator
from bilevel.sampling import full, minibatches
from bilevel.testing.asserting import assert_close, assert_equal, assert_same_shape, to_single
from bilevel.testing.counting import counted_zero
from bilevel.types import Batch, Point

tree = optax.tree
STEPS = 6
ROWS = 2


def check_estimator(estimator: Estimator, *, lags: bool = False, key: Any = None) -> None:
    """Check an `Estimator` around a linear oracle.

    On full data every minibatch is the whole set, and the direction must equal the oracle's. The
    check also covers the returned terms, structures and dtypes, `lax.scan`, and `calls`.

    Args:
      estimator: the estimator. At least one of its updates 2 to 6 must not refresh on the whole set.
      lags: whether the direction averages past points, as momentum does. The check then uses one
        point only.
      key: random key; default: `jax.random.key(0)`.

    Raises:
      AssertionError: when the estimator breaks the protocol.

    >>> import bilevel
    >>> check_estimator(bilevel.storm(0.3))
    """
    with jax.enable_x64(True):
        _check(estimator, lags, jax.random.key(0) if key is None else key)


def _check(estimator, lags, key):
    path = jnp.ones(STEPS) if lags else jnp.array([1.0, 3.0, -2.0, 0.5, 0.7, -1.0])

    def point_at(scale):
        return Point(
            {"c": scale * jnp.array([1.0, -2.0], scale.dtype)}, scale * jnp.ones(3, scale.dtype), -scale
        )

    data = full(jnp.ones(ROWS), jnp.ones(ROWS))

    def update(state, scale, key):
        return estimator.update(_oracle(), state, point_at(scale), data, key)

    for scale in (path[0], to_single(path[0])):
        start = point_at(scale)
        state = jax.eval_shape(lambda start: estimator.init(start, count_blocks(data)), start)
        direction, new_state, _ = jax.eval_shape(update, state, scale, key)
        assert_same_shape(new_state, state, "the new state must be shaped like the old one")
        assert_same_shape(direction, start, "the direction must be shaped like the point")

    def step(state, read):
        direction, state, terms = update(state, *read)
        return state, (direction, terms)

    state = estimator.init(point_at(path[0]), count_blocks(data))
    keys = jax.random.split(key, STEPS)
    _, (directions, terms) = jax.jit(lambda state: lax.scan(step, state, (path, keys)))(state)
    want = jax.vmap(lambda scale: _oracle()(point_at(scale), data))(path)
    assert_close(terms, want, 1e-12, "the returned terms must equal the terms of the oracle")
    claim = "on full data the direction must equal the direction of the oracle"
    assert_close(directions, want.total, 1e-12, claim)
    eager = update(state, path[0], keys[0])[0]
    first = jax.tree.map(lambda leaf: leaf[0], directions)
    assert_close(eager, first, 1e-12, "the direction must be the same with and without jit")
    assert_equal(max(_calls(estimator, point_at, path, keys)), estimator.calls, "oracle calls of one update")


def _oracle(on_call=None):
    """Return a linear oracle that reports calls on minibatches, not on the whole set."""

    def evaluate(point, batch: Batch):
        outer, inner = batch.outer[0], batch.inner[0]
        weight = jnp.mean(outer)
        if on_call is not None and outer.shape == (ROWS,):
            weight = weight + counted_zero(on_call, weight + sum(map(jnp.sum, jax.tree.leaves(point))))

        def scaled(weight):
            return jax.tree.map(lambda leaf: weight.astype(leaf.dtype) * leaf, point)

        return Terms(scaled(2 * weight), scaled(-jnp.mean(inner)), 0.0)

    return evaluate


def _calls(estimator, point_at, path, keys):
    """Return the numbers of oracle calls on minibatches in the updates after the first."""
    calls, numbers = [], []
    data = minibatches(np.ones(2 * ROWS), np.ones(2 * ROWS), batch_size=ROWS)
    plan = jnp.zeros(1, jnp.int32)
    batch = Batch(*(source.view(plan) for source in data))

    @jax.jit
    def update(state, scale, key):
        return estimator.update(_oracle(lambda: calls.append(1)), state, point_at(scale), batch, key)[:2]

    state = estimator.init(point_at(path[0]), count_blocks(data))
    for scale, step_key in zip(path, keys, strict=True):
        calls.clear()
        _, state = jax.block_until_ready(update(state, scale, step_key))
        numbers.append(len(calls))
    return numbers[1:]
