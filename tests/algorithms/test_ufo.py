"""UFO-BLO: the unbiased estimate, the best probability of its coin, and the counterexample of its paper."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

import bilevel as b
from bilevel.keys import key_for
from bilevel.response import Pulled, Response, stepwise
from bilevel.testing import count_calls
from cases.minibatches import ALPHA, BATCH, PROBLEM, RHO, A, B, C, E, X, Y
from cases.problems import few_tasks_case, flat, quartic_case, relative_error


def same(x):
    return x


def toy(y, task):
    """Twice differentiable: quadratic around shift / a up to the radius, then bending into a line."""
    a, shift, radius = task
    z = jnp.abs(y - shift / a)
    far = (0.5 + radius) * z - 1 / 6 - radius**2 / 2 - radius / 2
    between = -((z - radius) ** 3) / 6 + (z - radius) ** 2 / 2 + radius * z - radius**2 / 2
    return a * jnp.where(z <= radius, z**2 / 2, jnp.where(z <= radius + 1, between, far))


TOY = b.Problem(lambda x, y, task: toy(y, task), lambda x, y, task: toy(y, task))


def gradients(problem, task, x, alpha, steps):
    """Return the gradients `(o, e)` of one task that starts at x itself."""
    solver = b.descend(problem, alpha, steps)
    responses = b.first_order(solver, start=same), b.unrolled(solver, start=same)
    return tuple(b.hypergradient(problem, r, x, x, b.full(task, task))[0] for r in responses)


def gradients_of_four_tasks(case):
    """Return the flat `(o, e)` of each of the four tasks."""
    one = jax.jit(lambda task: gradients(case.problem, task, case.x, case.step, 5))
    pairs = [one(jax.tree.map(lambda a, i=i: a[i], case.data.outer.arrays)) for i in range(4)]
    return [(flat(o), flat(e)) for o, e in pairs]


# The estimate


def test_exact_gradient_is_that_of_the_trained_loss():
    solver, found = b.descend(TOY, 0.1, 10), {}

    @jax.jit
    def objective(x, task):
        return toy(solver.solve(x, x, b.full(task, task)), task)

    both = jax.jit(lambda x, task: gradients(TOY, task, x, 0.1, 10))
    for task in ((0.5, 0.0, 2.0), (1.5, 1.0, 2.0)):
        for x in map(jnp.asarray, (-6.0, -2.7, 1.0, 2.6, 5.0)):
            o, e = both(x, task)
            # Step 1e-6: rounding / step.
            want = (objective(x + 1e-6, task) - objective(x - 1e-6, task)) / 2e-6
            assert e == pytest.approx(float(want), abs=1e-8)
            found[task[0], float(x)] = float(o), float(e)
    assert found[0.5, -2.7] == pytest.approx((-0.81842, -0.555746), abs=2e-6)
    assert found[1.5, 2.6] == pytest.approx((0.57094, 0.112403), abs=5e-6)
    assert found[1.5, 5.0] == pytest.approx((1.65079, 0.786794), abs=1e-5)
    # The linear zone has no curvature.
    assert found[0.5, -6.0] == (-1.25, -1.25)


def coin_keys(probability, vectorize=False):
    """Return a key whose coin shows heads and one whose coin shows tails."""
    keys = jax.vmap(jax.random.key)(jnp.arange(200))
    own = [key_for("coin", key) if vectorize else key for key in keys[:60]]
    coins = [bool(jax.random.bernoulli(key, probability)) for key in own]
    return keys[coins.index(True)], keys[coins.index(False)]


def settings(**changes: Any) -> dict[str, Any]:
    return dict(inner_optimizer=0.3, outer_optimizer=1.0, inner_steps=8, start=None) | changes


def step_of(algorithm, case, key):
    state = jax.jit(algorithm.step)(algorithm.init(case.x, case.y), case.data, key)[0]
    return flat(case.x) - flat(state.x)


def test_heads_correct_the_estimate_tails_are_first_order_and_probability_one_is_exact():
    case = quartic_case()
    exact = b.itd_bio(case.problem, inner_optimizer=0.3, outer_optimizer=1.0, inner_steps=8)
    e = step_of(exact, case, None)
    o = step_of(b.fo_blo(case.problem, **settings()), case, None)
    heads, tails = coin_keys(0.2)
    np.testing.assert_allclose(
        step_of(b.ufo_blo(case.problem, probability=1.0, **settings()), case, tails), e, rtol=1e-13
    )
    coin = b.ufo_blo(case.problem, probability=0.2, **settings())
    np.testing.assert_array_equal(step_of(coin, case, tails), o)
    np.testing.assert_allclose(step_of(coin, case, heads), o + (e - o) / 0.2, rtol=1e-12)


@pytest.mark.parametrize("start", [None, lambda x: jnp.tanh(jnp.ones((5, 4)) @ x)])
def test_recomputing_the_path_changes_nothing_but_the_count(start):
    case, key = quartic_case(), jax.random.key(0)
    problem, counts = count_calls(case.problem)
    stored, again = (
        b.ufo_blo(problem, probability=1.0, recompute=recompute, **settings(start=start))
        for recompute in (False, True)
    )
    difference = step_of(stored, case, key) - step_of(again, case, key)
    assert np.abs(difference).max() < 1e-14
    for algorithm, extra in ((stored, 0), (again, 28)):
        step = jax.jit(lambda state, algorithm=algorithm: algorithm.step(state, case.data, key)[0])
        state = algorithm.init(case.x, case.y)
        jax.block_until_ready(step(state))
        for kind in counts:
            counts[kind] = 0
        jax.block_until_ready(step(state))
        assert algorithm.cost == (9 + extra, 8, 8) and counts == algorithm.cost._asdict()


def test_recomputing_needs_an_optimiser_without_a_state():
    case = quartic_case()
    response = stepwise(case.problem, lambda count: 0.1, 3)
    with pytest.raises(ValueError, match="must have no state"):
        b.hypergradient(case.problem, response, case.x, case.y, case.data)


def constant_response(gradient):
    def respond(x, y0, batch, key):
        return y0, lambda w, v: Pulled(gradient, (), 0.0)

    return Response(respond, lambda y: (), 0, b.Cost())


def test_estimate_is_unbiased_with_the_known_variance():
    o, e, q = jnp.array([1.0, 2.0, -1.0]), jnp.array([0.5, 1.0, 0.2]), 0.2
    response = b.unbiased(constant_response(o), constant_response(e), q)

    @jax.jit
    @jax.vmap
    def draw(key):
        return response.respond(o, o, b.full(None, None), key)[1](o, ()).x

    draws = np.asarray(draw(jax.random.split(jax.random.key(0), 400_000)))
    # Three standard errors of the mean are 0.01; of the second moment 1 %.
    np.testing.assert_allclose(draws.mean(0), e, atol=0.01)
    assert np.mean(np.sum(draws**2, 1)) == pytest.approx(12.05, rel=0.01)
    assert np.sum(draws.var(0)) == pytest.approx(10.76, rel=0.01)


@pytest.mark.parametrize("vectorize", [True, False])
def test_steps_over_tasks_are_unbiased_and_separate_coins_have_less_noise(vectorize):
    case, q = few_tasks_case(), 0.25
    algorithm = b.ufo_blo(
        case.problem,
        inner_optimizer=case.step,
        outer_optimizer=1.0,
        inner_steps=5,
        probability=q,
        start=same,
        tasks=True,
        vectorize=vectorize,
    )
    state = algorithm.init(case.x, case.y)

    @jax.jit
    @jax.vmap
    def draw(key):
        return ravel_pytree(algorithm.step(state, case.data, key)[0].x)[0]

    draws = flat(case.x) - np.asarray(draw(jax.random.split(jax.random.key(0), 20_000)))
    corrections = np.array([e - o for o, e in gradients_of_four_tasks(case)])
    spread = np.sum(corrections**2) / 16 if not vectorize else np.sum(corrections.mean(0) ** 2)
    # Three standard errors of a mean of 20,000; the variance within 5 %.
    error = np.linalg.norm(draws.mean(0) - case.exact(case.x)[1])
    assert error < 3 * np.sqrt(3 * spread / 20_000)
    assert np.sum(draws.var(0)) == pytest.approx((1 / q - 1) * spread, rel=0.05)


def test_without_a_start_and_a_direct_term_first_order_never_moves():
    case = quartic_case()
    problem = b.Problem(lambda x, y, batch: case.problem.outer(jnp.zeros(4), y, batch), case.problem.inner)
    algorithm = b.fo_blo(problem, inner_optimizer=0.3)
    result = b.run(algorithm, case.x, case.y, case.data, steps=5, key=jax.random.key(0))
    np.testing.assert_array_equal(result.state.x, case.x)
    heads, _ = coin_keys(0.2)
    plain = case._replace(problem=problem)
    exact = step_of(b.itd_bio(problem, inner_optimizer=0.3, outer_optimizer=1.0, inner_steps=8), plain, None)
    debiased = b.ufo_blo(problem, probability=0.2, **settings())
    np.testing.assert_allclose(step_of(debiased, plain, heads), exact / 0.2, rtol=1e-12)
    # Then D2 = V2, and q = 1 is best.
    state, _ = debiased.step(debiased.init(case.x, case.y), case.data, heads)
    assert state.seen.bias == state.seen.second_moment > 0


def test_any_start_outer_and_inner_loss_give_the_derivative_through_the_loop():
    rng = np.random.default_rng(0)
    p, q = 4, 5
    S, D, M = rng.normal(size=(q, p)), rng.normal(size=(p, q)), rng.normal(size=(p, q))
    diagonal, c = rng.uniform(0.5, 1.5, q), rng.normal(size=q)

    def inner(x, y, batch):
        return 0.5 * diagonal @ y**2 + 0.025 * jnp.sum(y**4) + jnp.sin(x) @ M @ y

    def outer(x, y, batch):
        return 0.5 * jnp.sum((y - c) ** 2) + x @ D @ y + 0.5 * jnp.sum(x**2)

    def start(x):
        return jnp.tanh(S @ x)

    def objective(x):
        y = start(x)
        for _ in range(8):
            y = y - 0.1 * jax.grad(inner, argnums=1)(x, y, None)
        return outer(x, y, None)

    problem, x = b.Problem(outer, inner), jnp.asarray(rng.normal(size=p))
    solver, key = b.descend(problem, 0.1, 8), jax.random.key(0)
    want = jax.grad(objective)(x)
    # The y that the responses are given must play no part.
    y0, data = jnp.full(q, 7.0), b.full(None, None)
    for response in (
        b.unrolled(solver, start=start),
        stepwise(problem, 0.1, 8, start=start),
        stepwise(problem, 0.1, 8, start=start, recompute=True),
        b.unbiased(b.first_order(solver, start=start), b.unrolled(solver, start=start), 1.0),
    ):

        @jax.jit
        def both(x, response=response):
            solve = b.solution(response)
            through = jax.grad(lambda x: outer(x, solve(x, y0, data, key), None))(x)
            return b.hypergradient(problem, response, x, y0, data, key)[0], through

        for got in both(x):
            assert relative_error(got, want) < 1e-10
    o = b.hypergradient(problem, b.first_order(solver, start=start), x, jnp.zeros(q), b.full(None, None))[0]
    y = solver.solve(x, start(x), b.full(None, None))
    f_x, f_y = jax.grad(outer, argnums=(0, 1))(x, y, None)
    np.testing.assert_allclose(o, f_x + jax.jacobian(start)(x).T @ f_y, rtol=1e-12)


@pytest.mark.parametrize("make", ["unbiased", "stepwise"])
def test_second_derivative_through_the_solution(make):
    case = quartic_case()
    solver = b.descend(case.problem, 0.3, 7)
    response = {
        "unbiased": b.unbiased(b.first_order(solver), b.unrolled(solver), 1.0),
        "stepwise": stepwise(case.problem, 0.3, 7),
    }[make]

    def hessian(response):
        solve = b.solution(response)

        def objective(x):
            return case.problem.outer(x, solve(x, case.y, case.data, jax.random.key(0)), None)

        return jax.jit(jax.jacrev(jax.grad(objective)))(case.x)

    np.testing.assert_allclose(hessian(response), hessian(b.unrolled(solver)), atol=1e-12)


def test_solution_follows_the_coin_and_tails_keep_the_adjoint():
    case = quartic_case()
    solver = b.descend(case.problem, 0.3, 7)
    response = b.unbiased(b.first_order(solver), b.implicit(case.problem, solver, b.cg(5)), 0.2)
    solve, v, outcomes = b.solution(response), jnp.ones(5), set()

    @jax.jit
    def both(key):
        def objective(x):
            return case.problem.outer(x, solve(x, case.y, case.data, key), None)

        return b.hypergradient(case.problem, response, case.x, case.y, case.data, key, v), jax.grad(
            objective
        )(case.x)

    for seed in range(8):
        (got, y, info), through = both(jax.random.key(seed))
        np.testing.assert_allclose(through, got, rtol=1e-9)
        tails = bool(np.all(info.v == v))
        assert tails == (info.linear_residual == 0)
        first = jax.grad(case.problem.outer)(case.x, y, None)
        assert tails == bool(np.allclose(got, first, rtol=1e-12, atol=0))
        outcomes.add(tails)
    assert outcomes == {True, False}


# The coin at run time


@pytest.mark.parametrize("tasks", [False, True])
def test_tails_skip_the_products_at_run_time(tasks):
    case = few_tasks_case() if tasks else quartic_case()
    problem, counts = count_calls(case.problem)
    several: dict[str, Any] = dict(tasks=True, vectorize=True, start=same) if tasks else {}
    algorithm = b.ufo_blo(problem, inner_optimizer=0.3, inner_steps=6, probability=0.5, **several)
    state, step = (
        algorithm.init(case.x, case.y),
        jax.jit(lambda state, key: algorithm.step(state, case.data, key)[0]),
    )
    for key, share in zip(coin_keys(0.5, vectorize=tasks), (1, 0), strict=True):
        jax.block_until_ready(step(state, key))
        for kind in counts:
            counts[kind] = 0
        seen = jax.block_until_ready(step(state, key)).seen
        count = 4 if tasks else 1
        assert counts["gradients"] == 7 * count and counts["hessian_products"] == 6 * share * count
        assert seen.exact_draws == share


def test_every_task_of_a_sequence_tosses_its_own_coin():
    case = few_tasks_case()
    problem, counts = count_calls(case.problem)
    algorithm = b.ufo_blo(
        problem, inner_optimizer=0.3, inner_steps=6, probability=0.5, start=same, tasks=True
    )
    state, step = (
        algorithm.init(case.x, case.y),
        jax.jit(lambda state, key: algorithm.step(state, case.data, key)[0]),
    )
    seen = []
    for seed in range(8):
        for kind in counts:
            counts[kind] = 0
        new = jax.block_until_ready(step(state, jax.random.key(seed)))
        assert counts["hessian_products"] == 6 * new.seen.exact_draws
        seen.append(int(new.seen.exact_draws))
    assert len(set(seen)) > 2


def test_cost_of_a_cheap_pullback_that_makes_paths_or_products_of_its_own_is_declared():
    case = quartic_case()
    problem, counts = count_calls(case.problem)
    solver = b.descend(problem, 0.3, 4)
    for cheap in (b.first_order(solver), b.zeroth_order(solver, 3)):
        response = b.unbiased(cheap, b.unrolled(solver), 1.0)
        got = jax.jit(
            lambda x, r=response: b.hypergradient(problem, r, x, case.y, case.data, jax.random.key(0))[0]
        )
        jax.block_until_ready(got(case.x))
        for kind in counts:
            counts[kind] = 0
        jax.block_until_ready(got(case.x))
        assert counts == response.cost.plus(b.Cost(gradients=1))._asdict()
    # One cross product and no Hessian product.
    cheap = b.implicit(problem, solver, b.neumann(0, 0.3))
    assert b.unbiased(cheap, b.unrolled(solver), 0.5).cost.cross_products == 5


def test_unbiased_responses_refuse_to_run_without_a_key():
    case = quartic_case()
    solver = b.descend(case.problem, 0.3, 4)
    response = b.unbiased(b.first_order(solver), b.unrolled(solver), 0.5)
    with pytest.raises(ValueError, match="unbiased needs a key, got None"):
        response.respond(case.x, case.y, case.data, None)
    algorithm = b.ufo_blo(case.problem)
    with pytest.raises(ValueError, match="ufo_blo needs a key, got None"):
        algorithm.step(algorithm.init(case.x, case.y), case.data, None)


def test_fo_itd_bio_from_a_cold_start_is_fo_blo():
    case = quartic_case()
    ends = []
    for algorithm in (
        b.fo_itd_bio(case.problem, inner_optimizer=0.1, inner_steps=2, warm=False),
        b.fo_blo(case.problem, inner_optimizer=0.1, inner_steps=2),
        b.fo_itd_bio(case.problem, inner_optimizer=0.1, inner_steps=2),
    ):
        state = algorithm.init(case.x, case.y)
        ends.append(b.advance(algorithm, state, case.data, jax.random.key(0), start=0, steps=3).x)
    np.testing.assert_array_equal(ends[0], ends[1])
    assert not np.allclose(ends[0], ends[2], rtol=1e-3)


def test_declared_cost_is_the_mean_and_for_an_adaptive_probability_the_maximum():
    problem = quartic_case().problem
    assert b.ufo_blo(problem, probability=0.5).cost == b.Cost(11, 5, 5)
    assert b.ufo_blo(problem, probability=0.2, recompute=True).cost == b.Cost(20, 2, 2)
    assert b.ufo_blo(problem, probability=None).cost == b.Cost(11, 10, 10)
    assert b.ufo_blo(problem).seeds_in_sequence


# The best probability


def test_best_probability_is_the_minimum_of_time_on_a_grid():
    grid = np.linspace(0.001, 1, 200_001)
    cases = {
        (10, 1, 11, 10): (0.22098, 0.34960, 0.55308),
        (10, 1, 11, 55): (0.08123, 0.14907, 0.27357),
        (10, 8, 11, 55): (0.18322, 0.89443, 1.0),
        (1000, 1, 10, 45): (0.01030, 0.01491, 0.02160),
    }
    for (second_moment, bias, cheap, exact), want in cases.items():
        for exponent, q in zip((0.5, 1.0, 2.0), want, strict=True):
            time = (second_moment + (1 / grid - 1) * bias) ** exponent * (cheap + grid * exact)
            got = b.optimal_probability(second_moment, bias, cheap, exact, exponent)
            assert got == pytest.approx(grid[np.argmin(time)], abs=2e-5)
            assert got == pytest.approx(q, abs=2e-5)


def test_best_probability_can_be_an_interior_minimum_although_the_slope_at_one_is_negative():
    assert b.optimal_probability(1.0, 1.9, 0.1, 1.0, 0.5) == pytest.approx(0.11185, abs=2e-5)
    # This minimum is worse than q = 1, or does not exist.
    assert b.optimal_probability(1.0, 1.9, 0.5, 1.0, 0.5) == 1
    # The time is 10.4 at the local minimum of 0.284, and 7.45 at q = 1.
    assert b.optimal_probability(1.0, 5.0, 1.0, 6.452, 0.5) == 1
    assert b.optimal_probability(1.0, 1.9, 0.1, 1.0, 1.0) == 1


def test_best_probability_without_bias_is_zero_and_with_all_bias_one():
    for exponent in (0.5, 1.0, 2.0):
        assert b.optimal_probability(10.0, 0.0, 11, 10, exponent) == 0
    assert (
        b.optimal_probability(5.0, 5.0, 11, 10, 1.0) == 1
        and b.optimal_probability(5.0, 5.0, 11, 10, 2.0) == 1
    )
    # D2 = V2 makes the equation linear.
    assert b.optimal_probability(5.0, 5.0, 11, 55, 0.5) == pytest.approx(11 / 55)


@pytest.fixture(scope="module")
def moments():
    """Return second moment V2 and bias D2 of the second toy on 10,000 points, for three inner step sizes."""
    points = jnp.linspace(-50, 50, 10_000)

    @jax.jit
    def squares(alpha):
        def pair(a, centre):
            return jax.vmap(lambda x: gradients(TOY, (a, centre, 400.0), x, alpha, 10))(points)

        (o1, e1), (o2, e2) = pair(0.5, 0.0), pair(1.5, 10.0)
        return jnp.max((e1**2 + e2**2) / 2), jnp.max(((o1 - e1) ** 2 + (o2 - e2) ** 2) / 2)

    return {alpha: tuple(map(float, squares(alpha))) for alpha in (0.001, 0.01, 0.05)}


def test_moments_and_best_probabilities_of_the_second_toy(moments):
    want = {
        0.001: (3708.28, 0.78590, 0.01074, 0.01527, 0.02170, 0.00931),
        0.01: (2229.32, 53.212, 0.11002, 0.16401, 0.24449, 0.11188),
        0.05: (273.273, 232.116, 0.84612, 1.0, 1.0, 1.0),
    }
    for alpha, (second_moment, bias) in moments.items():
        got = [b.optimal_probability(second_moment, bias, 11, 10, exponent) for exponent in (0.5, 1.0, 2.0)]
        got.append(b.optimal_probability(second_moment, bias, 11, 55, 2.0))
        # The expected values are rounded to 4 or 5 digits.
        np.testing.assert_allclose((second_moment, bias, *got), want[alpha], rtol=6e-4)
        np.testing.assert_allclose((second_moment, bias), want[alpha][:2], rtol=1e-4)


def test_bounds_from_smoothness_hold_and_are_loose(moments):
    slope, curvature = 0.75 + 1.5 * 400, 1.5
    want = {0.001: (18.2, 1220), 0.01: (195.8, 1396), 0.05: (1370, 2524)}
    for alpha, (second_moment, bias) in moments.items():
        growth = 1 + alpha * curvature
        common = slope * curvature * alpha * np.sum(growth ** np.arange(1, 11))
        bounds = 2 * common, slope + slope * growth**10 + common
        np.testing.assert_allclose(bounds, want[alpha], rtol=3e-3)
        assert np.sqrt(bias) < bounds[0] / 10 and np.sqrt(second_moment) < bounds[1] / 10


# The adaptive probability


@pytest.mark.parametrize("least", [0.05, 1.0])
def test_adaptive_scheme_measures_the_bias_for_every_probability_of_the_coin(least):
    case = quartic_case()
    algorithm = b.ufo_blo(case.problem, probability=None, least_probability=least, **settings())
    state = algorithm.init(case.x, case.y)
    assert state.probability == least
    exact = b.itd_bio(case.problem, inner_optimizer=0.3, outer_optimizer=1.0, inner_steps=8)
    e = step_of(exact, case, None)
    o = step_of(b.fo_blo(case.problem, **settings()), case, None)
    heads, tails = coin_keys(0.05)
    step = jax.jit(algorithm.step)
    if least < 1:
        assert step(state, case.data, tails)[0].seen.weight == 0
    new, _ = step(state, case.data, heads)
    bias = np.sum((o - e) ** 2)
    np.testing.assert_allclose(new.seen.bias / new.seen.weight, bias, rtol=1e-12)
    np.testing.assert_allclose(new.seen.second_moment / new.seen.weight, np.sum(e**2), rtol=1e-12)
    # The released code takes this for the bias: 361 times too much, or nothing.
    moved = flat(case.x) - flat(new.x)
    np.testing.assert_allclose(np.sum((moved - e) ** 2), (1 / least - 1) ** 2 * bias, rtol=1e-12, atol=1e-20)
    best = b.optimal_probability(np.sum(e**2), bias, 9, 8)
    assert new.probability == pytest.approx(np.clip(best, least, 1), rel=1e-12)


@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_adaptive_probability_depends_on_the_exponent_and_on_the_cost_of_an_exact_draw(exponent):
    """With |e|^2 = 10 and |e - o|^2 = 1 the best probability lies between the floor and 1."""
    case = quartic_case()
    for recompute, price in ((False, 8), (True, 36)):
        algorithm = b.ufo_blo(
            case.problem,
            probability=None,
            exponent=exponent,
            recompute=recompute,
            least_probability=1e-3,
            decay=0.0,
            **settings(),
        )
        state = algorithm.init(case.x, case.y)
        state = state._replace(seen=state.seen._replace(second_moment=10.0, bias=1.0, weight=jnp.ones(())))
        # Tails do not change the statistics.
        _, tails = coin_keys(0.6)
        new, _ = jax.jit(algorithm.step)(state, case.data, tails)
        assert new.seen.exact_draws == 0
        want = float(b.optimal_probability(10.0, 1.0, 9, price, exponent))
        assert new.probability == pytest.approx(want, rel=1e-12) and 0.01 < want < 0.6


@pytest.mark.parametrize("vectorize", [True, False])
def test_running_estimates_follow_the_papers_sums(vectorize):
    """Every exact draw makes one update, in the order of the draws, with the means over its tasks."""
    case = few_tasks_case()
    algorithm = b.ufo_blo(
        case.problem,
        inner_optimizer=case.step,
        outer_optimizer=0.0,
        inner_steps=5,
        probability=None,
        start=same,
        tasks=True,
        vectorize=vectorize,
        least_probability=1.0,
        decay=0.9,
    )
    state, step = algorithm.init(case.x, case.y), jax.jit(algorithm.step)
    for seed in range(2):
        state, _ = step(state, case.data, jax.random.key(seed))
    values = [(np.sum(e**2), np.sum((o - e) ** 2), 1.0) for o, e in gradients_of_four_tasks(case)]
    draws = [np.mean(values, 0)] * 2 if vectorize else values * 2
    sums = np.zeros(3)
    for value in draws:
        sums = 0.9 * sums + 0.1 * np.array(value)
    np.testing.assert_allclose(state.seen[:3], sums, rtol=1e-12)
    assert state.seen.exact_draws == len(draws)
    assert state.seen.weight == pytest.approx(1 - 0.9 ** len(draws))


@pytest.mark.parametrize(
    "settings, draws",
    [({}, 1), (dict(tasks=True, start=same), 3), (dict(tasks=True, start=same, vectorize=True), 1)],
    ids=["one task", "tasks", "tasks at once"],
)
def test_counts_and_running_means_of_bfloat16_variables_are_wider(settings, draws):
    """Integers above 256 do not exist in bfloat16, and a mean with a decay of 0.999 stands still."""
    problem = b.Problem(
        lambda x, y, batch: jnp.sum((y - 1) ** 2) + 0 * x.sum(), lambda x, y, batch: jnp.sum((y - x) ** 2)
    )
    algorithm = b.ufo_blo(
        problem, outer_optimizer=0.0, inner_steps=1, probability=1.0, decay=0.999, **settings
    )
    state, data = algorithm.init(*jnp.zeros((2, 1), jnp.bfloat16)), b.full(jnp.zeros(3), None)

    @jax.jit
    def run(state):
        def step(state, _):
            return algorithm.step(state, data, jax.random.key(0))[0], None

        return lax.scan(step, state, length=600)[0]

    new = run(state)
    assert new.x.dtype == jnp.bfloat16 and new.seen.exact_draws.dtype == jnp.int32
    assert new.seen.exact_draws == 600 * draws
    # Rounding of 1,800 float32 sums.
    assert new.seen.weight == pytest.approx(1 - 0.999 ** (600 * draws), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("probability", [0.5, None])
def test_a_coin_keeps_state_stable_resumes_vmaps_over_steps_and_stays_float32(probability):
    case = few_tasks_case()
    data = b.minibatches(case.data.outer.arrays, None, batch_size=2)

    def build(rate):
        return b.ufo_blo(
            case.problem,
            inner_optimizer=case.step,
            outer_optimizer=rate,
            inner_steps=5,
            probability=probability,
            start=same,
            tasks=True,
            least_probability=0.5,
        )

    algorithm, key = build(0.1), jax.random.key(0)
    state = algorithm.init(case.x, case.y)
    new, _ = jax.eval_shape(algorithm.step, state, case.data, key)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), new) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    run = partial(b.run, algorithm, case.x, case.y, data, key=key, log_every=3)
    whole, half = run(steps=9).state, run(steps=3).state
    rest = run(steps=9, state=half, start=3).state
    for got, want in zip(jax.tree.leaves(rest), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(got, want)

    def last(rate):
        algorithm = build(rate)
        return flat_of(b.advance(algorithm, algorithm.init(case.x, case.y), data, key, start=0, steps=9).x)

    together = jax.vmap(last)(jnp.array([0.03, 0.1]))
    np.testing.assert_allclose(together[1], flat(whole.x), rtol=1e-10)
    x, y, tasks = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (case.x, case.y, case.data))
    for leaf in jax.tree.leaves(jax.eval_shape(algorithm.step, algorithm.init(x, y), tasks, key)):
        assert leaf.dtype in (jnp.float32, jnp.int32)


def flat_of(pytree):
    return ravel_pytree(pytree)[0]


# Steps on explicit minibatches, in numpy


@pytest.mark.parametrize("name", ["ufo_blo", "fo_blo", "fo_itd_bio"])
def test_every_algorithm_reads_the_minibatches_of_its_paper(name):
    """In the second step the two BLO methods start at the first y again."""
    chosen = dict(probability=0.4) if name == "ufo_blo" else {}
    algorithm = getattr(b, name)(PROBLEM, inner_optimizer=RHO, outer_optimizer=ALPHA, inner_steps=4, **chosen)
    state, x, start = algorithm.init(jnp.asarray(X), jnp.asarray(Y)), X, Y
    step = jax.jit(algorithm.step)
    for key in coin_keys(0.4) if name == "ufo_blo" else [None, None]:
        state, metrics = step(state, BATCH, key)
        path = [start]
        for i in range(4):
            path.append(path[-1] - RHO * (A[i] @ path[-1] + C[i] @ x))
        w, m = path[-1] - B[0], 0
        for i in reversed(range(4)):
            m, w = m + RHO * C[i].T @ w, w - RHO * A[i] @ w
        heads = key is not None and bool(jax.random.bernoulli(key, 0.4))
        before, x = x, x - ALPHA * (E[0] - (m / 0.4 if heads else 0))
        if name == "fo_itd_bio":
            start = path[-1]
        np.testing.assert_allclose(state.x, x, atol=1e-12)
        np.testing.assert_allclose(state.y, path[-1], atol=1e-12)
        want = 0.5 * path[-1] @ A[3] @ path[-1] + path[-1] @ C[3] @ before
        assert metrics["inner_loss"] == pytest.approx(float(want), rel=1e-10)


# The counterexample


def counterexample(D):
    """Return two toy tasks on which first-order steps end where the gradient is sqrt(2 D), and constants."""
    a = np.array([0.5, 1.5])
    p = (1 - 0.1 * a) ** 10
    gap = abs((a @ p**2) * p[1] / (a @ p) - p[1] ** 2)
    centres = np.array([0.0, 2 * np.sqrt(2 * D) / gap])
    radius = abs(centres[1] / a[1]) + 1
    tasks = (jnp.asarray(a), jnp.asarray(centres), jnp.full(2, radius))
    return tasks, centres @ p / (a @ p), centres @ p**2 / (a @ p**2), centres[1], radius


OVER_TOYS: dict[str, Any] = dict(inner_optimizer=0.1, outer_optimizer=1.0, start=same, tasks=True)


@pytest.mark.parametrize(
    "D, constants",
    [
        (0.01, (7.10159, 5.73439, 2.35105)),
        (0.06, (17.39527, 12.59685, 5.75887)),
        (1.0, (71.01589, 48.34393, 23.51048)),
    ],
)
def test_first_order_limit_has_an_arbitrarily_large_gradient(D, constants):
    tasks, limit, stationary, b2, radius = counterexample(D)
    np.testing.assert_allclose((b2, radius, limit), constants, atol=1e-5)
    exact = b.ufo_blo(TOY, probability=1.0, **OVER_TOYS)
    first = b.fo_blo(TOY, **OVER_TOYS)

    def slope(algorithm, x):
        x = jnp.asarray(x)
        state = algorithm.init(x, x)
        _, metrics = jax.jit(algorithm.step)(state, b.full(tasks, None), jax.random.key(0))
        return float(metrics["gradient_norm"]), float(metrics["outer_loss"])

    assert slope(first, limit)[0] < 1e-12 and slope(exact, stationary)[0] < 1e-12
    assert slope(exact, limit)[0] == pytest.approx(np.sqrt(2 * D), abs=1e-12)
    if D == 0.06:
        assert stationary == pytest.approx(2.84028, abs=1e-5)
        assert slope(exact, limit)[1] == pytest.approx(1.98150, abs=1e-5)
        assert slope(exact, stationary)[1] == pytest.approx(1.47599, abs=1e-5)


@pytest.mark.slow
def test_first_order_steps_end_at_5_76_and_debiased_ones_at_the_stationary_2_84():
    """200 runs of 10,000 steps 10 / k, one task per step: |M'| stays at 0.35, or goes to zero."""
    tasks, limit, stationary, _, _ = counterexample(0.06)
    factory = {
        "first": partial(b.fo_blo, TOY),
        "debiased": partial(b.ufo_blo, TOY, probability=0.1),
    }

    @partial(jax.jit, static_argnames="name")
    def simulate(name, keys):
        algorithm = factory[name](
            inner_optimizer=0.1, outer_optimizer=lambda count: 10 / (1 + count.astype(float)), start=same
        )

        def one(key):
            start_key, key = jax.random.split(key)
            x = jax.random.uniform(start_key, minval=-10.0, maxval=30.0)

            def step(state, key):
                pick, coin = jax.random.split(key)
                task = jax.tree.map(lambda a: a[jax.random.bernoulli(pick).astype(int)], tasks)
                return algorithm.step(state, b.full(task, task), coin)[0], None

            return lax.scan(step, algorithm.init(x, x), jax.random.split(key, 10_000))[0].x

        return jax.vmap(one)(keys)

    exact = b.ufo_blo(TOY, probability=1.0, **OVER_TOYS)

    @jax.jit
    @jax.vmap
    def slope(x):
        return exact.step(exact.init(x, x), b.full(tasks, None), jax.random.key(0))[1]["gradient_norm"]

    keys = jax.random.split(jax.random.key(0), 200)
    first, debiased = simulate("first", keys), simulate("debiased", keys)
    # The final x of one run scatters by 0.08 (first order) and 0.36 (debiased).
    assert np.mean(first) == pytest.approx(limit, abs=0.03)
    assert 0.34 < np.mean(slope(first)) < 0.355 and np.min(slope(first)) > 0.3
    assert 2.76 < np.mean(debiased) < 2.96
    assert np.mean(slope(debiased)) < 0.05


def test_quadratic_tasks_have_the_closed_forms_of_both_gradients():
    rng = np.random.default_rng(0)
    count, d, alpha, steps = 20, 10, 0.1, 10
    basis = np.linalg.qr(rng.normal(size=(count, d, d)))[0]
    even = np.arange(count)[:, None] % 2 == 0
    eigenvalues = np.where(even, rng.uniform(0.2, 0.5, (count, d)), rng.uniform(1, 1.5, (count, d)))
    H = np.einsum("tij,tj,tkj->tik", basis, eigenvalues, basis)
    c = np.where(even, -1, 1) * 2 / np.sqrt(d) + 0.5 * rng.normal(size=(count, d))

    def loss(x, y, task):
        H, c = task
        return 0.5 * (y - c) @ H @ (y - c)

    P = np.linalg.matrix_power(np.eye(d) - alpha * H, steps)
    O, E = H @ P, P @ H @ P
    x = np.full(d, 5.0)
    data = b.full((jnp.asarray(H), jnp.asarray(c)), None)
    chosen: dict[str, Any] = dict(inner_optimizer=alpha, outer_optimizer=1.0, start=same, tasks=True)
    problem = b.Problem(loss, loss)
    for algorithm, matrices in (
        (b.fo_blo(problem, **chosen), O),
        (b.fo_blo(problem, vectorize=False, **chosen), O),
        (b.fomaml(problem, inner_optimizer=alpha, outer_optimizer=1.0, inner_steps=10), O),
        (b.ufo_blo(problem, probability=1.0, **chosen), E),
        (b.ufo_blo(problem, probability=1.0, vectorize=True, **chosen), E),
        (b.maml(problem, inner_optimizer=alpha, outer_optimizer=1.0, inner_steps=10), E),
    ):
        state = algorithm.init(jnp.asarray(x), jnp.asarray(x))
        state, _ = jax.jit(algorithm.step)(state, data, jax.random.key(0))
        want = np.einsum("tij,tj->i", matrices, x - c) / count
        np.testing.assert_allclose(x - state.x, want, rtol=1e-11)


@pytest.mark.parametrize(
    "chosen, rule",
    [
        (dict(probability=0.0), r"probability must be in \(0, 1\], got 0.0"),
        (dict(probability=1.5), r"probability must be in \(0, 1\], got 1.5"),
        (dict(least_probability=0.0), r"least_probability must be in \(0, 1\], got 0.0"),
        (dict(decay=1.0), r"decay must be in \[0, 1\), got 1.0"),
    ],
)
def test_probabilities_and_decay_outside_their_intervals_are_refused(chosen, rule):
    with pytest.raises(ValueError, match=rule):
        b.ufo_blo(quartic_case().problem, **chosen)


def test_unbiased_responses_refuse_probabilities_above_one():
    solver = b.descend(quartic_case().problem, 0.1, 1)
    with pytest.raises(ValueError, match=r"probability must be in \(0, 1\], got 2"):
        b.unbiased(b.first_order(solver), b.unrolled(solver), 2)
