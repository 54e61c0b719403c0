"""FSLA and its relatives SOBA, SABA, SRBA and MA-SOBA: paths, memories, bias and noise.

Papers: Li, Gu and Huang, AAAI 2022 (FSLA); Dagréou et al., NeurIPS 2022 (SOBA, SABA) and AISTATS 2024 (SRBA);
Chen, Xiao and Balasubramanian, JMLR 2024 (MA-SOBA).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bilevel as b
from bilevel import tasks
from bilevel.estimators import SagaTable
from bilevel.estimators.saga import SagaState
from bilevel.types import Point
from cases import minibatches
from cases.problems import logistic_case

CASE = logistic_case(direct=True)
RHO, ALPHA = 0.5, 0.1
STEPS: dict[str, Any] = dict(inner_optimizer=RHO, outer_optimizer=ALPHA)


def states(algorithm, steps, case=CASE, start=None):
    """Return the states after 1 to `steps` steps on full data, stacked."""

    def step(state, _):
        state = algorithm.step(state, case.data, jax.random.key(0))[0]
        return state, state

    start = algorithm.init(case.x, case.y) if start is None else start
    return jax.jit(lambda start: lax.scan(step, start, length=steps)[1])(start)


def derivatives(x, y):
    f, g = CASE.problem.outer, CASE.problem.inner
    outer, inner = CASE.data.outer[0], CASE.data.inner[0]
    f_x, f_y = jax.grad(f, argnums=(0, 1))(x, y, outer)
    H = jax.hessian(g, argnums=1)(x, y, inner)
    J = jax.jacfwd(jax.grad(g), argnums=1)(x, y, inner)
    return f_x, f_y, jax.grad(g, argnums=1)(x, y, inner), H, J


def outer_direction(point):
    f_x, _, _, _, J = derivatives(point.x, point.y)
    return f_x - J @ point.v


def path(step, steps):
    """Return x after 1 to `steps` steps of an update rule written with matrices."""

    def follow(point, _):
        point = step(point)
        return point, point.x

    start = Point(CASE.x, CASE.y, jnp.zeros_like(CASE.y))
    return jax.jit(lambda start: lax.scan(follow, start, length=steps)[1])(start)


def gauss_seidel(point):
    x, y, v = point
    y = y - RHO * derivatives(x, y)[2]
    _, f_y, _, H, _ = derivatives(x, y)
    v = v - RHO * (H @ v - f_y)
    return Point(x - ALPHA * outer_direction(Point(x, y, v)), y, v)


def simultaneous(point):
    x, y, v = point
    f_x, f_y, g_y, H, J = derivatives(x, y)
    return Point(x - ALPHA * (f_x - J @ v), y - RHO * g_y, v - RHO * (H @ v - f_y))


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_fsla_on_full_batches_is_the_gauss_seidel_recursion_for_every_weight(weight):
    """The STORM correction vanishes on full batches."""
    got = states(b.fsla(CASE.problem, weight=weight, **STEPS), 50).x
    np.testing.assert_allclose(got, path(gauss_seidel, 50), atol=1e-14)


def test_soba_takes_all_three_directions_at_the_current_point():
    got = states(b.soba(CASE.problem, **STEPS), 50).x
    np.testing.assert_allclose(got, path(simultaneous, 50), atol=1e-14)


def test_soba_has_one_path_in_both_sign_conventions_of_v():
    """With -v for v, the cross term is added."""

    def other_sign(point):
        x, y, v = point
        f_x, f_y, g_y, H, J = derivatives(x, y)
        return Point(x - ALPHA * (f_x + J @ v), y - RHO * g_y, v - RHO * (H @ v + f_y))

    np.testing.assert_allclose(path(other_sign, 50), path(simultaneous, 50), atol=1e-14)


def test_linear_residuals_of_single_loops_are_measured_where_v_moves():
    """FSLA moves v at the new y, on inner minibatch 1; SOBA at the old y, on inner minibatch 0."""
    v = np.random.default_rng(1).normal(size=3)
    for factory, i in ((b.fsla, 1), (b.soba, 0)):
        algorithm = factory(minibatches.PROBLEM, adjoint_optimizer=0.2)
        state = algorithm.init(jnp.asarray(minibatches.X), jnp.asarray(minibatches.Y))
        state = state._replace(v=jnp.asarray(v))
        new, metrics = algorithm.step(state, minibatches.BATCH, None)
        f_y = (new.y if factory is b.fsla else state.y) - minibatches.B[0]
        want = np.linalg.norm(f_y - minibatches.A[i] @ v) / np.linalg.norm(f_y)
        assert metrics["linear_residual"] == pytest.approx(want, rel=1e-12)


def test_nbo_fsla_and_soba_are_three_different_methods():
    """The distances of x from NBO without extra steps to FSLA and to SOBA, after 1, 2 and 3 steps."""
    nbo = states(b.nbo(CASE.problem, extra_steps=0, **STEPS), 3).x
    for rule, distances in (
        (gauss_seidel, [1.2e-5, 4.7e-5, 1.0e-4]),
        (simultaneous, [1.1e-4, 3.5e-4, 6.1e-4]),
    ):
        # The distances are given to two digits.
        np.testing.assert_allclose(jnp.abs(nbo - path(rule, 3)).max(axis=1), distances, rtol=0.05)


def test_soba_and_fsla_end_at_the_same_stationary_point():
    """The exact norm of the hypergradient after 3000 steps."""
    for algorithm, norm in ((b.soba(CASE.problem, **STEPS), 6.8e-7), (b.fsla(CASE.problem, **STEPS), 6.7e-7)):
        last = states(algorithm, 3000).x[-1]
        assert np.linalg.norm(CASE.exact(last)[1]) == pytest.approx(norm, rel=0.05)


def test_error_of_the_first_direction_of_fsla_decays_as_the_product_of_one_minus_weight():
    """This holds for every first direction and every schedule of weights."""
    algorithm = b.fsla(CASE.problem, weight=lambda k: 0.1 / jnp.sqrt(k.astype(float) + 1), **STEPS)
    first = algorithm.step(algorithm.init(CASE.x, CASE.y), CASE.data, None)[0]
    wrong = states(algorithm, 39, start=first._replace(direction=first.direction + 1.0))
    weights = 0.1 / np.sqrt(np.arange(1, 40) + 1)
    errors = wrong.direction - jax.vmap(outer_direction)(Point(wrong.last_x, wrong.y, wrong.v))
    np.testing.assert_allclose(errors, np.cumprod(1 - weights)[:, None] * np.ones(10), atol=1e-12)


def test_a_memory_that_starts_at_zero_is_wrong_for_hundreds_of_steps():
    """FSLA in benchopt's bilevel benchmark starts with d = 0 and last x = 0."""
    # The count starts at 1, so that the memory is used, and the schedule is shifted back by one.
    algorithm = b.fsla(CASE.problem, weight=lambda k: 0.1 / jnp.sqrt(k.astype(float)), **STEPS)
    start = algorithm.init(CASE.x, CASE.y)._replace(last_x=jnp.zeros(10), count=jnp.ones((), jnp.int32))
    run = states(algorithm, 400, start=start)
    errors = jnp.linalg.norm(
        run.direction - jax.vmap(outer_direction)(Point(run.last_x, run.y, run.v)), axis=1
    )
    np.testing.assert_allclose(
        errors[jnp.array([0, 10, 100, 399])], [1.4e-1, 9.1e-2, 2.4e-2, 3.2e-3], rtol=0.05
    )


def test_shared_samples_bound_the_variance_of_the_direction_and_fresh_samples_do_not():
    """At weight 0.1: weight / (2 - weight) = 0.0526, and 9.53 with fresh samples at the previous point."""
    problem = b.Problem(lambda x, y, batch: batch.mean() * x, lambda x, y, batch: 0.5 * y**2)
    algorithm = b.fsla(problem, outer_optimizer=0.0, weight=0.1)
    rows = np.random.default_rng(0).normal(size=8192)
    data = b.minibatches(rows / rows.std(), np.zeros(8192), batch_size=1)
    start = algorithm.init(jnp.zeros(()), jnp.zeros(()))
    keys = jax.random.split(jax.random.key(0), 30_000)
    run = jax.jit(jax.vmap(lambda key: b.advance(algorithm, start, data, key, start=0, steps=60).direction))
    # 30,000 draws: a standard error of 0.8 %.
    assert jnp.var(run(keys)) == pytest.approx(0.1 / 1.9, rel=0.05)

    noise = np.random.default_rng(1).normal(size=(2, 200, 30_000))
    wrong = 0.0
    for fresh, other in zip(*noise, strict=True):
        wrong = fresh + 0.9 * (wrong - other)
    assert np.var(wrong) == pytest.approx((1 + 0.81) / (1 - 0.81), rel=0.05)


def test_hypergradient_of_the_least_squares_problem_of_the_fsla_paper():
    """Our random instance: m = 1000 rows, n = 5 columns, numpy's `RandomState(0)`."""
    rng = np.random.RandomState(0)
    A, u, noise = rng.uniform(size=(1000, 5)), rng.uniform(size=5), rng.normal(size=1000)
    target = A @ u + 0.01 * noise
    C, D = rng.uniform(size=(1000, 5)), rng.uniform(size=(1000, 5))
    e = C @ rng.uniform(size=5) + D @ rng.uniform(size=5) + 0.01 * rng.normal(size=1000)
    problem = b.Problem(
        lambda x, y, batch: jnp.sum((A @ y - target) ** 2),
        lambda x, y, batch: jnp.sum((C @ x + D @ y - e) ** 2),
    )
    solved = jnp.asarray(np.linalg.lstsq(D, e - C @ np.ones(5), rcond=None)[0])
    response = b.implicit(problem, b.descend(problem, 0.1, steps=0), b.cg(30))
    gradient, _, info = b.hypergradient(problem, response, jnp.ones(5), solved, b.full(None, None))
    want = [1133.73010, 1191.58515, 1181.13616, 1179.56635, 1187.30947]
    np.testing.assert_allclose(gradient, want, rtol=1e-6)
    assert info.outer_loss == pytest.approx(1526.70062, rel=1e-8)


def test_saba_srba_storm_and_ma_soba_are_soba_on_full_batches():
    """With tables of zeros, any period, any weight of STORM, and weight 1 of the moving average."""
    # v has its own step size, which each of the algorithms must use.
    settings = STEPS | dict(adjoint_optimizer=0.8)
    want = states(b.soba(CASE.problem, **settings), 40).x
    assert jnp.abs(want - states(b.soba(CASE.problem, **STEPS), 40).x).max() > 1e-3
    for algorithm in (
        b.saba(CASE.problem, **settings),
        b.srba(CASE.problem, period=7, **settings),
        b.fsla(CASE.problem, momentum="all", weight=0.2, **settings),
        b.ma_soba(CASE.problem, weight=1.0, **settings),
    ):
        np.testing.assert_allclose(states(algorithm, 40).x, want, atol=1e-12)


def test_storm_with_a_memory_of_zeros_leaves_the_path_of_soba():
    """Point and direction start at zero instead of at the first point and direction."""
    algorithm = b.fsla(CASE.problem, momentum="all", weight=0.2, **STEPS)
    start = algorithm.init(CASE.x, CASE.y)
    memory = start.estimator._replace(
        point=jax.tree.map(jnp.zeros_like, start.estimator.point), count=jnp.ones((), jnp.int32)
    )
    away = states(algorithm, 40, start=start._replace(estimator=memory)).x
    distance = jnp.linalg.norm(away - states(b.soba(CASE.problem, **STEPS), 40).x, axis=1)
    assert distance.max() > 1e-3


def test_ma_soba_averages_the_outer_direction_alone():
    """h <- (1 - weight) h + weight D_x from h = D_x; y and v move by their plain directions."""

    def step(carry, _):
        (x, y, v), h = carry
        f_x, f_y, g_y, H, J = derivatives(x, y)
        h = jnp.where(jnp.isnan(h), f_x - J @ v, 0.8 * h + 0.2 * (f_x - J @ v))
        point = Point(x - ALPHA * h, y - RHO * g_y, v - RHO * (H @ v - f_y))
        return (point, h), point.x

    start = Point(CASE.x, CASE.y, jnp.zeros(10)), jnp.full(10, jnp.nan)
    want = lax.scan(step, start, length=30)[1]
    np.testing.assert_allclose(states(b.ma_soba(CASE.problem, weight=0.2, **STEPS), 30).x, want, atol=1e-14)


@pytest.mark.parametrize("batch_size", [8, 7], ids=["even", "ragged"])
def test_saba_direction_is_unbiased_for_any_table(batch_size):
    """Its mean over the minibatches, weighted by their rows, is the full direction."""
    task = tasks.quadratic(rows=24, outer_dim=3, inner_dim=4)
    data = task.minibatches(batch_size)
    blocks = b.count_blocks(data)
    oracle = b.implicit_direction(task.problem)
    estimator = b.saga()
    rng = np.random.default_rng(0)
    point = Point(*(jnp.asarray(rng.normal(size=n)) for n in (3, 4, 4)))

    def random_table(count):
        entries = Point(*(jnp.asarray(rng.normal(size=(count, *leaf.shape))) for leaf in point))
        shares = np.full(count, batch_size / 24)
        shares[-1] = 1 - shares[:-1].sum()
        return entries, jax.tree.map(lambda leaf: jnp.tensordot(jnp.asarray(shares), leaf, 1), entries)

    state = SagaState(*(SagaTable(*random_table(count)) for count in blocks))

    def direction(i):
        batch = b.Batch(*(source.view(jnp.array([i * batch_size])) for source in data))
        return estimator.update(
            lambda point, batch: oracle.evaluate(point, batch, None), state, point, batch, None
        )[0]

    directions = [direction(i) for i in range(blocks[0])]
    mean = jax.tree.map(lambda *leaves: sum(leaves) / blocks[0], *directions)
    for got, want in zip(mean, oracle.evaluate(point, data.whole(), None).total, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_tables_and_refreshes_remove_the_noise_that_soba_keeps(key):
    task = tasks.quadratic(rows=50, outer_dim=4, inner_dim=6)
    data = task.minibatches(8)  # a ragged last minibatch of two rows
    x, y = task.start(key)
    ends = {}
    for name, extra in (
        ("soba", {}),
        ("ma_soba", dict(weight=0.5)),
        ("saba", {}),
        ("srba", dict(period=7)),
    ):
        algorithm = getattr(b, name)(
            task.problem, inner_optimizer=0.2, outer_optimizer=task.outer_step, **extra
        )
        run = jax.jit(lambda start, a=algorithm: b.advance(a, start, data, key, start=0, steps=30_000))
        state = run(b.initial_state(algorithm, x, y, data))
        ends[name] = task.metrics(state.x, state.y, task.held)["stationarity"]
    assert ends["saba"] < 1e-7 and ends["srba"] < 1e-7
    assert ends["soba"] > 0.1 and ends["ma_soba"] > 0.1


def test_saba_refuses_a_state_of_another_size_and_data_from_a_host():
    task = tasks.quadratic(rows=24, outer_dim=3, inner_dim=4)
    algorithm = b.saba(task.problem)
    x, y = task.start(jax.random.key(0))
    with pytest.raises(
        ValueError, match=r"\(3, 3\) outer and inner minibatches, got \(2, 3\); make the state"
    ):
        state = algorithm.init(x, y, (2, 3))
        b.run(algorithm, x, y, task.minibatches(8), steps=1, key=jax.random.key(0), state=state)
    rows = task.minibatches(24).whole()
    host = b.Batch(*(b.Host(lambda i, source=source: jax.device_get(source[0])) for source in rows))
    for keeper in (algorithm, b.srba(task.problem)):
        with pytest.raises(
            ValueError, match="make the data by `full` or `minibatches`|use `full` or `minibatches`"
        ):
            b.run(keeper, *task.start(jax.random.key(0)), host, steps=1, key=jax.random.key(0))


def test_tables_refuse_an_oracle_that_reads_several_minibatches():
    oracle = b.neumann_direction(CASE.problem, b.neumann(3, 0.1))
    for estimator in (b.saga(), b.momentum(0.5, of=b.saga())):
        with pytest.raises(ValueError, match="one outer and one inner minibatch, got 1 and 5"):
            b.single_loop(CASE.problem, oracle, estimator, Point(0.1, 0.1, 0.0))


def test_periods_and_probabilities_out_of_range_are_refused():
    with pytest.raises(ValueError, match="period must be at least 1, got 0"):
        b.srba(CASE.problem, period=0)
    with pytest.raises(ValueError, match=r"probability must be in \(0, 1\], got 0.0"):
        b.page(0.0)


def test_fsla_refuses_other_momentum_and_weights():
    with pytest.raises(ValueError, match='"outer" or "all", got \'y\''):
        b.fsla(CASE.problem, momentum="y")
    for weight in (1.5, Point(0.5, 1.0, 0.0)):
        with pytest.raises(ValueError, match=r"weight must be in \(0, 1\], got (1.5|0.0)"):
            b.storm(weight)
    with pytest.raises(ValueError, match=r"weight must be in \(0, 1\], got 1.5"):
        b.fsla(CASE.problem, weight=1.5)
