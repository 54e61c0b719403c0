"""Tests of every algorithm over tasks, on quadratic tasks with a closed form."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as b
from bilevel import tasks
from bilevel.testing import count_calls
from cases.algorithms import META
from cases.problems import few_tasks_case, flat

# `make test` runs the tests that compile most for MAML, and `make test-slow` for all.
THOROUGH = [n if n == "maml" else pytest.param(n, marks=pytest.mark.slow) for n in META]


def case_of(name):
    return few_tasks_case(META[name].features)


def build(name, case, **changes):
    return META[name].factory(case.problem, **dict(inner_optimizer=case.step, outer_optimizer=0.3) | changes)


def gradient_of(name, case, x):
    return getattr(case.exact(x), META[name].gradient)


def data_of(case, size):
    return b.minibatches(case.data.outer.arrays, None, batch_size=size)


@pytest.mark.parametrize("name", META)
def test_first_step_is_the_closed_form(name, key):
    case = case_of(name)
    algorithm = build(name, case, outer_optimizer=1.0)
    state, metrics = jax.jit(algorithm.step)(algorithm.init(case.x, case.y), case.data, key)
    want = gradient_of(name, case, case.x)
    np.testing.assert_allclose(flat(case.x) - flat(state.x), want, rtol=1e-12)
    assert metrics["gradient_norm"] == pytest.approx(np.linalg.norm(want), rel=1e-12)


@pytest.mark.parametrize("name", META)
def test_converges(name, key):
    case = case_of(name)
    result = b.run(build(name, case), case.x, case.y, case.data, steps=3000, key=key, log_every=3000)
    assert np.linalg.norm(gradient_of(name, case, result.state.x)) < 1e-8
    # A direction that is not the exact gradient has another limit.
    stationary = np.linalg.norm(case.exact(result.state.x)[1]) < 1e-8
    assert stationary == (META[name].gradient == "exact")


@pytest.mark.parametrize("name", THOROUGH)
def test_converges_on_minibatches_of_tasks_with_falling_steps(name, key):
    case = case_of(name)
    algorithm = build(name, case, outer_optimizer=lambda count: 0.5 / (1 + count.astype(float) / 50))
    result = b.run(algorithm, case.x, case.y, data_of(case, 2), steps=4000, key=key, log_every=4000)
    # Step sizes fall to 0.006 in 4000 steps, which leaves noise of this order.
    assert np.linalg.norm(gradient_of(name, case, result.state.x)) < 0.02


@pytest.mark.parametrize("name", THOROUGH)
def test_step_is_the_same_under_jit_and_keeps_its_structure(name, key):
    case = case_of(name)
    algorithm = build(name, case)
    state = algorithm.init(case.x, case.y)
    plain, metrics = algorithm.step(state, case.data, key)
    jitted, _ = jax.jit(algorithm.step)(state, case.data, key)
    assert jax.tree.structure(plain) == jax.tree.structure(state)
    for before, after, compiled in zip(*map(jax.tree.leaves, (state, plain, jitted)), strict=True):
        assert before.shape == after.shape and before.dtype == after.dtype
        np.testing.assert_allclose(after, compiled, rtol=1e-10, atol=1e-12)
    names = {"outer_loss", "inner_loss", "inner_residual", "linear_residual", "gradient_norm"}
    assert metrics.keys() == names and all(jnp.ndim(value) == 0 for value in metrics.values())


@pytest.mark.parametrize("name", THOROUGH)
def test_tasks_at_once_equal_tasks_one_after_the_other(name, key):
    case = case_of(name)
    together, after = (build(name, case, vectorize=vectorize) for vectorize in (True, False))
    state = together.init(case.x, case.y)
    for got, want in zip(
        *(jax.tree.leaves(jax.jit(algorithm.step)(state, case.data, key)) for algorithm in (together, after)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", THOROUGH)
def test_losses_without_data_are_one_task(name, key):
    case = case_of(name)
    task = jax.tree.map(lambda a: a[0], case.data.outer.arrays)
    alone = b.Problem(
        lambda x, y, batch: case.problem.outer(x, y, task), lambda x, y, batch: case.problem.inner(x, y, task)
    )

    def step(problem, data):
        algorithm = build(name, case._replace(problem=problem))
        return jax.jit(algorithm.step)(algorithm.init(case.x, case.y), data, key)

    got, metrics = step(alone, b.full(None, None))
    want, again = step(case.problem, b.full(jax.tree.map(lambda a: a[None], task), None))
    np.testing.assert_allclose(flat(got.x), flat(want.x), rtol=1e-13)
    assert metrics.keys() == again.keys()


@pytest.mark.parametrize("name", THOROUGH)
def test_vmap_over_seeds_and_step_sizes_equals_separate_runs(name):
    case, data = case_of(name), data_of(case_of(name), 2)
    keys = jax.vmap(jax.random.key)(jnp.arange(2))

    def last(rate, key):
        algorithm = build(name, case, outer_optimizer=rate)
        return b.advance(algorithm, algorithm.init(case.x, case.y), data, key, start=0, steps=5).x

    rates = jnp.array([0.05, 0.2])
    grid = jax.vmap(lambda key: jax.vmap(lambda rate: last(rate, key))(rates))(keys)
    alone = last(rates[1], keys[0])
    np.testing.assert_allclose(flat(jax.tree.map(lambda a: a[0, 1], grid)), flat(alone), rtol=1e-10)
    assert not np.allclose(flat(jax.tree.map(lambda a: a[1, 1], grid)), flat(alone))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", META)
def test_a_precision_is_kept(name, dtype, key):
    case = case_of(name)
    x, y, data = jax.tree.map(lambda leaf: leaf.astype(dtype), (case.x, case.y, case.data))
    algorithm = build(name, case)
    state = algorithm.init(x, y)
    # Lowering also finds operations that have no implementation in this precision.
    after, metrics = jax.jit(algorithm.step).lower(state, data, key).out_info
    for leaf in jax.tree.leaves((after.x, after.y, metrics)):
        assert leaf.dtype == dtype
    for before, leaf in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert before.dtype == leaf.dtype


STARTS = {
    **{name: META[name].factory for name in META},
    "fo_blo": partial(b.fo_blo, start=lambda x: x, tasks=True),
    "ufo_blo": partial(b.ufo_blo, start=lambda x: x, tasks=True),
    "fo_blo of one task": partial(b.fo_blo, start=lambda x: x),
    "ufo_blo of one task": partial(b.ufo_blo, start=lambda x: x),
}


def one_task(case):
    task = jax.tree.map(lambda a: a[0], case.data.outer.arrays)
    return b.full(task, task)


@pytest.mark.parametrize("name", STARTS)
def test_y_of_another_dtype_takes_the_dtype_of_the_start_and_another_shape_is_refused(name, key):
    case = few_tasks_case(name == "anil")
    data = one_task(case) if "one task" in name else case.data
    algorithm = STARTS[name](case.problem, inner_optimizer=case.step)
    other = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), case.y)
    state, same = algorithm.init(case.x, other), algorithm.init(case.x, case.y)
    new, _ = jax.eval_shape(algorithm.step, state, data, key)
    for leaves in zip(*map(jax.tree.leaves, (state, new, same)), strict=True):
        assert len({(leaf.shape, leaf.dtype) for leaf in leaves}) == 1
    with pytest.raises(ValueError, match="y must have the structure and shapes of the start that"):
        algorithm.init(case.x, {"u": jnp.zeros(2)})


@pytest.mark.parametrize("name", STARTS)
def test_the_values_of_y_are_not_used(name, key):
    """One inner step, so that every solve still shows where it started."""
    case = few_tasks_case(name == "anil")
    data = one_task(case) if "one task" in name else case.data
    algorithm = STARTS[name](case.problem, inner_optimizer=case.step, inner_steps=1)
    states = []
    for shift in (0.0, 3.0):
        start = algorithm.init(case.x, jax.tree.map(lambda leaf, shift=shift: leaf + shift, case.y))
        states.append(algorithm.step(start, data, key)[0])
    np.testing.assert_array_equal(flat(states[0].x), flat(states[1].x))
    np.testing.assert_array_equal(flat(states[0].y), flat(states[1].y))


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("name", THOROUGH)
def test_budget_calls_per_step_equal_the_declared_cost_of_each_task(name, vectorize, key):
    case = case_of(name)
    problem, counts = count_calls(case.problem)
    algorithm = build(name, case._replace(problem=problem), vectorize=vectorize)
    step = jax.jit(lambda state: algorithm.step(state, case.data, key)[0])
    jax.block_until_ready(step(algorithm.init(case.x, case.y)))
    if name in ("imaml", "maml"):
        # The losses do not read x, so XLA folds the cross product to zero and counts it once.
        counts["cross_products"] = 0
    assert counts == algorithm.cost.times(4)._asdict()


@pytest.mark.parametrize("name", THOROUGH)
def test_resumed_run_equals_the_uninterrupted_run_bit_for_bit(name, key):
    case = case_of(name)
    algorithm, data = build(name, case), data_of(case, 3)
    run = partial(b.run, algorithm, case.x, case.y, data, key=key)
    whole, half = run(steps=9, log_every=9).state, run(steps=3, log_every=3).state
    rest = run(steps=9, log_every=3, state=half, start=3).state
    np.testing.assert_array_equal(flat(rest.x), flat(whole.x))


@pytest.mark.parametrize("name", THOROUGH)
def test_constraints_hold(name, key):
    case = case_of(name)
    boxed = replace(case.problem, outer_projection=lambda x: optax.tree.clip(x, -0.1, 0.1))
    algorithm = build(name, case._replace(problem=boxed), outer_optimizer=0.3)
    x = jax.tree.map(jnp.zeros_like, case.x)
    state = b.run(algorithm, x, case.y, case.data, steps=30, key=key).state
    assert 0.05 < np.abs(flat(state.x)).max() <= 0.1


def test_anil_moves_head_and_features_by_separate_optimisers(key):
    case = case_of("anil")
    algorithm = build("anil", case, outer_optimizer=0.2, features_optimizer=1.0)
    state, _ = algorithm.step(algorithm.init(case.x, case.y), case.data, key)
    slope = case.exact(case.x)[1]
    np.testing.assert_allclose(flat(case.x["head"]) - flat(state.x["head"]), 0.2 * slope[2:], rtol=1e-12)
    np.testing.assert_allclose(flat(state.x["features"]), flat(case.x["features"]) - slope[:2], rtol=1e-12)


def test_anil_moves_further_blocks_by_the_optimiser_of_the_features(key):
    """f = c |scale|^2 / 2 + ...: the third block has the gradient c scale in every task."""
    case = case_of("anil")
    problem = b.Problem(
        lambda x, y, batch: case.problem.outer(x, y, batch) + 1.5 * jnp.sum(x["scale"] ** 2),
        case.problem.inner,
    )
    x = {**case.x, "scale": jnp.array([1.0, -2.0])}
    for settings, rate in ((dict(features_optimizer=0.1), 0.1), ({}, 0.3)):
        algorithm = build("anil", case._replace(problem=problem), **settings)
        state = algorithm.init(x, case.y)
        new, _ = algorithm.step(state, case.data, key)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        slope = case.exact(case.x)[1]
        np.testing.assert_allclose(flat(x["head"]) - flat(new.x["head"]), 0.3 * slope[2:], rtol=1e-12)
        np.testing.assert_allclose(
            flat(x["features"]) - flat(new.x["features"]), rate * slope[:2], rtol=1e-12
        )
        np.testing.assert_allclose(new.x["scale"], (1 - 3 * rate) * x["scale"], rtol=1e-12)


@pytest.mark.parametrize(
    "x, found",
    [(jnp.zeros(3), "an x of type "), ({"body": jnp.zeros(3)}, r"a dict with keys \['body'\]")],
    ids=["array", "dict"],
)
def test_anil_refuses_an_x_without_its_two_blocks(x, found, key):
    algorithm = b.anil(tasks.quadratic().problem)
    rule = f"anil needs x to be a dict with the keys 'head' and 'features', got {found}"
    with pytest.raises(ValueError, match=rule):
        b.run(algorithm, x, jnp.zeros(3), b.full(None, None), steps=1, key=key)
