"""The check of algorithms passes on the algorithms of the package and fails on broken ones."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

import bilevel as b
from bilevel import tasks
from bilevel.testing import check_algorithm

TASK = tasks.quadratic(rows=12, outer_dim=2, inner_dim=3)
X, Y = TASK.start(jax.random.key(1))
DATA = TASK.minibatches(4)


# One algorithm, with a table. `test_all_algorithms.py` tests the same facts for all algorithms.
def test_an_algorithm_of_the_package_obeys_the_protocol(key):
    check_algorithm(b.saba(TASK.problem, inner_optimizer=0.1, outer_optimizer=0.01), X, Y, DATA, key)


class State(NamedTuple):
    x: Any
    y: Any


def algorithm(change):
    """Return a first-order method whose state and metrics go through `change(state, metrics, batch)`."""

    def init(x, y):
        return State(*b.as_variables(x, y))

    def step(state, batch, key):
        x, y = state
        f_x = jax.grad(TASK.problem.outer)(x, y, batch.outer[0])
        g_y = jax.grad(TASK.problem.inner, argnums=1)(x, y, batch.inner[0])
        new = State(x - 0.01 * f_x, y - 0.1 * g_y)
        return change(new, b.measures(TASK.problem, x, y, batch, 0, f_x, 0.0), batch)

    return b.Algorithm(init, step, b.Draws(1, 1), b.Cost(2))


def test_an_algorithm_of_a_user_obeys_the_protocol(key):
    check_algorithm(algorithm(lambda state, metrics, batch: (state, metrics)), X, Y, DATA, key)


def reads_too_much(state, metrics, batch):
    return state._replace(
        y=state.y - jax.grad(TASK.problem.inner, argnums=1)(*state, batch.inner[1])
    ), metrics


@pytest.mark.parametrize(
    "change, rule",
    [
        (lambda s, m, b: ((s.x, s.y), m), "must keep structure, shapes and dtypes"),
        (
            lambda s, m, b: (s._replace(x=jnp.stack([s.x, s.x])), m),
            r"got float64\[2\] and float64\[2, 2\] at .x",
        ),
        (lambda s, m, b: (s, {}), "metrics must contain outer_loss, .*; outer_loss, .* are missing"),
        (lambda s, m, b: (s, m | {"all": s.x}), r"metrics must be scalars, got shape \(2,\) for all"),
        (
            lambda s, m, b: (s, m | {"wide": optax.tree.norm(s.x).astype(float)}),
            r"must stay float32, got float64 for metrics\['wide'\]",
        ),
        (reads_too_much, "must not read more minibatches than it declares, Draws"),
    ],
)
def test_broken_algorithms_are_found(change, rule, key):
    with pytest.raises(AssertionError, match=rule):
        check_algorithm(algorithm(change), X, Y, DATA, key)
