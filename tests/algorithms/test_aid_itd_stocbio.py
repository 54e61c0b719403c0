"""AID-BiO, ITD-BiO, stocBiO, HOAG and truncation: closed forms, error floors and biases.

Papers: Ji, Yang and Liang, ICML 2021 (AID-BiO, ITD-BiO, stocBiO); Shaban et al., AISTATS 2019 (truncation);
Pedregosa, ICML 2016 (HOAG).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import bilevel as b
from bilevel import tasks
from bilevel.calculus import gradient_and_products
from bilevel.cleaning.losses import per_row
from bilevel.sampling import Stacked
from bilevel.testing import count_calls
from cases.minibatches import ALPHA, BATCH, PROBLEM, RHO, A, B, C, E, X, Y, inner
from cases.problems import quartic_case, relative_error

TASK = tasks.worst_case(dim=60, outer_convexity=0.1, inner_convexity=0.05)


def last_stationarity(algorithm, steps, task=TASK):
    """Return `|grad Phi|`, by its closed form, after `steps` steps from zero."""
    data = task.data

    def step(state, _):
        return algorithm.step(state, data, None)[0], None

    state = jax.jit(lambda state: lax.scan(step, state, length=steps)[0])(algorithm.init(*task.start(None)))
    return float(task.metrics(state.x, state.y, task.held)["stationarity"])


def gradient_of_one_step(factory, problem, x, y, **settings):
    """Return the hypergradient that a double loop subtracts from x in its first step, of size 1."""
    algorithm = factory(problem, outer_optimizer=1.0, **settings)
    step = jax.jit(lambda state: algorithm.step(state, b.full(None, None), None)[0])
    return np.asarray(x - step(algorithm.init(x, y)).x)


# One hypergradient, three ways


@pytest.mark.parametrize(
    "factory, settings",
    [
        (b.aid_bio, {"linear_solver": b.cg(60)}),
        (b.itd_bio, {}),
        (b.stocbio, {"terms": 300}),
    ],
    ids=["aid_bio", "itd_bio", "stocbio"],
)
def test_aid_itd_and_stocbio_tend_to_the_closed_form(factory, settings):
    task = tasks.worst_case(dim=30, outer_convexity=0.1, inner_convexity=0.2)
    x = jnp.asarray(np.random.default_rng(0).normal(size=30))
    got = gradient_of_one_step(
        factory, task.problem, x, jnp.zeros(30), inner_optimizer=task.inner_step, inner_steps=300, **settings
    )
    best, curvature, _ = task.held
    assert relative_error(got, curvature @ (x - best)) < 1e-10


def quartic_path(steps, alpha, rng):
    """Return a problem, a point x, and the inner path of g_y = A y + 0.1 y^3 + B'x from 0."""
    A, B = rng.uniform(0.5, 1.5, 5), rng.normal(size=(4, 5))
    c, D, x = rng.normal(size=5), rng.normal(size=(5, 4)), 0.3 * rng.normal(size=4)

    def train(x):
        path = [np.zeros(5)]
        for _ in range(steps):
            y = path[-1]
            path.append(y - alpha * (A * y + 0.1 * y**3 + B.T @ x))
        return path

    problem = b.Problem(
        lambda x, y, batch: 0.5 * jnp.sum((y - c) ** 2) + 0.5 * jnp.sum(x**2) + x @ D.T @ y,
        lambda x, y, batch: 0.5 * jnp.sum(A * y**2) + 0.025 * jnp.sum(y**4) + x @ B @ y,
    )
    return problem, x, train, A, B, c, D


def test_itd_is_the_sum_of_products_in_the_paper_and_the_difference_quotient_of_the_path():
    alpha, steps = 0.3, 7
    problem, x, train, A, B, c, D = quartic_path(steps, alpha, np.random.default_rng(0))
    path = train(x)
    f_y = path[-1] - c + D @ x
    want = x + D.T @ path[-1]
    for t in range(steps):
        # H is diagonal, so the product over later steps is entry-wise.
        factors = np.prod([1 - alpha * (A + 0.3 * y**2) for y in path[t + 1 : steps]], axis=0)
        want = want - alpha * B @ (factors * f_y)
    got = gradient_of_one_step(
        b.itd_bio, problem, jnp.asarray(x), jnp.zeros(5), inner_optimizer=alpha, inner_steps=steps
    )
    np.testing.assert_allclose(got, want, rtol=1e-12)

    def value(x):
        return float(problem.outer(jnp.asarray(x), jnp.asarray(train(x)[-1]), None))

    slopes = [(value(x + 1e-6 * e) - value(x - 1e-6 * e)) / 2e-6 for e in np.eye(4)]
    np.testing.assert_allclose(got, slopes, atol=1e-8)


# Error floors


@pytest.mark.parametrize(
    "inner_steps, products, warm_y, warm_v, want",
    [
        (10, 2, True, True, None),
        (10, 2, True, False, 0.188),
        (10, 2, False, True, 0.592),
        (10, 2, False, False, 0.682),
        (20, 4, True, True, None),
        (20, 4, True, False, 0.0566),
        (20, 4, False, True, 0.177),
        (20, 4, False, False, 0.182),
    ],
)
def test_aid_has_an_error_floor_unless_both_y_and_v_start_warm(inner_steps, products, warm_y, warm_v, want):
    algorithm = b.aid_bio(
        TASK.problem,
        inner_optimizer=TASK.inner_step,
        outer_optimizer=0.5 * TASK.outer_step,
        inner_steps=inner_steps,
        linear_solver=b.cg(products),
        warm_y=warm_y,
        warm_v=warm_v,
    )
    got = last_stationarity(algorithm, 3000)
    assert got < 1e-10 if want is None else got == pytest.approx(want, rel=0.05)


@pytest.mark.parametrize(
    "inner_steps, warm, cold",
    [
        (5, 0.135, 1.57),
        (10, 0.0654, 0.652),
        (20, 0.0253, 0.199),
        (40, 0.00633, 0.0373),
        (80, 0.000619, 0.00270),
    ],
)
def test_itd_has_a_floor_that_falls_with_the_inner_steps_and_with_warm_starts(inner_steps, warm, cold):
    settings: dict[str, Any] = dict(
        inner_optimizer=TASK.inner_step, outer_optimizer=0.5 * TASK.outer_step, inner_steps=inner_steps
    )
    assert last_stationarity(b.itd_bio(TASK.problem, **settings), 2000) == pytest.approx(warm, rel=0.05)
    # With a cold start at every outer step it is the algorithm `reverse`.
    assert last_stationarity(b.reverse(TASK.problem, **settings), 2000) == pytest.approx(cold, rel=0.05)


def test_itd_from_a_cold_start_is_reverse():
    case = quartic_case()
    settings: dict[str, Any] = dict(inner_optimizer=0.3, outer_optimizer=0.05, inner_steps=4)
    states = []
    for algorithm in (b.reverse(case.problem, **settings), b.itd_bio(case.problem, warm=False, **settings)):
        state = algorithm.init(case.x, case.y)
        for _ in range(3):
            state, _ = jax.jit(algorithm.step)(state, case.data, None)
        states.append(state)
    np.testing.assert_array_equal(states[0].x, states[1].x)


def test_aid_by_fixed_point_has_the_floor_of_itd_unless_the_adjoint_starts_warm():
    settings: dict[str, Any] = dict(
        inner_optimizer=TASK.inner_step,
        outer_optimizer=0.5 * TASK.outer_step,
        linear_solver=b.richardson(10, TASK.inner_step),
    )
    assert last_stationarity(b.aid_bio(TASK.problem, **settings), 3000) < 1e-10
    # Once y has converged, ten terms from zero equal back-propagation through ten steps.
    floor = last_stationarity(b.aid_bio(TASK.problem, warm_v=False, **settings), 3000)
    assert floor == pytest.approx(0.0654, rel=0.05)


# Truncation


@pytest.mark.parametrize("last", [0, 1, 4, 12])
def test_truncated_at_the_inner_solution_is_a_neumann_sum_of_the_same_length(last):
    H, J, f_x, f_y, x, y = frozen()
    terms = [np.linalg.matrix_power(np.eye(60) - TASK.inner_step * H, q) @ f_y for q in range(last)]
    got = gradient_of_one_step(
        b.truncated, TASK.problem, x, y, inner_optimizer=TASK.inner_step, inner_steps=12, last=last
    )
    np.testing.assert_allclose(got, f_x - TASK.inner_step * J @ sum(terms, np.zeros(60)), atol=1e-12)


def test_truncated_to_all_steps_is_reverse_or_itd_with_a_warm_start():
    case = quartic_case()
    settings: dict[str, Any] = dict(inner_optimizer=0.3, outer_optimizer=0.05, inner_steps=6)
    pairs = [
        (b.truncated(case.problem, last=6, **settings), b.reverse(case.problem, **settings)),
        (b.truncated(case.problem, last=6, warm=True, **settings), b.itd_bio(case.problem, **settings)),
    ]
    for algorithms in pairs:
        states = [algorithm.init(case.x, case.y) for algorithm in algorithms]
        for _ in range(2):
            states = [jax.jit(a.step)(s, case.data, None)[0] for a, s in zip(algorithms, states, strict=True)]
        np.testing.assert_allclose(states[0].x, states[1].x, rtol=1e-13)


def test_truncated_trains_on_every_minibatch_and_differentiates_the_last_ones():
    y, path = Y, [Y]
    for i in range(4):
        y = y - RHO * (A[i] @ y + C[i] @ X)
        path.append(y)
    w, total = y - B[0], 0
    for i in (3, 2):
        total, w = total + C[i].T @ w, w - RHO * A[i] @ w
    algorithm = b.truncated(PROBLEM, inner_optimizer=RHO, outer_optimizer=ALPHA, inner_steps=4, last=2)
    state, _ = algorithm.step(algorithm.init(jnp.asarray(X), jnp.asarray(Y)), BATCH, None)
    np.testing.assert_allclose(state.x, X - ALPHA * (E[0] - RHO * total), rtol=1e-12)


# Linear solves


def frozen():
    """Return H, J, f_x, f_y of `TASK` at a random x and y*(x), then x and y."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=60))
    (_, J), (_, H) = jax.hessian(TASK.problem.inner, argnums=(0, 1))(x, x, None)
    y = x - jnp.linalg.solve(H, jax.grad(TASK.problem.inner, argnums=1)(x, x, None))
    f_x, f_y = jax.grad(TASK.problem.outer, argnums=(0, 1))(x, y, None)
    return *map(np.asarray, (H, J, f_x, f_y)), x, y


def test_k_fixed_point_steps_from_zero_are_k_terms_of_the_series_and_stocbio_has_one_more():
    H, J, f_x, f_y, x, y = frozen()
    rate = TASK.inner_step
    total = rate * sum(np.linalg.matrix_power(np.eye(60) - rate * H, q) @ f_y for q in range(6))
    settings: dict[str, Any] = dict(inner_optimizer=rate, inner_steps=0)
    fixed_point = gradient_of_one_step(
        b.aid_bio, TASK.problem, x, y, linear_solver=b.richardson(6, rate), **settings
    )
    series = gradient_of_one_step(b.stocbio, TASK.problem, x, y, terms=5, **settings)
    np.testing.assert_allclose(fixed_point, f_x - J @ total, atol=1e-12)
    np.testing.assert_allclose(series, f_x - J @ total, atol=1e-12)


def test_one_step_of_cg_solves_for_an_eigenvector():
    H, J, *_, x, y = frozen()
    vector = jnp.asarray(np.linalg.eigh(H)[1][:, 7])
    problem = b.Problem(lambda x, y, batch: vector @ y, TASK.problem.inner)
    got = gradient_of_one_step(b.aid_bio, problem, x, y, linear_solver=b.cg(1), inner_steps=0)
    np.testing.assert_allclose(got, -J @ np.linalg.solve(H, vector), atol=1e-12)


# Minibatches of the factors of stocBiO


def samples():
    """Return 400 matrices of rank two plus 0.2 I, their bound L, and a right-hand side."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(400, 10, 2))
    gram = np.einsum("nij,nkj->nik", a, a)
    scale = 4 * np.linalg.eigvalsh(gram.mean(0))[-1]
    matrices = gram / scale + 0.2 * np.eye(10)
    return matrices, max(np.linalg.eigvalsh(m)[-1] for m in matrices), rng.normal(size=10)


SCHEDULE = (80, 75, 70, 66, 62, 58, 54, 51, 48, 45, 42, 39, 37, 35, 33, 31, 29, 27, 25, 24)


def test_decreasing_batches_follow_the_formula_of_the_paper():
    _, top, _ = samples()
    assert top == pytest.approx(3.2145, abs=1e-4)
    assert b.decreasing_batches(20, 4, 1 / top, 0.2) == SCHEDULE and sum(SCHEDULE) == 931


@pytest.mark.parametrize("counts, rmse", [(SCHEDULE, 0.034), ((46,) * 20, 0.040), (None, 0.286)])
def test_larger_minibatches_for_the_first_factors_beat_equal_ones_and_neither_is_biased(counts, rmse):
    got_bias, got_rmse = bias_and_rmse(b.neumann(20, 1 / samples()[1], counts=counts), 1000)
    assert got_rmse == pytest.approx(rmse, rel=0.1) and got_bias < 3 * got_rmse / np.sqrt(1000)


def test_truncation_error_of_twenty_terms_is_below_its_bound():
    matrices, top, vector = samples()
    mean, truth = matrices.mean(0), np.linalg.solve(matrices.mean(0), vector)
    v, _ = b.neumann(20, 1 / top).solve(lambda i: lambda w: jnp.asarray(mean) @ w, jnp.asarray(vector), None)
    error = np.linalg.norm(v - truth) / np.linalg.norm(truth)
    assert error == pytest.approx(0.067, abs=1e-3)
    assert error < (1 - 0.2 / top) ** 21 * np.linalg.norm(vector) / (0.2 * np.linalg.norm(truth))


def bias_and_rmse(solver, draws, reuse=0):
    """Return both relative to the deterministic sum; with `reuse`, one minibatch serves all factors."""
    matrices, top, vector = samples()
    stack, rhs = jnp.asarray(matrices), jnp.asarray(vector)
    exact, _ = b.neumann(20, 1 / top).solve(lambda i: lambda w: stack.mean(0) @ w, rhs, rhs)

    def draw(key):
        pick_key, key = jax.random.split(key)
        picks = jax.random.randint(pick_key, (reuse or solver.draws,), 0, 400)
        operator = (
            (lambda i: lambda w: stack[picks].mean(0) @ w)
            if reuse
            else lambda i: lambda w: stack[picks[i]] @ w
        )
        return solver.solve(operator, rhs, rhs, key)[0]

    found = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), draws))
    error = (found - exact[None]) / jnp.linalg.norm(exact)
    return np.linalg.norm(error.mean(0)), float(jnp.sqrt(jnp.mean(jnp.sum(error**2, axis=1))))


def test_one_minibatch_reused_for_all_factors_is_biased_and_noisier():
    bias, rmse = bias_and_rmse(b.neumann(20, 1 / samples()[1]), 4000, reuse=46)
    assert rmse == pytest.approx(0.136, rel=0.1) and bias == pytest.approx(0.0146, rel=0.3)
    # The random error of the mean of unbiased draws is a third of this.
    assert bias > 3 * rmse / np.sqrt(4000)


def test_a_random_product_is_unbiased_and_noisier_than_the_sum():
    bias, rmse = bias_and_rmse(b.random_product(21, 1 / samples()[1]), 20_000)
    assert rmse == pytest.approx(0.840, rel=0.1) and bias < 3 * rmse / np.sqrt(20_000)


def test_counts_average_consecutive_minibatches():
    counts, terms = (3, 1, 2), [Y - B[0]]
    algorithm = b.stocbio(
        PROBLEM, inner_optimizer=RHO, outer_optimizer=ALPHA, inner_steps=2, terms=3, counts=counts
    )
    assert algorithm.draws == b.Draws(1, 9) and algorithm.cost == b.Cost(3, 6, 1)
    x, y = X, Y
    state = algorithm.init(jnp.asarray(X), jnp.asarray(Y))
    for _ in range(2):
        for i in range(2):
            y = y - RHO * (A[i] @ y + C[i] @ x)
        terms = [y - B[0]]
        for batches in ([2, 3, 4], [5], [6, 7]):
            terms.append(terms[-1] - RHO * A[batches].mean(0) @ terms[-1])
        x = x - ALPHA * (E[0] - C[8].T @ (RHO * sum(terms)))
        state, _ = algorithm.step(state, BATCH, None)
    np.testing.assert_allclose(state.x, x, rtol=1e-12)


def test_products_with_counts_equal_the_declared_cost(key):
    case = quartic_case()
    problem, calls = count_calls(case.problem)
    algorithm = b.stocbio(problem, inner_steps=2, terms=3, counts=(3, 1, 2))
    batch = b.Batch(b.full(None, None).outer, Stacked(jnp.zeros(algorithm.draws.inner)))
    jax.block_until_ready(
        jax.jit(lambda state: algorithm.step(state, batch, key)[0])(algorithm.init(case.x, case.y))
    )
    assert calls == algorithm.cost._asdict()


def test_counts_of_one_give_the_plain_series_in_both_precisions():
    for dtype in (jnp.float32, jnp.float64):
        rhs, diagonal = jnp.arange(3, dtype=dtype), jnp.linspace(0.2, 1, 3, dtype=dtype)

        def operator(i, diagonal=diagonal):
            return lambda w: diagonal * w

        got, _ = b.neumann(4, 0.5, counts=(1,) * 4).solve(operator, rhs, rhs)
        want, _ = b.neumann(4, 0.5).solve(operator, rhs, rhs)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("counts", [(1, 2), (1, 0, 2)])
def test_counts_must_be_one_positive_number_for_each_factor(counts):
    with pytest.raises(ValueError, match="counts must be 3 positive numbers"):
        b.neumann(3, 0.1, counts=counts)


def test_stocbio_needs_a_rate_when_the_inner_optimiser_is_not_a_step_size():
    with pytest.raises(ValueError, match="rate must be given"):
        b.stocbio(quartic_case().problem, inner_optimizer=optax.adam(0.1))


# HOAG


def hoag_path(steps, **settings):
    algorithm = b.hoag(
        TASK.problem, inner_optimizer=TASK.inner_step, outer_optimizer=0.5 * TASK.outer_step, **settings
    )

    def measured(state, _):
        before = state.x
        state, metrics = algorithm.step(state, TASK.data, None)
        f_y = jax.grad(TASK.problem.outer, argnums=1)(before, state.y, None)
        slope = TASK.metrics(state.x, state.y, TASK.held)["stationarity"]
        return state, (metrics["inner_residual"], metrics["linear_residual"] * jnp.linalg.norm(f_y), slope)

    state = algorithm.init(*TASK.start(None))
    return [np.asarray(values) for values in jax.jit(lambda s: lax.scan(measured, s, length=steps)[1])(state)]


def test_hoag_solves_both_problems_to_a_falling_tolerance_and_has_no_floor():
    inner_residual, linear_residual, slope = hoag_path(1000, tolerance=0.1, decay=0.97)
    levels = 0.1 * 0.97 ** np.arange(1000)
    # Conjugate gradients update their residual, which differs from the true one by rounding.
    assert (inner_residual <= levels * (1 + 1e-9)).all() and (linear_residual <= levels + 1e-12).all()
    # The solves stop once they reach the tolerance.
    assert np.median(inner_residual / levels) > 0.5
    _, _, constant = hoag_path(1000, tolerance=0.1, decay=1.0)
    assert slope[-1] < 1e-6 and constant[-1] > 1e-2


def test_hoag_accepts_a_schedule_of_tolerances():
    inner_residual, _, _ = hoag_path(50, tolerance=lambda k: 0.1 / (k.astype(float) + 1) ** 2)
    assert (inner_residual <= 0.1 / (np.arange(50) + 1) ** 2).all()


def test_hoag_with_tolerance_zero_is_aid():
    settings: dict[str, Any] = dict(
        inner_optimizer=TASK.inner_step, outer_optimizer=0.5 * TASK.outer_step, inner_steps=7
    )
    pair = (
        b.hoag(TASK.problem, tolerance=0.0, linear_steps=3, **settings),
        b.aid_bio(TASK.problem, linear_solver=b.cg(3), **settings),
    )
    states = [algorithm.init(*TASK.start(None)) for algorithm in pair]
    for _ in range(3):
        states = [jax.jit(a.step)(s, TASK.data, None)[0] for a, s in zip(pair, states, strict=True)]
    np.testing.assert_allclose(states[0].x, states[1].x, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(states[0].v, states[1].v, rtol=1e-12, atol=1e-15)


def test_hoag_uses_one_minibatch_for_each_solve():
    algorithm = b.hoag(PROBLEM, inner_optimizer=RHO, outer_optimizer=ALPHA, tolerance=1e-13)
    assert algorithm.draws == b.Draws(1, 3)
    state, x = algorithm.init(jnp.asarray(X), jnp.asarray(Y)), X
    for _ in range(2):
        y = -np.linalg.solve(A[0], C[0] @ x)
        state, metrics = algorithm.step(state, BATCH, None)
        want = inner(x, y, (A[2], C[2]))
        x = x - ALPHA * (E[0] - C[2].T @ np.linalg.solve(A[1], y - B[0]))
        np.testing.assert_allclose(state.x, x, atol=1e-12)
        assert metrics["inner_loss"] == pytest.approx(float(want), rel=1e-10)


def test_hoag_stops_calling_the_losses_at_its_tolerance():
    case = quartic_case()
    problem, calls = count_calls(case.problem)
    algorithm = b.hoag(problem, inner_optimizer=0.3, tolerance=0.5, inner_steps=500, linear_steps=50)
    step = jax.jit(lambda state: algorithm.step(state, case.data, None)[0])
    jax.block_until_ready(step(algorithm.init(case.x, case.y)))
    assert calls["gradients"] < 20 and calls["hessian_products"] < 10


def test_hoag_under_vmap_equals_separate_runs():
    case = quartic_case()

    def last(tolerance):
        algorithm = b.hoag(case.problem, inner_optimizer=0.3, outer_optimizer=0.05, tolerance=tolerance)
        step = jax.jit(lambda state: algorithm.step(state, case.data, None)[0])
        return step(step(algorithm.init(case.x, case.y))).x

    together = jax.vmap(last)(jnp.array([0.3, 0.01]))
    np.testing.assert_allclose(together[0], last(jnp.asarray(0.3)), rtol=1e-12)
    np.testing.assert_allclose(together[1], last(jnp.asarray(0.01)), rtol=1e-12)


# Hyper-cleaning


def test_hyper_cleaning_oracles_equal_automatic_differentiation():
    """Closed forms of g_y, H V and the cross product; x has one entry for each training row."""
    rng = np.random.default_rng(0)
    rows, columns, classes, penalty = 12, 5, 3, 1e-3
    features, labels = rng.normal(size=(rows, columns)), rng.integers(0, classes, rows)
    x, W, V = rng.normal(size=rows), rng.normal(size=(columns, classes)), rng.normal(size=(columns, classes))
    weights = 1 / (1 + np.exp(-x))
    logits = features @ W
    P = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    R = P - np.eye(classes)[labels]
    image = features @ V
    g_y = features.T @ (weights[:, None] * R) / rows + 2 * penalty * W
    H_V = features.T @ (weights[:, None] * (P * image - P * (P * image).sum(1, keepdims=True))) / rows
    J_V = weights * (1 - weights) * (R * image).sum(1) / rows

    problem = per_row(lambda y, features: features @ y, penalty)
    batch = {
        "features": jnp.asarray(features),
        "labels": jnp.asarray(labels, jnp.int32),
        "row": jnp.arange(rows, dtype=jnp.int32),
    }
    got, products = gradient_and_products(
        problem.inner, jnp.asarray(x), jnp.asarray(W), batch, jnp.asarray(V)
    )
    np.testing.assert_allclose(got, g_y, atol=1e-12)
    np.testing.assert_allclose(products.hessian, H_V + 2 * penalty * V, atol=1e-12)
    np.testing.assert_allclose(products.cross, J_V, atol=1e-12)


@pytest.mark.parametrize("unknown", ["labels", "weights"])
def test_aid_bio_with_fewer_rows_than_weights_does_not_diverge_and_reports_the_residual(unknown):
    """H has rank 5 of 10 and f_y lies outside its range: |v| once grew to 1e33."""
    rng = np.random.default_rng(0)
    rows, held_out = jnp.asarray(rng.normal(size=(5, 10))), jnp.asarray(rng.normal(size=(20, 10)))
    truth = jnp.asarray(rng.normal(size=10))
    targets, wanted = rows @ truth + 0.3, held_out @ truth

    def inner(x, y, batch):
        if unknown == "labels":
            return 0.5 * jnp.mean((rows @ y - targets - x) ** 2)
        return 0.5 * jnp.mean(jax.nn.sigmoid(x) * (rows @ y - targets) ** 2)

    def outer(x, y, batch):
        return 0.5 * jnp.mean((held_out @ y - wanted) ** 2)

    problem = b.Problem(outer, inner)

    def run_for(damping):
        algorithm = b.aid_bio(
            problem, inner_optimizer=0.3, outer_optimizer=0.1, linear_solver=b.cg(10, damping=damping)
        )
        key = jax.random.key(0)
        data = b.full(None, None)
        return b.run(algorithm, jnp.zeros(5), jnp.zeros(10), data, steps=300, key=key, log_every=100)

    for damping in (0.0, 0.1):
        result = run_for(damping)
        state, history = result.state, result.history
        assert np.isfinite(state.x).all() and history["outer_loss"][-1] < 1.1 * history["outer_loss"][0]
        assert np.linalg.norm(state.v) < (1e6 if damping == 0 else 100)
        residual = history["linear_residual"][-1]
        assert residual > 0.5 if damping == 0 else residual < 1e-6
