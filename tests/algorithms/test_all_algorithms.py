"""Product tests: every algorithm on every problem, and the claims of each paper."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as b
from bilevel import algorithms, tasks
from cases.algorithms import ALGORITHMS, META
from cases.problems import CASES, counted, flat, quadratic_case, quartic_case


def build(name, case, **changes):
    return ALGORITHMS[name].factory(
        case.problem, **dict(inner_optimizer=case.step, outer_optimizer=0.02) | changes
    )


def stationarity(case, x):
    return np.linalg.norm(case.exact(x)[1])


def test_the_list_of_algorithms_is_complete():
    assert sorted([*ALGORITHMS, *META]) == sorted(algorithms.ALGORITHMS)


@pytest.mark.parametrize("problem", CASES)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_converges_to_a_stationary_point(name, problem, key):
    case = CASES[problem]()

    entry = ALGORITHMS[name]
    algorithm = build(name, case, outer_optimizer=entry.outer)
    result = b.run(
        algorithm, case.x, case.y, case.data, steps=entry.steps, key=key, log_every=entry.steps // 2
    )
    assert stationarity(case, result.state.x) < entry.shrink * stationarity(case, case.x)
    assert result.history["inner_residual"][-1] < entry.shrink


@pytest.mark.parametrize("name", ALGORITHMS)
def test_step_is_the_same_under_jit_and_keeps_its_structure(name, key):
    case = quadratic_case()
    algorithm = build(name, case)
    state = algorithm.init(case.x, case.y)
    plain, metrics = algorithm.step(state, case.data, key)
    jitted, _ = jax.jit(algorithm.step)(state, case.data, key)
    assert jax.tree.structure(plain) == jax.tree.structure(state)
    for before, after, compiled in zip(*map(jax.tree.leaves, (state, plain, jitted)), strict=True):
        assert before.shape == after.shape and before.dtype == after.dtype
        # Fused arithmetic rounds differently, and PZOBO divides differences by its smoothing of 1e-4.
        np.testing.assert_allclose(after, compiled, rtol=1e-7, atol=1e-10)
    _, again = algorithm.step(plain, case.data, key)
    assert metrics.keys() == again.keys()
    assert {
        "outer_loss",
        "inner_loss",
        "inner_residual",
        "linear_residual",
        "gradient_norm",
    } <= metrics.keys()
    assert all(jnp.ndim(value) == 0 for value in metrics.values())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_vmap_over_step_sizes_equals_one_run_each(name, key):
    case = quadratic_case()
    rates = jnp.array([0.01, 0.03])

    def last(rate):
        algorithm = build(name, case, outer_optimizer=rate)
        return b.advance(algorithm, algorithm.init(case.x, case.y), case.data, key, start=0, steps=5).x

    together = jax.vmap(last)(rates)
    alone = last(rates[1])
    np.testing.assert_allclose(
        flat(jax.tree.map(lambda a: a[1], together)), flat(alone), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_float32_stays_float32(name, key):
    case = quadratic_case()

    def single(variable):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), variable)

    problem = b.Problem(lambda x, y, batch: optax.tree.norm(y) ** 2, lambda x, y, batch: _coupled(x, y))
    algorithm = ALGORITHMS[name].factory(problem)
    state = algorithm.init(single(case.x), single(case.y))
    state, metrics = algorithm.step(state, case.data, key)
    for leaf in jax.tree.leaves((state, metrics)):
        assert isinstance(leaf, float) or leaf.dtype in (jnp.float32, jnp.int32)


def _coupled(x, y):
    return optax.tree.norm(optax.tree.add_scale(y, -x["a"][0], optax.tree.ones_like(y)), squared=True)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_constraints_hold_at_every_log_point(name, key):
    case = quadratic_case()
    box = optax.chain(optax.sgd(0.03), b.constrain(lambda x: optax.tree.clip(x, -0.1, 0.1)))
    algorithm = build(name, case, outer_optimizer=box)
    seen = []
    b.run(
        algorithm,
        jax.tree.map(jnp.zeros_like, case.x),
        case.y,
        case.data,
        steps=60,
        key=key,
        log_every=20,
        callback=lambda step, state, metrics: seen.append(np.abs(flat(state.x)).max()),
    )
    # x + (projection - x) may round by one unit in the last place.
    assert max(seen) <= 0.1 + 1e-15 and seen[-1] > 0.05


@pytest.mark.parametrize("name", ALGORITHMS)
def test_simplex_constraint_and_minibatches(name, key):
    task = tasks.quadratic(rows=40, outer_dim=4, inner_dim=6)
    simplex = optax.chain(optax.sgd(0.02), b.constrain(optax.projections.projection_simplex))
    data = task.data(8)
    algorithm = ALGORITHMS[name].factory(task.problem, inner_optimizer=0.2, outer_optimizer=simplex)
    x, y = jnp.full(4, 0.25), task.start(key)[1]
    # optax's projection mixes integers and floats.
    with jax.numpy_dtype_promotion("standard"):
        result = b.run(algorithm, x, y, data, steps=40, key=key)
    assert np.sum(result.state.x) == pytest.approx(1, abs=1e-12) and np.min(result.state.x) >= -1e-15


@pytest.mark.parametrize("name", ALGORITHMS)
def test_budget_calls_per_step_equal_the_declared_cost(name, key):
    problem, counts = counted(quartic_case().problem)
    case = quartic_case()
    # Full data hide the cost of linearised products; minibatches show every call.
    data = b.minibatches(np.zeros(4), np.zeros(4), batch_size=2)
    algorithm = ALGORITHMS[name].factory(problem, inner_optimizer=case.step, outer_optimizer=0.02)
    state = b.initial_state(algorithm, case.x, case.y, data)
    batch, key = b.driver.make_plan(algorithm.draws, data, key, 0, 1).read(data, 0)
    step = jax.jit(lambda state: algorithm.step(state, batch, key)[0])
    # A first step may refresh; the declared cost is that of the steps after it.
    state = jax.block_until_ready(step(state))
    for kind in counts:
        counts[kind] = 0
    jax.block_until_ready(step(state))
    assert counts == algorithm.cost._asdict()


@pytest.mark.parametrize("name", [*ALGORITHMS, *META])
def test_docstring_states_cost_family_and_reference(name):
    text = inspect.getdoc(getattr(algorithms, name))
    assert "Cost per step:" in text and "\nFamily: " in text and "\nReference: " in text


def test_integer_variables_are_refused():
    with pytest.raises(ValueError, match=r"x\['rate'\] is int"):
        b.soba(quartic_case().problem).init({"rate": jnp.arange(3)}, jnp.zeros(2))
