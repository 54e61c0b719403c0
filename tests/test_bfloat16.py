"""Sums of many small terms in bfloat16, whose numbers have 8 significant bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bilevel as b
from bilevel.estimators import empty_table, recall
from bilevel.many_tasks import over_tasks, whole_task
from bilevel.response import orthogonal
from bilevel.sampling import Full, Stacked

# Rounding of a result to bfloat16.
CLOSE = 2**-8


def test_the_mean_of_a_saga_table_stays_the_mean_of_its_entries(key):
    """Each of 2,000 steps changes the mean by at most a thousandth, which bfloat16 would lose."""
    values = jax.random.normal(key, (1000, 3), jnp.bfloat16) + jnp.bfloat16(2)
    data = b.minibatches(None, values, batch_size=1).inner

    @jax.jit
    def run(picks):
        def step(table, pick):
            source = data.view(pick[None])
            fresh = source[0][0]
            estimate, table = recall(table, fresh, source)
            return table, estimate.dtype == fresh.dtype

        return lax.scan(step, empty_table(values[0], data.count), picks)[0]

    table = run(data.plan(key, 0, 2000, True))
    want = table.entries.astype(float).mean(0)
    # Two thousand float32 roundings.
    np.testing.assert_allclose(table.mean.astype(float), want, rtol=1e-4)


@pytest.mark.parametrize("vectorize", [True, False])
def test_the_mean_over_a_thousand_tasks_counts_all_of_them(vectorize):
    tasks = jnp.linspace(1, 2, 1000, dtype=jnp.bfloat16)

    def estimate(memory, batch, key):
        return memory, (batch.inner[0], (), {"loss": 2 * batch.inner[0]})

    _, gradient, _, metrics = jax.jit(
        lambda tasks: over_tasks(estimate, (), tasks, None, vectorize=vectorize, source=whole_task)
    )(tasks)
    assert gradient.dtype == metrics["loss"].dtype == jnp.bfloat16
    assert gradient == pytest.approx(1.5, rel=CLOSE) and metrics["loss"] == pytest.approx(3, rel=CLOSE)


def test_a_refresh_of_vrbo_counts_all_of_its_minibatches():
    """g_y = y - mean of the rows: at y = 0 the refreshed direction is minus the mean of 600 minibatches."""
    problem = b.Problem(
        lambda x, y, batch: jnp.sum((x - y) ** 2), lambda x, y, batch: 0.5 * jnp.sum((y - batch) ** 2)
    )
    algorithm = b.vrbo(
        problem, inner_optimizer=0.0, outer_optimizer=0.0, inner_steps=0, terms=1, refresh=600, rate=0.5
    )
    rows = jnp.linspace(1, 2, algorithm.draws.inner, dtype=jnp.bfloat16)
    state = algorithm.init(*jnp.zeros((2, 1), jnp.bfloat16))
    data = b.Batch(Full(None), Stacked(rows))
    new, _ = jax.jit(algorithm.step)(state, data, None)
    assert new.direction.y.dtype == jnp.bfloat16
    np.testing.assert_allclose(new.direction.y.astype(float), -1.5, rtol=2 * CLOSE)


def test_orthogonal_directions_of_bfloat16_variables(key):
    x = {"a": jnp.zeros(3, jnp.bfloat16), "b": jnp.zeros((2, 2), jnp.bfloat16)}
    directions = orthogonal(key, x, 5)
    assert {leaf.dtype for leaf in jax.tree.leaves(directions)} == {jnp.dtype(jnp.bfloat16)}
    rows = np.concatenate([np.asarray(leaf, float).reshape(5, -1) for leaf in jax.tree.leaves(directions)], 1)
    np.testing.assert_allclose(rows @ rows.T, 7 * np.eye(5), atol=7 * 2 * CLOSE)
