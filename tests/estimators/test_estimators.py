"""Estimators and oracles: the protocols, limits, and the identities of the papers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as b
from bilevel.testing import check_estimator, check_oracle, count_calls
from bilevel.types import Point
from cases.problems import quartic_case

CASE = quartic_case()
OPTIMIZERS = Point(0.05, 0.3, 0.3)


def path(oracle, estimator, steps=30, optimizers=OPTIMIZERS, start=CASE.y):
    algorithm = b.single_loop(CASE.problem, oracle, estimator, optimizers)
    state, xs = algorithm.init(CASE.x, start), []
    step = jax.jit(algorithm.step)
    for _ in range(steps):
        state, metrics = step(state, CASE.data, jax.random.key(0))
        xs.append(np.asarray(state.x))
    return np.array(xs), state, metrics


def falling(count):
    return 1.0 / (1 + count.astype(float))


LAGS = {"lags": True}
ESTIMATORS = {
    "plain": (b.plain(), {}),
    "storm, weight 1": (b.storm(1.0), {}),
    "storm": (b.storm(0.2), {}),
    "storm, schedule": (b.storm(falling), {}),
    "momentum, weight 1": (b.momentum(1.0), {}),
    "momentum": (b.momentum(0.2), LAGS),
    "momentum, a weight for each": (b.momentum(Point(0.2, 0.5, falling)), LAGS),
    "momentum of saga": (b.momentum(0.2, b.saga()), LAGS),
    "spider": (b.spider(7), {}),
    "page": (b.page(0.3), {}),
    "saga": (b.saga(), {}),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_obeys_the_protocol_and_on_full_data_gives_the_plain_oracle(name):
    estimator, settings = ESTIMATORS[name]
    check_estimator(estimator, **settings)


ORACLES = {
    "implicit": (b.implicit_direction, {}),
    "neumann": (lambda problem: b.neumann_direction(problem, b.neumann(40, 1.0)), {}),
    # The error of the hypergradient is of the order of 1 / penalty.
    "penalty": (lambda problem: b.penalty_direction(problem, 1e6), {"tolerance": 1e-5}),
}


@pytest.mark.parametrize("name", ORACLES)
def test_an_oracle_obeys_the_protocol(name):
    make, settings = ORACLES[name]
    check_oracle(make, **settings)


def noisy_oracle(point, batch):
    return b.Terms(jax.tree.map(lambda leaf: leaf + batch, point), jax.tree.map(jnp.zeros_like, point), 0.0)


# `noisy_oracle` takes numbers for minibatches.
NOISES: list[Any] = [0.5, -1.0, 2.0]


def test_momentum_is_the_exponential_average_from_the_first_direction():
    estimator, point = b.momentum(0.25), Point(jnp.ones(()), jnp.ones(()), jnp.ones(()))
    state, want = estimator.init(point, (1, 1)), None
    for noise in NOISES:
        direction, state, _ = estimator.update(noisy_oracle, state, point, noise, None)
        want = 1 + noise if want is None else 0.75 * want + 0.25 * (1 + noise)
        assert direction.x == pytest.approx(want, rel=1e-14)


def test_storm_corrects_the_last_direction_on_the_current_minibatch():
    estimator = b.storm(0.25)
    points = [Point(*[jnp.asarray(value)] * 3) for value in (1.0, 3.0, -2.0)]
    state, want, last = estimator.init(points[0], (1, 1)), None, points[0]
    for point, noise in zip(points, NOISES, strict=True):
        direction, state, _ = estimator.update(noisy_oracle, state, point, noise, None)
        fresh = float(point.x) + noise
        want = fresh if want is None else fresh + 0.75 * (want - (float(last.x) + noise))
        last = point
        assert direction.x == pytest.approx(want, rel=1e-14)


class Scale(NamedTuple):
    """A minibatch whose direction at p is `(1 + noise) p`; without noise on the whole set."""

    noise: Any

    def whole(self):
        return Scale(jnp.zeros_like(self.noise))


@pytest.mark.parametrize(
    "estimator, periods_are_random", [(b.page(0.2), True), (b.spider(5), False)], ids=["page", "spider"]
)
def test_refreshes_have_their_period_or_probability_and_corrections_in_between(estimator, periods_are_random):
    def oracle(point, batch):
        outer = jax.tree.map(lambda leaf: (1 + batch.noise) * leaf, point)
        return b.Terms(outer, jax.tree.map(jnp.zeros_like, point), 0.0)

    def step(state, read):
        p, noise, key = read
        direction, state, _ = estimator.update(oracle, state, Point(p, p, p), Scale(noise), key)
        return state, direction.x

    p, noise = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4000)))
    reads = p, noise, jax.random.split(jax.random.key(0), 4000)
    d = np.asarray(jax.lax.scan(step, estimator.init(Point(*[p[0]] * 3), (1, 1)), reads)[1])
    refreshed = d == p
    corrected = d[:-1] + np.asarray((1 + noise[1:]) * (p[1:] - p[:-1]))
    np.testing.assert_allclose(d[1:][~refreshed[1:]], corrected[~refreshed[1:]], atol=1e-12)
    assert refreshed[0]
    # 4000 tosses: a standard deviation of 0.006; the period is exact.
    assert refreshed.mean() == pytest.approx(0.2, abs=0.02)
    assert refreshed[::5].all() == (not periods_are_random)


@pytest.mark.parametrize("last", [False, True], ids=["whole", "ragged"])
def test_a_ragged_minibatch_costs_saga_no_more_than_a_whole_one(last):
    problem, counts = count_calls(CASE.problem)
    data = b.minibatches(np.zeros(5), np.zeros(5), batch_size=2)
    algorithm = b.saba(problem, inner_optimizer=0.3, outer_optimizer=0.02)
    picks = jnp.array([4 if last else 2], jnp.int32)
    batch = b.Batch(*(source.view(picks) for source in data))
    step = jax.jit(lambda state: algorithm.step(state, batch, None)[0])
    jax.block_until_ready(step(b.initial_state(algorithm, CASE.x, CASE.y, data)))
    assert counts == algorithm.cost._asdict()


def test_weights_may_follow_a_schedule_and_must_be_in_0_to_1():
    estimator, point = b.momentum(lambda count: 1.0 / (count.astype(float) + 1)), Point(*[jnp.zeros(())] * 3)
    state, noises = estimator.init(point, (1, 1)), list[Any]((1.0, 2.0, 6.0))
    for noise in noises:
        direction, state, _ = estimator.update(noisy_oracle, state, point, noise, None)
    assert direction.x == pytest.approx(3.0)  # the plain average
    for make in (b.momentum, b.storm):
        estimator = make(optax.constant_schedule(3.0))  # capped at 1
        state = estimator.init(point, (1, 1))
        for noise in NOISES[:2]:
            direction, state, _ = estimator.update(noisy_oracle, state, point, noise, None)
        assert direction.x == -1.0
        with pytest.raises(ValueError, match=r"weight must be in \(0, 1\], got 0"):
            make(0.0)


def test_implicit_direction_at_the_solution_is_the_exact_hypergradient():
    y, exact = CASE.exact(CASE.x)
    H = jax.hessian(CASE.problem.inner, argnums=1)(CASE.x, jnp.asarray(y), None)
    v = jnp.linalg.solve(H, jax.grad(CASE.problem.outer, argnums=1)(CASE.x, jnp.asarray(y), None))
    terms = b.implicit_direction(CASE.problem).evaluate(Point(CASE.x, jnp.asarray(y), v), CASE.data, None)
    np.testing.assert_allclose(terms.total.x, exact, rtol=1e-12)
    np.testing.assert_allclose(terms.total.y, 0, atol=1e-13)
    np.testing.assert_allclose(terms.total.v, 0, atol=1e-13)
    assert terms.linear_residual < 1e-13


def test_neumann_direction_at_the_solution_tends_to_the_exact_hypergradient():
    y, exact = CASE.exact(CASE.x)
    oracle = b.neumann_direction(CASE.problem, b.neumann(300, 0.5))
    terms = oracle.evaluate(Point(CASE.x, jnp.asarray(y), ()), CASE.data, None)
    np.testing.assert_allclose(terms.total.x, exact, rtol=1e-11)
    xs, state, _ = path(oracle, b.plain(), steps=800)
    assert np.linalg.norm(CASE.exact(state.x)[1]) < 1e-6 and state.v == ()


def test_penalty_direction_is_off_by_one_over_the_penalty():
    errors, (_, exact), y = [], CASE.exact(CASE.x), CASE.y + 0.5
    np.testing.assert_array_equal(b.penalty_direction(CASE.problem, 10.0).adjoint(y), y)

    @jax.jit
    def direction(penalty):
        def total(y, z):
            return (
                b.penalty_direction(CASE.problem, penalty)
                .evaluate(Point(CASE.x, y, z), CASE.data, None)
                .total
            )

        def descend(_, pair):
            y, z = pair
            d = total(y, z)
            return y - 0.3 * d.y, z - 0.3 * d.v

        return total(*jax.lax.fori_loop(0, 400, descend, (y, y))).x

    for penalty in (10.0, 100.0):
        errors.append(np.linalg.norm(direction(penalty) - exact))
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.15)


def test_oracles_refuse_a_penalty_that_is_not_positive():
    with pytest.raises(ValueError, match="penalty must be positive, got 0"):
        b.penalty_direction(CASE.problem, 0)
