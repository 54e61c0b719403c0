"""The driver: one path for every chunk length, one trace, divergence reported, checkpoints."""

import os
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as b
from bilevel import driver, tasks
from bilevel.checkpoint import PointLog
from bilevel.driver import _on_mesh as on_mesh
from cases.algorithms import ALGORITHMS

TASK = tasks.quadratic(rows=50, outer_dim=4, inner_dim=6)
DATA = TASK.minibatches(8)
X, Y = TASK.start(jax.random.key(1))


def build(name="soba", **settings):
    return ALGORITHMS[name].factory(
        TASK.problem, **dict(inner_optimizer=0.2, outer_optimizer=0.01) | settings
    )


def same(one, other):
    for a, b_ in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b_)


@pytest.mark.parametrize("name", ["soba", "saba"])
def test_resumes_bit_for_bit_for_every_chunk_length(name, key):
    algorithm = build(name)
    whole = b.run(algorithm, X, Y, DATA, steps=23, key=key, log_every=23)
    half = b.run(algorithm, X, Y, DATA, steps=10, key=key, log_every=4)
    rest = b.run(algorithm, X, Y, DATA, steps=23, key=key, log_every=7, state=half.state, start=10)
    same(whole.state, rest.state)
    begin = b.initial_state(algorithm, X, Y, DATA)
    same(whole.state, b.advance(algorithm, begin, DATA, key, start=0, steps=23))


def test_history_starts_at_the_start_and_ends_at_the_end(key):
    result = b.run(build(), X, Y, DATA, steps=25, key=key, log_every=10)
    assert list(result.history["step"]) == [0, 10, 20, 25] and result.history["seconds"][0] == 0
    assert np.all(np.diff(result.history["seconds"]) > 0) and result.compile_seconds > 0
    again = b.run(build(), X, Y, DATA, steps=25, key=key, log_every=5)
    np.testing.assert_array_equal(again.history["outer_loss"][[0, 2, 4, 5]], result.history["outer_loss"])


def test_one_trace_serves_many_chunks_and_runs(key):
    traces = []

    def inner(x, y, batch):
        traces.append(1)
        return TASK.problem.inner(x, y, batch)

    algorithm = b.soba(b.Problem(TASK.problem.outer, inner), inner_optimizer=0.2, outer_optimizer=0.01)
    b.run(algorithm, X, Y, DATA, steps=5, key=key, log_every=5)
    first = len(traces)
    b.run(algorithm, 2 * X, Y, DATA, steps=23, key=jax.random.key(5), log_every=5)
    assert len(traces) == first


def test_seeds_at_once_equal_seeds_one_by_one(key):
    keys = jax.random.split(key, 3)
    together = b.run(build("stocbio"), X, Y, DATA, steps=20, key=keys, log_every=10)
    assert together.history["outer_loss"].shape == (3, 3)
    alone = b.run(build("stocbio"), X, Y, DATA, steps=20, key=keys[2], log_every=10)
    # Batched matrix products round differently.
    np.testing.assert_allclose(together.state.x[2], alone.state.x, rtol=1e-9)


def test_host_data_give_the_same_path_as_the_same_data_on_the_device(key):
    algorithm = build("aid_bio")
    draws = algorithm.draws
    sources = [
        source.view(source.plan(k, 0, 12 * count))
        for source, k, count in zip(DATA, jax.random.split(key, 3)[:2], draws[:2], strict=True)
    ]
    host = b.Batch(*(b.Host(lambda i, s=s: jax.device_get(s[i])) for s in sources))
    want = b.run(algorithm, X, Y, DATA, steps=10, key=key, log_every=4)
    got = b.run(algorithm, X, Y, host, steps=10, key=key, log_every=4)
    np.testing.assert_allclose(got.state.x, want.state.x, rtol=1e-12)


def test_data_are_arguments_and_not_constants(key):
    algorithm = build()
    plan = driver.make_plan(algorithm.draws, DATA, key, 0, 4)
    text = driver._chunk.lower(algorithm, algorithm.init(X, Y), DATA, plan, 4, False).as_text()
    # A, the largest array, has 57 x 6 x 6 entries and must not stand in the program as numbers.
    assert len(text) < 60_000


def test_callback_sees_every_log_point_and_can_stop(key):
    seen = []

    def callback(step, state, metrics):
        seen.append((step, float(metrics["outer_loss"])))
        return step == 20

    result = b.run(build(), X, Y, DATA, steps=100, key=key, log_every=10, callback=callback)
    assert [step for step, _ in seen] == [0, 10, 20] == list(result.history["step"])


def test_divergence_is_reported_with_the_last_finite_state(key):
    rule = r"^soba diverged at step \d+: the hypergradient is not finite; .* lower the inner step"
    with pytest.raises(b.DivergedError, match=rule) as caught:
        b.run(build(inner_optimizer=1e3), X, Y, DATA, steps=400, key=key, log_every=50)
    error = caught.value
    assert error.algorithm == "soba" and error.steps[1] == error.steps[0] + 50
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(error.state))
    result = b.run(
        build(inner_optimizer=1e3), X, Y, DATA, steps=400, key=key, log_every=50, on_divergence="continue"
    )
    assert not np.all(np.isfinite(result.state.y))


def test_a_loss_that_is_not_finite_at_the_start_is_reported(key):
    problem = b.Problem(lambda x, y, batch: jnp.log(x), lambda x, y, batch: 0.5 * y**2)
    rule = "soba diverged at step 0: the outer loss f is not finite; check the loss at the start"
    for reaction in ("raise", "restore"):
        with pytest.raises(b.DivergedError, match=rule) as caught:
            b.run(b.soba(problem), -1.0, 0.0, b.full(None, None), steps=5, key=key, on_divergence=reaction)
    assert caught.value.step == 0 and caught.value.metric == "outer_loss"


@pytest.mark.parametrize("level", ["x", "y"])
@pytest.mark.parametrize("size, kind", [(jnp.nan, "NaN"), (jnp.inf, "infinite values")])
def test_a_start_that_is_not_finite_is_named_with_its_leaf(level, size, kind, key):
    def loss(x, y, batch):
        return jnp.sum((x["b"] - y["b"]) ** 2) + jnp.sum(x["a"] ** 2) + jnp.sum(y["a"] ** 2)

    start = {"x": {"a": jnp.ones(2), "b": jnp.ones(2)}, "y": {"a": jnp.ones(2), "b": jnp.ones(2)}}
    start[level]["b"] = jnp.array([1.0, size])
    rule = (
        rf"soba diverged at step 0: the start {level} contains {kind} in \['b'\]; start with finite numbers$"
    )
    with pytest.raises(b.DivergedError, match=rule):
        b.run(b.soba(b.Problem(loss, loss)), start["x"], start["y"], b.full(None, None), steps=5, key=key)


class Pair(NamedTuple):
    x: Any
    y: Any


def test_a_state_that_is_not_finite_is_reported_even_if_all_metrics_are_finite(key):
    def step(state, batch, key):
        return state._replace(y=10.0 * state.y), {"outer_loss": jnp.zeros(())}

    algorithm = b.Algorithm(lambda x, y: Pair(jnp.asarray(x), jnp.asarray(y)), step, b.Draws(1, 1), b.Cost())
    rule = (
        r"diverged at step 309: state\.y, moved by the gradient of the inner loss g, is not finite; the last"
    )
    with pytest.raises(b.DivergedError, match=rule) as caught:
        b.run(algorithm, 0.0, 1.0, b.full(None, None), steps=400, key=key, log_every=10)
    error = caught.value
    assert error.state.y == pytest.approx(1e300) and len(error.history["step"]) == 31
    assert error.before.y == pytest.approx(1e308) and error.metric == "state.y" and error.steps == (300, 310)


# Divergence: the step, the loss, the leaf, the last finite state, the cause and the remedy.


def broken_at(step, level, size=jnp.nan):
    """Return SOBA on a counter, with a loss that is not finite after `step` steps.

    y counts the steps: y_{k+1} = y_k - (y_k - (y_k + 1)) for the step size 1.
    """

    def counted(x, y, batch):
        return 0.5 * (y["n"] - jax.lax.stop_gradient(y["n"]) - 1) ** 2

    def failing(x, y, batch):
        return jnp.where(jax.lax.stop_gradient(y["n"]) > step - 0.5, size, 1.0) * counted(x, y, batch)

    problem = b.Problem(*((failing, counted) if level == "outer" else (counted, failing)))
    return b.soba(problem, inner_optimizer=1.0, outer_optimizer=0.0)


@pytest.mark.parametrize("log_every", [1, 7, 100])
@pytest.mark.parametrize("level, loss", [("outer", "the outer loss f"), ("inner", "the inner loss g")])
def test_the_first_step_and_its_loss_are_found_in_every_window(level, loss, log_every, key):
    with pytest.raises(b.DivergedError, match=f"soba diverged at step 33: {loss} is not finite;") as caught:
        start = {"n": jnp.zeros(())}
        b.run(broken_at(33, level), 0.0, start, b.full(None, None), steps=100, key=key, log_every=log_every)
    error = caught.value
    assert error.step == 33 and error.metric == f"{level}_loss" and error.before.y["n"] == 32
    assert error.steps[0] <= 32 < error.steps[1] and error.state.y["n"] == error.steps[0]
    assert error.history["step"][-1] == error.steps[0]


def test_the_last_finite_state_makes_the_step_that_fails_again(key):
    algorithm = build(inner_optimizer=1e3)
    with pytest.raises(b.DivergedError) as caught:
        b.run(algorithm, X, Y, DATA, steps=400, key=key, log_every=100)
    error = caught.value
    start = b.initial_state(algorithm, X, Y, DATA)
    same(error.before, b.advance(algorithm, start, DATA, key, start=0, steps=error.step - 1))
    after = b.run(
        algorithm, X, Y, DATA, steps=error.step, key=key, log_every=1, on_divergence="continue",
        state=error.before, start=error.step - 1,
    )  # fmt: skip
    assert np.all(np.isfinite(after.history["gradient_norm"][0]))
    assert not np.all(np.isfinite(after.history["gradient_norm"][1]))


def test_the_key_that_diverged_is_named(key):
    keys = jax.random.split(key, 3)
    start = {"n": jnp.zeros(())}
    algorithm = broken_at(20, "inner")
    state = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), algorithm.init(0.0, start))
    state = state._replace(y={"n": jnp.array([0.0, 5.0, 1.0])})
    with pytest.raises(
        b.DivergedError, match="soba diverged at step 15 with key 1: the inner loss g"
    ) as caught:
        b.run(algorithm, 0.0, start, b.full(None, None), steps=100, key=keys, log_every=10, state=state)
    np.testing.assert_array_equal(caught.value.before.y["n"], [14, 19, 15])


ROWS = np.random.default_rng(0).normal(size=(50, 3))
SPOILT = ROWS.copy()
SPOILT[17, 1] = np.nan


def ridge(x, y, batch):
    return 0.5 * jnp.mean((batch["a"] @ y) ** 2) + 0.5 * jnp.exp(x) * jnp.sum((y - 1) ** 2)


def spoilt(level, kind, rows=SPOILT):
    """Return data of one kind, with a row that is not finite at one level."""
    clean, broken = {"a": ROWS}, {"a": rows}
    pair = (broken, clean) if level == "outer" else (clean, broken)
    if kind == "host":
        return b.Batch(*(b.Host(lambda i, d=d: {"a": d["a"][[i % 50]]}) for d in pair))
    return b.full(*pair) if kind == "full" else b.minibatches(*pair, batch_size=4)


@pytest.mark.parametrize("kind", ["full", "minibatches", "host"])
@pytest.mark.parametrize("level, loss", [("outer", "f"), ("inner", "g")])
def test_nan_in_the_data_are_named_with_their_row(level, loss, kind, key):
    place = "minibatch 17" if kind == "host" else "row 17"
    rule = rf"the data of {loss} contain NaN in \['a'\] in {place}; clean the data$"
    algorithm = b.soba(b.Problem(ridge, ridge), inner_optimizer=0.1, outer_optimizer=0.01)
    with pytest.raises(b.DivergedError, match=rule) as caught:
        b.run(algorithm, 0.0, jnp.zeros(3), spoilt(level, kind), steps=100, key=key, log_every=30)
    assert caught.value.step == {"full": 0, "host": 17}.get(kind, caught.value.step)


def test_infinite_data_are_named_and_masked_data_are_not_blamed(key):
    algorithm = b.soba(b.Problem(ridge, ridge), inner_optimizer=0.1, outer_optimizer=0.01)
    infinite = spoilt("inner", "full", np.where(np.isnan(SPOILT), np.inf, SPOILT))
    with pytest.raises(b.DivergedError, match=r"data of g contain infinite values in \['a'\] in row 17"):
        b.run(algorithm, 0.0, jnp.zeros(3), infinite, steps=5, key=key)

    def masked(x, y, batch):
        return ridge(x, y, {"a": jnp.where(jnp.isnan(batch["a"]), 0.0, batch["a"])})

    algorithm = b.soba(b.Problem(masked, masked), inner_optimizer=1e3, outer_optimizer=0.01)
    with pytest.raises(b.DivergedError, match="lower the inner step size"):
        b.run(algorithm, 0.0, jnp.zeros(3), spoilt("inner", "full"), steps=400, key=key)


@pytest.mark.parametrize(
    "linear, inner, remedy",
    [
        (
            0.9,
            1.0,
            "the adjoint system is not solved .its linear residual is 0.9.* add damping or an L2 term to g",
        ),
        (0.1, 1.0, "lower the outer step size, or restart from the last log point"),
        # y diverges as well, so no adjoint could follow.
        (0.9, 10.0, "lower the inner step size, or restart from the last log point"),
    ],
)
def test_the_remedy_depends_on_what_diverged_before(linear, inner, remedy, key):
    def step(state, batch, key):
        new = state._replace(x=10 * state.x, y=inner * state.y)
        return new, {"inner_residual": state.y, "linear_residual": jnp.full((), linear)}

    algorithm = b.Algorithm(lambda x, y: Pair(jnp.asarray(x), jnp.asarray(y)), step, b.Draws(1, 1), b.Cost())
    with pytest.raises(b.DivergedError, match=rf"state\.\w, moved by .* is not finite; .*; {remedy}"):
        b.run(algorithm, 1.0, 1.0, b.full(None, None), steps=400, key=key)


@pytest.mark.parametrize("log_every", [1, 100])
@pytest.mark.parametrize("inner, outer, level", [(50.0, 0.01, "inner"), (0.2, 1e6, "outer")])
def test_the_step_size_that_is_too_large_is_named(inner, outer, level, log_every, key):
    algorithm = b.aid_bio(TASK.problem, inner_optimizer=inner, outer_optimizer=outer, inner_steps=5)
    with pytest.raises(b.DivergedError, match=f"lower the {level} step size, or restart") as caught:
        b.run(algorithm, X, Y, DATA, steps=100, key=key, log_every=log_every)
    assert caught.value.remedy == f"lower the {level} step size"


def test_restore_ends_with_the_last_log_point(key, tmp_path):
    start = {"n": jnp.zeros(())}
    with pytest.warns(
        RuntimeWarning, match="at step 33: the inner loss g .* the run ends with the state of step 30"
    ) as warned:
        result = b.run(
            broken_at(33, "inner"), 0.0, start, b.full(None, None), steps=100, key=key, log_every=10,
            on_divergence="restore", checkpoint=tmp_path,
        )  # fmt: skip
    # No error is raised, so the warning does not speak of its attributes.
    assert "error." not in str(warned[0].message)
    assert result.state.y["n"] == 30 and list(result.history["step"]) == [0, 10, 20, 30]
    restored = b.Checkpoint(tmp_path).restore("soba", broken_at(33, "inner").init(0.0, start), key)
    assert restored is not None and restored[0] == 30


def halving(factor):
    """Return SOBA on |y - x|^2 / 2, which diverges at the factor 1 and converges at one half."""
    problem = b.Problem(lambda x, y, batch: 0.5 * (y - 3) ** 2, lambda x, y, batch: 0.5 * (y - x) ** 2)
    return b.soba(problem, inner_optimizer=3.0 * factor, outer_optimizer=0.01 * factor)


def test_halve_goes_on_with_smaller_steps_until_the_run_is_finite(key, tmp_path):
    def run(steps, algorithm=halving, **options):
        settings: Any = {"on_divergence": "halve"} | options
        return b.run(
            algorithm, 1.0, 0.0, b.full(None, None), steps=steps, key=key, log_every=2000, **settings
        )

    with pytest.warns(
        RuntimeWarning, match=r"soba diverged .* from step 0 with step sizes times 0\.5"
    ) as caught:
        result = run(4000)
    assert len(caught) == 1 and result.state.x == pytest.approx(3.0)
    assert "error." not in str(caught[0].message)
    np.testing.assert_array_equal(result.history["step_size_factor"], [1, 0.5, 0.5])
    np.testing.assert_array_equal(result.history["step"], [0, 2000, 4000])
    same(result.state, run(4000, halving(0.5), on_divergence="raise").state)
    with pytest.warns(RuntimeWarning):
        run(2000, checkpoint=tmp_path)
    # A resumed run goes on with the steps that it had, without a warning.
    same(run(4000, checkpoint=tmp_path).state, result.state)


def test_halve_gives_up_where_no_step_size_helps(key):
    with (
        pytest.warns(RuntimeWarning) as caught,
        pytest.raises(b.DivergedError, match="at step 3: the outer loss f"),
    ):
        b.run(
            lambda factor: broken_at(3, "outer"), 0.0, {"n": jnp.zeros(())}, b.full(None, None), steps=5,
            key=key, on_divergence="halve",
        )  # fmt: skip
    assert len(caught) == 20


def test_reactions_to_divergence_are_checked(key):
    with pytest.raises(ValueError, match="must be one of raise, restore, halve, continue, got 'ignore'"):
        b.run(build(), X, Y, DATA, steps=5, key=key, on_divergence="ignore")
    with pytest.raises(ValueError, match=r"'halve' needs a function of a factor .*, got Algorithm"):
        b.run(build(), X, Y, DATA, steps=5, key=key, on_divergence="halve")
    with pytest.raises(ValueError, match="algorithm must be an Algorithm, got function"):
        b.run(halving, X, Y, DATA, steps=5, key=key)


def test_bad_arguments(key):
    with pytest.raises(ValueError, match="log_every must be at least 1, got 0"):
        b.run(build(), X, Y, DATA, steps=5, key=key, log_every=0)
    with pytest.raises(ValueError, match="steps must be at least 7, the first step, got 5"):
        b.run(build(), X, Y, DATA, steps=5, key=key, start=7)
    with pytest.raises(ValueError, match=r"key must be made by jax.random.key\(seed\)"):
        b.run(build(), X, Y, DATA, steps=5, key=jax.random.PRNGKey(0))
    with pytest.raises(ValueError, match="minibatches must be planned before they are read; `run` does this"):
        b.hypergradient(TASK.problem, b.first_order(b.descend(TASK.problem, 0.1, 1)), X, Y, DATA)
    with pytest.raises(TypeError, match="scalar"):
        b.run(b.soba(b.Problem(lambda x, y, batch: y, lambda x, y, batch: y)), X, Y, DATA, steps=5, key=key)


def test_progress_is_quiet_when_the_output_is_not_a_terminal(key, capfd):
    b.run(build(), X, Y, DATA, steps=20, key=key, log_every=5)
    assert capfd.readouterr() == ("", "")


def compiled():
    """Return the numbers of compiled chunks and of compiled log points."""
    jitted: list[Any] = [driver._chunk, driver._observe]
    return tuple(function._cache_size() for function in jitted)


def test_under_a_mesh_the_steps_compile_once(key):
    mesh = jax.make_mesh((1,), ("tasks",), (jax.sharding.AxisType.Auto,))
    algorithm, before = build(), compiled()
    with jax.set_mesh(mesh):
        spread = b.run(algorithm, X, Y, DATA, steps=12, key=key, log_every=3)
    assert compiled() == (before[0] + 1, before[1] + 1)
    same(spread.state, b.run(algorithm, X, Y, DATA, steps=12, key=key, log_every=3).state)


def test_a_state_that_is_spread_over_a_mesh_stays_spread():
    mesh = jax.make_mesh((1,), ("tasks",), (jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("tasks"))
    state = {"spread": jax.device_put(jnp.zeros(2), spread), "alone": jnp.ones(2)}
    assert on_mesh(state) is state
    with jax.set_mesh(mesh):
        placed = on_mesh(state)
    assert placed["spread"].sharding == spread
    assert placed["alone"].sharding == jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


# Checkpoints


def test_checkpoint_resumes_bit_for_bit_and_keeps_the_history(key, tmp_path):
    algorithm = build("fsla")
    whole = b.run(algorithm, X, Y, DATA, steps=30, key=key, log_every=5)
    b.run(algorithm, X, Y, DATA, steps=15, key=key, log_every=5, checkpoint=str(tmp_path / "c"))
    resumed = b.run(algorithm, X, Y, DATA, steps=30, key=key, log_every=5, checkpoint=str(tmp_path / "c"))
    same(whole.state, resumed.state)
    np.testing.assert_array_equal(whole.history["step"], resumed.history["step"])
    np.testing.assert_array_equal(whole.history["outer_loss"], resumed.history["outer_loss"])
    done = b.run(algorithm, X, Y, DATA, steps=30, key=key, log_every=5, checkpoint=str(tmp_path / "c"))
    same(whole.state, done.state)


def test_checkpoint_of_another_problem_is_refused(key, tmp_path):
    b.run(build(), X, Y, DATA, steps=5, key=key, checkpoint=str(tmp_path))
    with pytest.raises(ValueError, match="belongs to another run: its algorithm is 'soba', not 'fsla'"):
        b.run(build("fsla"), X, Y, DATA, steps=5, key=key, checkpoint=str(tmp_path))
    with pytest.raises(ValueError, match="its key is"):
        b.run(build(), X, Y, DATA, steps=5, key=jax.random.key(7), checkpoint=str(tmp_path))
    with pytest.raises(ValueError, match="its identity is '', not 'other'"):
        other = b.Checkpoint(tmp_path, identity="other")
        b.run(build(), X, Y, DATA, steps=5, key=key, checkpoint=other)
    # For a long identity the message names the words that differ.
    b.run(
        build(), X, Y, DATA, steps=5, key=key, checkpoint=b.Checkpoint(tmp_path / "l", identity="a=1 b=2 c=3")
    )
    with pytest.raises(ValueError, match="its identity is 'b=2 c=3', not 'b=3 c=4'"):
        other = b.Checkpoint(tmp_path / "l", identity="a=1 b=3 c=4")
        b.run(build(), X, Y, DATA, steps=5, key=key, checkpoint=other)
    with pytest.raises(ValueError, match="its variables is"):
        b.run(build(), X[:3], Y, DATA, steps=5, key=key, checkpoint=str(tmp_path))


def test_a_checkpoint_that_does_not_fit_the_arguments_is_refused(key, tmp_path):
    b.run(build(), X, Y, DATA, steps=10, key=key, log_every=5, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="steps must be at least 10, where the checkpoint was saved, got 5"):
        b.run(build(), X, Y, DATA, steps=5, key=key, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="its start is"):
        b.run(build(), 2 * X, Y, DATA, steps=20, key=key, checkpoint=tmp_path)
    fresh = b.Checkpoint(tmp_path, resume=False)
    again = b.run(build(), 2 * X, Y, DATA, steps=20, key=key, log_every=5, checkpoint=fresh)
    assert again.history["step"][0] == 0
    fresh.remove()
    assert not tmp_path.exists()


def test_a_run_saves_in_between_and_not_only_at_its_end(key, tmp_path):
    def die(step, state, metrics):
        if step == 15:
            raise RuntimeError

    often = b.Checkpoint(tmp_path, every_seconds=0)
    with pytest.raises(RuntimeError):
        b.run(build(), X, Y, DATA, steps=30, key=key, log_every=5, callback=die, checkpoint=often)
    restored = often.restore("soba", build().init(X, Y), key)
    assert restored is not None and restored[0] == 10


def test_a_diverging_run_saves_its_last_finite_state(key, tmp_path):
    with pytest.raises(b.DivergedError) as caught:
        b.run(build(inner_optimizer=1e3), X, Y, DATA, steps=400, key=key, log_every=5, checkpoint=tmp_path)
    restored = b.Checkpoint(tmp_path).restore("soba", build().init(X, Y), key)
    assert restored is not None
    step, state, _ = restored
    assert step == caught.value.steps[0]
    same(state, caught.value.state)


def test_the_time_of_the_callback_is_not_counted(key):
    result = b.run(
        build(), X, Y, DATA, steps=10, key=key, log_every=5, callback=lambda *arguments: time.sleep(0.5)
    )
    assert result.history["seconds"][-1] < 0.5


def test_the_clock_stops_also_for_a_callback_that_raises():
    clock = driver._Clock(3.0)
    with pytest.raises(KeyboardInterrupt), clock.stopped() as seconds:
        time.sleep(0.2)
        raise KeyboardInterrupt
    assert seconds >= 3.0 and clock.seconds() - seconds < 0.1


def test_a_point_log_keeps_its_values_for_a_resumed_run(tmp_path):
    def variable(scale):
        return {"a": scale * jnp.ones(2), "b": (jnp.asarray(scale, jnp.float32),)}

    checkpoint = b.Checkpoint(tmp_path / "c")
    checkpoint.folder.mkdir()
    log = PointLog(checkpoint, variable(0.0))
    log.facts["steps"] = 20
    for step in (5, 0):
        log.add(step, variable(float(step)), losses=np.arange(3.0) + step, accuracy=1 / 3)
    again = PointLog(checkpoint, variable(0.0))
    assert again.facts == {"steps": 20} and again.steps() == again.steps_with_x() == [0, 5]
    np.testing.assert_array_equal(again.values("losses"), [[0.0, 1.0, 2.0], [5.0, 6.0, 7.0]])
    assert float(again.points[5]["accuracy"]) == 1 / 3
    same(again.x(5), variable(5.0))
    assert again.x(5)["b"][0].dtype == np.float32
    assert PointLog(b.Checkpoint(tmp_path / "c", resume=False), variable(0.0)).points == {}
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_point_log_may_keep_the_last_x_alone(tmp_path):
    log = PointLog(None, X, every_x=False)
    log.add(0, X, accuracy=0.2)
    log.add(5, 2 * X, accuracy=0.4)
    log.add(10, accuracy=0.3)
    assert log.steps() == [0, 5, 10] and log.steps_with_x() == [5]
    same(log.x(5), 2 * X)


def test_a_damaged_point_log_is_refused(tmp_path):
    checkpoint = b.Checkpoint(tmp_path / "c")
    checkpoint.folder.mkdir()
    log = PointLog(checkpoint, X)
    log.add(0, X, accuracy=0.2)
    assert log.file is not None
    whole = log.file.read_bytes()
    np.savez(tmp_path / "other.npz", steps=np.arange(3))
    for content in (b"", whole[:100], whole[:-100], (tmp_path / "other.npz").read_bytes()):
        log.file.write_bytes(content)
        with pytest.raises(
            ValueError, match="npz is damaged and cannot be resumed; run again without --resume"
        ):
            PointLog(checkpoint, X)


def test_interrupt_saves_before_it_ends(key, tmp_path):
    def interrupt(step, state, metrics):
        if step == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        b.run(
            build(), X, Y, DATA, steps=30, key=key, log_every=5, callback=interrupt, checkpoint=str(tmp_path)
        )
    resumed = b.run(build(), X, Y, DATA, steps=30, key=key, log_every=5, checkpoint=str(tmp_path))
    same(resumed.state, b.run(build(), X, Y, DATA, steps=30, key=key, log_every=5).state)


KILLED = """
import os, jax, orbax.checkpoint as ocp, bilevel as b
from bilevel import tasks
import orbax.checkpoint._src.path.atomicity as atomicity
task = tasks.quadratic(rows=50, outer_dim=4, inner_dim=6)
x, y = task.start(jax.random.key(1))
algorithm = b.soba(task.problem, inner_optimizer=0.2, outer_optimizer=0.01)
run = lambda steps: b.run(
    algorithm, x, y, task.minibatches(8), steps=steps, key=jax.random.key(0), log_every=5,
    checkpoint={folder!r}
)
run(10)
rename = os.rename
def die(*args, **kwargs):
    os._exit(9)
os.rename = os.replace = die
import pathlib
pathlib.Path.rename = pathlib.Path.replace = die
run(20)
"""


def test_kill_in_the_middle_of_a_save_resumes_from_the_save_before(tmp_path):
    """The process dies when the second save, fully written under its temporary name, is to be renamed."""
    folder = str(tmp_path / "c")
    environment = {**os.environ, "JAX_ENABLE_X64": "1"}
    code = subprocess.run([sys.executable, "-c", KILLED.format(folder=folder)], env=environment).returncode
    assert code == 9
    assert len(list((tmp_path / "c").iterdir())) == 2  # the whole save and the torn one
    key = jax.random.key(0)
    algorithm = b.soba(TASK.problem, inner_optimizer=0.2, outer_optimizer=0.01)
    restored = b.Checkpoint(folder).restore("soba", algorithm.init(X, Y), key)
    assert restored is not None and restored[0] == 10
    resumed = b.run(algorithm, X, Y, DATA, steps=20, key=key, log_every=5, checkpoint=folder)
    same(resumed.state, b.run(algorithm, X, Y, DATA, steps=20, key=key, log_every=5).state)
