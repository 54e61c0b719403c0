"""BSA, TTSA, SUSTAIN, STABLE, MRBO and VRBO: their parts, and the minibatches that they read."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

import bilevel as b
from bilevel.driver import make_plan
from bilevel.estimators.momentum import StormState
from bilevel.sampling import Stacked
from bilevel.types import Point
from cases.minibatches import ALPHA, BATCH, PROBLEM, RHO, A, B, C, E, X, Y
from cases.problems import logistic_case, quadratic_case

LOGISTIC = logistic_case()
STAR = LOGISTIC.exact(LOGISTIC.x)[0]
HESSIAN = np.asarray(jax.hessian(LOGISTIC.problem.inner, argnums=1)(LOGISTIC.x, STAR, LOGISTIC.data.inner[0]))
COTANGENT = np.asarray(
    jax.grad(LOGISTIC.problem.outer, argnums=1)(LOGISTIC.x, jnp.asarray(STAR), LOGISTIC.data.outer[0])
)
FACTOR = np.eye(10) - 0.4 * HESSIAN


def operator(i):
    return lambda w: jnp.asarray(HESSIAN) @ w


def powers(count):
    return [np.linalg.matrix_power(FACTOR, i) @ COTANGENT for i in range(count)]


# Parts


def test_random_product_is_a_uniform_choice_whose_mean_is_the_neumann_sum():
    keys = jax.random.split(jax.random.key(0), 3000)
    counts = np.asarray(jax.vmap(lambda key: jax.random.randint(key, (), 0, 6))(keys))
    solve = b.random_product(6, 0.4).solve
    v = jax.jit(jax.vmap(lambda key: solve(operator, jnp.asarray(COTANGENT), None, key)[0]))(keys)
    products = [6 * 0.4 * power for power in powers(6)]
    np.testing.assert_allclose(v, np.array(products)[counts], atol=1e-14)
    # 500 of each expected, with a standard deviation of 20.
    assert np.abs(np.bincount(counts, minlength=6) - 500).max() < 80
    series, _ = b.neumann(5, 0.4).solve(operator, jnp.asarray(COTANGENT), None)
    np.testing.assert_allclose(np.mean(products, axis=0), series, atol=1e-12)


def test_random_product_reads_its_factors_in_order_and_returns_its_residual(key):
    stack = jnp.asarray(A[:4])
    w = jnp.asarray(Y)
    for seed in range(6):
        key = jax.random.key(seed)
        v, residual = b.random_product(5, 0.3).solve(lambda i: lambda w: stack[i] @ w, w, None, key)
        want = Y
        for i in range(int(jax.random.randint(key, (), 0, 5))):
            want = want - 0.3 * A[i] @ want
        np.testing.assert_allclose(v, 5 * 0.3 * want, rtol=1e-13)
        left = np.linalg.norm(Y - A[3] @ v) / np.linalg.norm(Y)
        assert residual == pytest.approx(left, rel=1e-12)


def test_random_product_of_one_term_needs_no_product_but_a_term_and_a_key():
    solver = b.random_product(1, 0.3)
    v, _ = solver.solve(operator, jnp.ones(10), None, jax.random.key(0))
    np.testing.assert_allclose(v, 0.3)
    assert solver.products == 0 and solver.draws == 1
    with pytest.raises(ValueError, match="terms must be at least 1, got 0"):
        b.random_product(0, 0.3)
    with pytest.raises(ValueError, match="random_product needs a key, got None"):
        solver.solve(operator, jnp.ones(10), None)


@pytest.mark.parametrize("terms, right, official", [(3, 0.68, 0.38), (10, 0.36, 0.47), (50, 0.021, 1.23)])
def test_sum_of_stocbio_is_not_the_sum_of_the_authors_code(terms, right, official):
    """In the authors' code eta multiplies the last vector only, and the first term is missing."""
    truth = np.linalg.solve(HESSIAN, COTANGENT)
    v, _ = b.neumann(terms, 0.4).solve(operator, jnp.asarray(COTANGENT), None)
    series = powers(terms + 1)
    wrong = 0.4 * series[-1] + sum(series[1:])
    for got, error in ((v, right), (wrong, official)):
        # The expected errors are rounded to two digits.
        assert np.linalg.norm(got - truth) / np.linalg.norm(truth) == pytest.approx(error, rel=0.02)
    # The ratio is 2.0 to 2.3, rounded to two digits.
    assert 1.95 <= np.linalg.norm(wrong) / np.linalg.norm(v) < 2.35


# STABLE


def test_stable_prediction_of_the_inner_solution_is_second_order():
    """From an exact y and without an inner step, y follows x up to the square of the move."""
    lengths, plain, predicted = (0.1, 0.01, 0.001), [], []
    for length in lengths:
        step = float(length / np.linalg.norm(LOGISTIC.exact(LOGISTIC.x)[1]))
        algorithm = b.stable(LOGISTIC.problem, inner_optimizer=0.0, outer_optimizer=step)
        state, _ = jax.jit(algorithm.step)(algorithm.init(LOGISTIC.x, jnp.asarray(STAR)), LOGISTIC.data, None)
        assert np.linalg.norm(state.x - LOGISTIC.x) == pytest.approx(length, rel=1e-6)
        new = LOGISTIC.exact(state.x)[0]
        plain.append(np.linalg.norm(new - STAR))
        predicted.append(np.linalg.norm(new - state.y))
    slopes = np.diff(np.log10([plain, predicted])) / np.diff(np.log10(lengths))
    np.testing.assert_allclose(slopes[0], 1, atol=0.05)
    np.testing.assert_allclose(slopes[1], 2, atol=0.05)


@pytest.mark.parametrize("weight", [0.2, 0.5, 1.0])
def test_stable_on_full_batches_carries_the_exact_matrices(weight):
    """y has two leaves; the matrices are flattened in the order of its leaves."""
    case = quadratic_case()
    f, g = case.problem.outer, case.problem.inner

    def cubic(x, y, batch):
        return g(x, y, batch) + 0.05 * jnp.sum(y["u"] ** 4) + 0.1 * jnp.sum(y["w"] ** 2) * x["a"][0] ** 2

    algorithm = b.stable(
        b.Problem(f, cubic), weight=weight, inner_optimizer=0.3, outer_optimizer=0.02, inner_size=5
    )

    def step(state, _):
        state, _ = algorithm.step(state, case.data, None)
        vector, shaped = ravel_pytree(state.last.y)

        def slope(x, vector):
            return jax.grad(lambda vector: cubic(x, shaped(vector), None))(vector)

        exact = [jax.jacfwd(slope, argnums=i)(state.last.x, vector) for i in (0, 1)]
        return state, jax.tree.map(lambda want, got: jnp.abs(want - got).max(), exact, list(state.matrices))

    errors = lax.scan(step, algorithm.init(case.x, case.y), length=20)[1]
    assert all(error.max() < 1e-12 for error in jax.tree.leaves(errors))


def test_stable_keeps_its_hessian_above_the_given_convexity():
    algorithm = b.stable(PROBLEM, convexity=1.0, inner_size=3)
    state, _ = jax.jit(algorithm.step)(algorithm.init(jnp.asarray(X), jnp.asarray(Y)), BATCH, None)
    values, vectors = np.linalg.eigh(A[0])
    assert values[0] < 1 < values[-1]
    want = vectors * np.maximum(values, 1) @ vectors.T
    np.testing.assert_allclose(state.matrices.hessian, want, atol=1e-13)


def test_stable_predicts_no_move_of_y_where_x_does_not_move():
    frozen = b.stable(PROBLEM, outer_optimizer=0.0, inner_optimizer=RHO)
    state, _ = jax.jit(frozen.step)(frozen.init(jnp.asarray(X), jnp.asarray(Y)), BATCH, None)
    np.testing.assert_allclose(state.y, Y - RHO * (A[0] @ Y + C[0] @ X), rtol=1e-12)


@pytest.mark.parametrize(
    "settings, rule",
    [
        (dict(weight=0.0), r"weight must be in \(0, 1\], got 0"),
        (dict(convexity=0.0), "convexity must be positive, got 0"),
        (dict(inner_size=0), "inner_size must be at least 1, got 0"),
    ],
)
def test_stable_refuses_wrong_settings(settings, rule):
    with pytest.raises(ValueError, match=rule):
        b.stable(PROBLEM, **settings)


def test_mrbo_and_vrbo_refuse_wrong_settings():
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (b.mrbo, dict(inner_weight=0.0), "inner_weight must be positive, got 0"),
        (b.mrbo, dict(outer_weight=-1.0), "outer_weight must be positive, got -1"),
        (b.mrbo, dict(scale=0.0), "scale must be positive, got 0"),
        (b.mrbo, dict(offset=0.0), "offset must be positive, got 0"),
        (b.mrbo, dict(inner_optimizer=lambda step: 0.1), "rate must be given"),
        (b.vrbo, dict(period=0), "period must be at least 1, got 0"),
        (b.vrbo, dict(inner_steps=-1), "inner_steps must be at least 0, got -1"),
        (b.vrbo, dict(refresh=0), "refresh must be at least 1, got 0"),
    ]
    for factory, settings, rule in refused:
        with pytest.raises(ValueError, match=rule):
            factory(PROBLEM, **settings)


# SUSTAIN


def variance(problem, data, terms, weight, **settings):
    """Return the variance over time of the direction of x in SUSTAIN at a frozen point."""
    algorithm = b.sustain(
        problem,
        inner_optimizer=0.0,
        outer_optimizer=0.0,
        rate=0.5,
        terms=terms,
        weight=weight,
        weight_exponent=0,
        **settings,
    )
    plan = make_plan(algorithm.draws, data, jax.random.key(0), 0, 20_000)

    def step(state, i):
        state, _ = algorithm.step(state, *plan.read(data, i))
        return state, state.estimator.direction.x

    start = algorithm.init(jnp.zeros(()), jnp.zeros(()))
    return float(jnp.var(jax.jit(lambda: lax.scan(step, start, jnp.arange(20_000))[1])()[100:]))


def test_sustain_both_points_see_the_same_minibatch():
    """At a frozen point the variance is weight / (2 - weight) of the plain one, otherwise 180 times more."""
    problem = b.Problem(lambda x, y, batch: batch.mean() * x, lambda x, y, batch: 0.5 * y**2)
    data = b.minibatches(np.random.default_rng(0).normal(size=4096), np.zeros(4096), batch_size=1)
    # 20,000 steps with a correlation over 20: a standard error of 5 %.
    assert variance(problem, data, 1, 0.1) == pytest.approx(0.0526, rel=0.15)


def test_sustain_both_points_see_the_same_number_of_factors():
    """On full data the number of factors p is the only noise: v = K eta (1 - eta)^p."""
    problem = b.Problem(lambda x, y, batch: y, lambda x, y, batch: 0.5 * y**2 + x * y)
    plain = np.var(6 * 0.5 * 0.5 ** np.arange(6))
    assert variance(problem, b.full(None, None), 6, 0.1) == pytest.approx(plain * 0.1 / 1.9, rel=0.15)


DIRECT = logistic_case(direct=True)
LOOPS = {
    # One term makes the random product certain.
    "sustain": (b.sustain, dict(terms=1, rate=0.4, exponent=0, weight=0.3), b.neumann(0, 0.4)),
    "mrbo": (
        b.mrbo,
        dict(terms=9, rate=0.4, exponent=0, scale=1, inner_weight=0.3, outer_weight=0.3),
        b.neumann(9, 0.4),
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_momentum_on_full_batches_is_the_plain_path_but_not_from_a_zero_memory(name):
    """A memory that starts at zero subtracts the direction at the origin in the first step."""
    factory, settings, linear = LOOPS[name]
    algorithm = factory(DIRECT.problem, inner_optimizer=0.5, outer_optimizer=0.1, **settings)
    oracle = b.neumann_direction(DIRECT.problem, linear)
    plain = b.single_loop(DIRECT.problem, oracle, b.plain(), Point(0.1, 0.5, 0.0))

    def path(algorithm, spoil=lambda state: state):
        def step(state, _):
            state, _ = algorithm.step(state, DIRECT.data, jax.random.key(0))
            return state, state.x

        return lax.scan(step, spoil(algorithm.init(DIRECT.x, DIRECT.y)), length=40)[1]

    def zero_memory(state):
        nothing = jax.tree.map(jnp.zeros_like, Point(state.x, state.y, ()))
        return state._replace(estimator=StormState(nothing, nothing, jnp.ones((), jnp.int32)))

    want = path(plain)
    np.testing.assert_allclose(path(algorithm), want, atol=1e-12)
    assert jnp.abs(path(algorithm, zero_memory) - want).max() > 1e-3


# Steps on explicit minibatches, in numpy


def series(w, first, terms):
    total = w
    for i in range(terms):
        w = w - RHO * A[first + i] @ w
        total = total + w
    return RHO * total


def random_series(w, first, terms, key, rate=RHO):
    for i in range(int(jax.random.randint(key, (), 0, terms))):
        w = w - rate * A[first + i] @ w
    return terms * rate * w


def g_y(x, y, i):
    return A[i] @ y + C[i] @ x


def bsa(x, y, k, key, memory, inner_steps=2, exponents=(0.5, 0.5), rate=RHO):
    for i in range(inner_steps):
        y = y - RHO / (k + 1) ** exponents[0] * g_y(x, y, i)
    v = random_series(y - B[0], inner_steps, 4, key, rate)
    return x - ALPHA / (k + 1) ** exponents[1] * (E[0] - C[inner_steps + 3].T @ v), y, None


def ttsa(x, y, k, key, memory):
    return bsa(x, y, k, key, memory, inner_steps=1, exponents=(0.4, 0.6))


def own_rate(x, y, k, key, memory):
    return bsa(x, y, k, key, memory, inner_steps=1, exponents=(0.2, 0.7), rate=0.2)


def momentum(now, before, memory, share):
    return now if memory is None else now + (1 - share) * (memory[1] - before)


def sustain(x, y, k, key, memory):
    def directions(x, y):
        v = random_series(y - B[0], 1, 4, key)
        return np.concatenate([E[0] - C[4].T @ v, g_y(x, y, 0)])

    before = None if memory is None else directions(*memory[0])
    d = momentum(directions(x, y), before, memory, 0.5 / (k + 1) ** (2 / 3))
    decay = (k + 1) ** (-1 / 3)
    return x - ALPHA * decay * d[:2], y - RHO * decay * d[2:], ((x, y), d)


def mrbo(x, y, k, key, memory):
    def directions(x, y):
        return np.concatenate([E[0] - C[4].T @ series(y - B[0], 1, 3), g_y(x, y, 0)])

    eta = [2 / (8 + i) ** (1 / 3) for i in (k - 1, k)]
    shares = np.repeat([0.3 * eta[0] ** 2, 0.6 * eta[0] ** 2], [2, 3])
    before = None if memory is None else directions(*memory[0])
    d = momentum(directions(x, y), before, memory, shares)
    return x - ALPHA * eta[1] * d[:2], y - RHO * eta[1] * d[2:], ((x, y), d)


def vrbo(x, y, k, key, memory):
    def directions(x, y, i):
        v = series(y - B[i], 3 * i + 1, 1)
        return np.concatenate([E[i] - C[3 * i + 2].T @ v, g_y(x, y, 3 * i)])

    # Steps 0 and 2 refresh on the samples 2 and 3, which the two corrections do not read.
    d = memory if k % 2 else (directions(x, y, 2) + directions(x, y, 3)) / 2
    new = x - ALPHA * d[:2]
    d = d + directions(new, y, 0) - directions(x, y, 0)
    later = y - RHO * d[2:]
    return new, later, d + directions(new, later, 1) - directions(new, y, 1)


def stable(x, y, k, key, memory):
    # A quadratic has the same H and J at both points, so the minibatch cancels from the second step on.
    H, J = A[0], C[0].T
    v = np.linalg.solve(H, y - B[0])
    new = x - ALPHA * (E[0] - J @ v)
    return new, y - RHO * g_y(x, y, 0) - np.linalg.solve(H, J.T @ (new - x)), None


REFERENCES = {
    bsa: dict(inner_steps=2, terms=4),
    ttsa: dict(terms=4),
    own_rate: dict(terms=4, rate=0.2, inner_exponent=0.2, outer_exponent=0.7),
    sustain: dict(terms=4),
    mrbo: dict(terms=3, outer_weight=0.3, inner_weight=0.6),
    vrbo: dict(terms=1, inner_steps=1, period=2, refresh=2),
    stable: dict(weight=0.3),
}


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda function: function.__name__)
def test_every_algorithm_reads_the_minibatches_of_its_paper(reference):
    factory = getattr(b, reference.__name__, b.ttsa)
    algorithm = factory(PROBLEM, inner_optimizer=RHO, outer_optimizer=ALPHA, **REFERENCES[reference])
    assert algorithm.draws.inner <= len(A)
    state = algorithm.init(jnp.asarray(X), jnp.asarray(Y))
    step = jax.jit(algorithm.step)
    x, y, memory = X, Y, None
    # Keys whose random products have 0 to 3 factors.
    for k, key in enumerate(jax.random.split(jax.random.key(1), 5)):
        state, _ = step(state, BATCH, key)
        x, y, memory = reference(x, y, k, key, memory)
        np.testing.assert_allclose(state.x, x, atol=1e-12)
        np.testing.assert_allclose(state.y, y, atol=1e-12)


@pytest.mark.slow
def test_vrbo_refreshes_on_the_whole_set_every_period():
    rows = np.arange(4)
    data = b.minibatches(jnp.asarray(B[rows]), (jnp.asarray(A[rows]), jnp.asarray(C[rows])), batch_size=2)
    problem = b.Problem(
        lambda x, y, batch: 0.5 * jnp.sum((y - batch.mean(0)) ** 2),
        lambda x, y, batch: 0.5 * y @ batch[0].mean(0) @ y + y @ batch[1].mean(0) @ x,
    )
    algorithm = b.vrbo(problem, inner_optimizer=RHO, outer_optimizer=ALPHA, inner_steps=1, period=3, terms=2)
    plan = make_plan(algorithm.draws, data, jax.random.key(0), 0, 7)
    H, J, c = A[rows].mean(0), C[rows].mean(0).T, B[rows].mean(0)

    def exact(x, y):
        w = y - c
        terms = [w, w - RHO * H @ w]
        return -J @ (RHO * sum([*terms, terms[1] - RHO * H @ terms[1]]))

    state = algorithm.init(jnp.asarray(X), jnp.asarray(Y))
    step = jax.jit(algorithm.step)
    for k in range(7):
        new, metrics = step(state, *plan.read(data, k))
        taken = (np.asarray(state.x) - np.asarray(new.x)) / ALPHA
        apart = np.abs(taken - exact(np.asarray(state.x), np.asarray(state.y))).max()
        assert (apart < 1e-12) == (k % 3 == 0)
        assert metrics["gradient_norm"] == pytest.approx(np.linalg.norm(taken), rel=1e-10)
        state = new


def test_stable_reads_one_minibatch_at_both_points():
    """The inner loss is not quadratic, so H and J depend on the minibatch and on the point."""
    problem = b.Problem(
        PROBLEM.outer, lambda x, y, batch: PROBLEM.inner(x, y, batch) + 0.1 * jnp.sum(batch[1] @ x * y**3)
    )

    def matrices(x, y, i):
        return A[i] + np.diag(0.6 * (C[i] @ x) * y), C[i].T + 0.3 * C[i].T * y**2

    algorithm = b.stable(problem, inner_optimizer=RHO, outer_optimizer=ALPHA, weight=0.3)
    state, step = algorithm.init(jnp.asarray(X), jnp.asarray(Y)), jax.jit(algorithm.step)
    x, y, before = X, Y, None
    for i in range(3):
        batch = b.Batch(BATCH.outer, Stacked(jax.tree.map(lambda a, i=i: a[i : i + 1], BATCH.inner.arrays)))
        state, _ = step(state, batch, None)
        H, J = matrices(x, y, i)
        if before:
            old_H, old_J = matrices(*before[:2], i)
            H, J = H + 0.7 * (before[2] - old_H), J + 0.7 * (before[3] - old_J)
        new = x - ALPHA * (E[0] - J @ np.linalg.solve(H, y - B[0]))
        slope = g_y(x, y, i) + 0.3 * (C[i] @ x) * y**2
        before = x, y, H, J
        x, y = new, y - RHO * slope - np.linalg.solve(H, J.T @ (new - x))
        np.testing.assert_allclose(state.x, x, atol=1e-12)
        np.testing.assert_allclose(state.y, y, atol=1e-12)
