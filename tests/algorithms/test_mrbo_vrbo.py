"""MRBO and VRBO on two toy problems; `est` is the estimator of the hypergradient that both share.

Toy A: g_y = A y - B'x, f_y = y - c, f_x = 0.1 x. Toy B: g_y = A y + 0.1 y^3 - B'sin x, f as in toy A.
A, B and c are means over 200 rows or over a sample of them. A whole `est` uses one sample, as it did
when the expected errors were measured.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bilevel as b
from bilevel.sampling import Full, Stacked
from bilevel.types import Point

ROWS, DIM, TERMS = 200, 8, 20
RNG = np.random.default_rng(0)
A = RNG.uniform(0.5, 1.5, size=(ROWS, DIM))
B = 0.15 * RNG.normal(size=(ROWS, DIM, DIM)) + 0.5 * np.eye(DIM)
C = RNG.normal(size=(ROWS, DIM)) + 1
MEANS = A.mean(0), B.mean(0), C.mean(0)
RATE = {"A": 0.6, "B": 0.3}


def outer(x, y, c):
    return 0.5 * jnp.sum((y - c) ** 2) + 0.05 * jnp.sum(x**2)


def inner_a(x, y, batch):
    a, b_mean = batch
    return 0.5 * jnp.sum(a * y**2) - x @ b_mean @ y


def inner_b(x, y, batch):
    a, b_mean = batch
    return 0.5 * jnp.sum(a * y**2) + 0.025 * jnp.sum(y**4) - jnp.sin(x) @ b_mean @ y


PROBLEMS = {"A": b.Problem(outer, inner_a), "B": b.Problem(outer, inner_b)}


def est(toy, x, y, means, terms=TERMS):
    """Return the estimator and g_y in numpy; for a diagonal Hessian the Neumann series has a closed form."""
    a, b_mean, c = means
    h = a + (0.3 * y**2 if toy == "B" else 0)
    v = (1 - (1 - RATE[toy] * h) ** (terms + 1)) / h * (y - c)
    cross = b_mean if toy == "A" else np.cos(x)[:, None] * b_mean
    g_y = a * y - b_mean.T @ x if toy == "A" else a * y + 0.1 * y**3 - b_mean.T @ np.sin(x)
    return 0.1 * x + cross @ v, g_y


def error(x):
    """Return the norm of the exact hypergradient of toy A (200 terms are exact to rounding)."""
    a, b_mean, _ = MEANS
    return np.linalg.norm(est("A", x, b_mean.T @ x / a, MEANS, terms=200)[0])


def errors(xs):
    return np.array([error(x) for x in np.asarray(xs)])


def samples(seed, *shape):
    """Return means over samples of rows without replacement; the last entry of shape is the sample size."""
    *leading, size = shape
    order = np.random.default_rng(seed).random((*leading, ROWS)).argsort(-1)
    shares = np.where(order < size, 1 / size, 0)
    return tuple(np.tensordot(shares, array, axes=1) for array in (A, B, C))


def data(means):
    a, b_mean, c = means
    return b.full(c, (a, b_mean))


def follow(algorithm, means, x=None, y=None):
    """Return all states of a run; step k reads the k-th entry of the stacked means."""
    start = algorithm.init(*(jnp.zeros(DIM) if z is None else z for z in (x, y)))

    def step(state, means):
        new, _ = algorithm.step(state, data(means), jax.random.key(0))
        return new, new

    return jax.jit(lambda means: lax.scan(step, start, means)[1])(jax.tree.map(jnp.asarray, means))


def repeated(steps):
    return tuple(np.broadcast_to(mean, (steps, *mean.shape)) for mean in MEANS)


def mrbo(toy="A", **settings: Any):
    defaults: dict[str, Any] = dict(terms=TERMS, rate=RATE[toy], inner_optimizer=0.9, outer_optimizer=0.6)
    return b.mrbo(PROBLEMS[toy], **(defaults | settings))


def test_mrbo_on_full_batches_carries_the_exact_directions_for_all_weights():
    """The two weights differ, so that swapping them would show."""
    algorithm = mrbo(
        "B",
        exponent=0,
        scale=1,
        outer_weight=0.3,
        inner_weight=0.4,
        inner_optimizer=0.3,
        outer_optimizer=0.2,
    )
    memory = follow(algorithm, repeated(50), jnp.ones(DIM)).estimator
    for k in range(50):
        x, y = (np.asarray(memory.point[i][k]) for i in (0, 1))
        v, u = est("B", x, y, MEANS)
        np.testing.assert_allclose(memory.direction.x[k], v, atol=1e-12)
        np.testing.assert_allclose(memory.direction.y[k], u, atol=1e-12)


def mrbo_in_numpy(first, second, weight=2.0, offset=8.0):
    """Return the path of MRBO with `first` samples at the new and `second` samples at the old point."""
    x = y = np.zeros(DIM)
    last, path, before = None, [], 0.0
    for k in range(len(first[0])):
        now = np.array(est("A", x, y, [m[k] for m in first]))
        if last is not None:
            share = min(1, weight * before**2)
            old = np.array(est("A", *last[0], [m[k] for m in second]))
            now = now + (1 - share) * (last[1] - old)
        last, before = ((x, y), now), (offset + k) ** (-1 / 3)
        x, y = x - 0.6 * before * now[0], y - 0.9 * before * now[1]
        path.append(x)
    return np.array(path)


def test_mrbo_needs_the_same_sample_at_both_points():
    """Its error falls to 0.044 with shared samples and grows to 1e7 in 1000 steps with independent ones."""
    one, other = samples(1, 5000, 4), samples(2, 1000, 4)
    xs = follow(mrbo(inner_weight=2.0, outer_weight=2.0, scale=1), one).x
    found = errors(xs)
    assert found[-500:].mean() < 0.06
    start = [m[:1000] for m in one]
    shared, independent = mrbo_in_numpy(start, start), mrbo_in_numpy(start, other)
    # The same recursion, in another order of rounding.
    np.testing.assert_allclose(xs[:1000], shared, atol=1e-10)
    assert error(shared[-1]) < 0.2 and error(independent[-1]) > 1e3


@pytest.mark.parametrize("size, with_momentum, without", [(4, 0.067, 0.090), (16, 0.026, 0.040)])
def test_mrbo_momentum_lowers_the_error_floor(size, with_momentum, without):
    """The floor is the mean error over the last 500 of 3000 steps and 3 seeds."""
    stacked = tuple(map(np.stack, zip(*(samples(seed, 3000, size) for seed in (1, 2, 3)), strict=True)))

    def floor(weight):
        algorithm = mrbo(inner_weight=weight, outer_weight=weight, scale=1)
        xs = jax.vmap(lambda means: follow(algorithm, means).x[-500:])(stacked)
        return errors(xs.reshape(-1, DIM)).mean()

    momentum, plain = floor(2.0), floor(1e9)  # weights are capped at 1
    assert momentum / plain < 0.85
    # The expected floors are those of other samples, and a floor moves slowly from step to step.
    assert momentum == pytest.approx(with_momentum, rel=0.2) and plain == pytest.approx(without, rel=0.15)


def test_mrbo_weights_follow_the_step_before_and_are_cut_at_one():
    settings: dict[str, Any] = dict(inner_weight=2.0, outer_weight=0.5, scale=2, offset=9.0)
    algorithm = mrbo(outer_optimizer=0.0, inner_optimizer=0.0, **settings)
    directions = follow(algorithm, samples(1, 4, 4)).estimator.direction
    fresh = [est("A", np.zeros(DIM), np.zeros(DIM), [m[k] for m in samples(1, 4, 4)]) for k in range(4)]
    v, u = fresh[0]
    for k in range(1, 4):
        square = (2 / (9 + k - 1) ** (1 / 3)) ** 2
        v = v + min(1, 0.5 * square) * (fresh[k][0] - v)
        u = u + min(1, 2.0 * square) * (fresh[k][1] - u)
        np.testing.assert_allclose(directions.x[k], v, atol=1e-13)
        np.testing.assert_allclose(directions.y[k], u, atol=1e-13)


@pytest.fixture(scope="module")
def noisy():
    rows = np.random.default_rng(3).permutation(ROWS)
    inner = tuple(map(jnp.asarray, (A[rows], B[rows])))
    problem = b.Problem(
        lambda x, y, c: outer(x, y, c.mean(0)),
        lambda x, y, batch: inner_b(x, y, tuple(part.mean(0) for part in batch)),
    )
    return problem, b.minibatches(jnp.asarray(C), inner, batch_size=16)


def test_mrbo_with_weights_of_one_is_plain_sgd_and_equal_keys_give_equal_iterates(noisy, key):
    problem, batches = noisy
    settings: dict[str, Any] = dict(inner_optimizer=0.3, outer_optimizer=0.2)
    one = b.mrbo(problem, terms=5, rate=0.3, exponent=0, scale=1, **settings)
    plain = b.single_loop(
        problem, b.neumann_direction(problem, b.neumann(5, 0.3)), b.plain(), Point(0.2, 0.3, 0.0)
    )

    @partial(jax.jit, static_argnums=0)
    def end(algorithm, key):
        state = algorithm.init(jnp.ones(DIM), jnp.zeros(DIM))
        return b.advance(algorithm, state, batches, key, start=0, steps=30)

    got, want = end(one, key), end(plain, key)
    np.testing.assert_array_equal(got.x, want.x)
    np.testing.assert_array_equal(got.y, want.y)
    np.testing.assert_array_equal(got.x, end(one, key).x)
    assert np.any(got.x != end(one, jax.random.key(1)).x)


def test_the_estimator_on_the_same_minibatches_is_exactly_the_hypergradient_of_stocbio(noisy):
    problem, _ = noisy
    stack = [jnp.asarray(np.stack([part[8 * i : 8 * i + 8] for i in range(9)])) for part in (A, B, C)]
    x, y = jnp.ones(DIM), 0.5 * jnp.ones(DIM)
    batch = b.Batch(Stacked(stack[2]), Stacked((stack[0], stack[1])))
    later = b.Batch(batch.outer, Stacked((stack[0][1:], stack[1][1:])))  # the oracle reads from 1 on
    oracle = b.neumann_direction(problem, b.neumann(6, 0.3))
    algorithm = b.stocbio(problem, inner_steps=0, terms=6, rate=0.3, outer_optimizer=1.0)
    got = jax.jit(oracle.evaluate)(Point(x, y, ()), batch, None).total.x
    state, metrics = jax.jit(algorithm.step)(algorithm.init(x, y), later, None)
    np.testing.assert_array_equal(x - got, state.x)
    assert metrics["gradient_norm"] == jnp.linalg.norm(got)


@partial(jax.tree_util.register_dataclass, data_fields=["means", "all"], meta_fields=["draws"])
@dataclass(frozen=True)
class Samples:
    """A data source: one sample for all minibatches of an estimate; the means over all rows as whole set."""

    means: Any
    draws: int
    all: Any
    is_full = False

    def __getitem__(self, i):
        return jax.tree.map(lambda mean: mean[i // self.draws], self.means)

    def whole(self):
        return Full(self.all)


def follow_samples(algorithm, means, draws=TERMS + 2):
    """Return all x of a run; step k reads the samples `means[k, i]` and refreshes on all rows."""
    start = algorithm.init(jnp.zeros(DIM), jnp.zeros(DIM))
    whole = tuple(map(jnp.asarray, MEANS))

    def step(state, means):
        a, b_mean, c = means
        batch = b.Batch(Samples(c, 1, whole[2]), Samples((a, b_mean), draws, whole[:2]))
        new, _ = algorithm.step(state, batch, None)
        return new, new.x

    return jax.jit(lambda means: lax.scan(step, start, means)[1])(jax.tree.map(jnp.asarray, means))


def vrbo_in_numpy(steps, period, moves, correct_x=True, correct_last=True, alpha=0.2, beta=0.3):
    """Run VRBO on the full means of toy B; return x, y and the largest error of d at its pair (x, y)."""
    x, y, worst = np.ones(DIM), np.zeros(DIM), 0.0
    for k in range(steps):
        if k % period == 0:
            v, u = est("B", x, y, MEANS)
        new = x - alpha * v
        old = (x, y) if correct_x else (new, y)
        x = new
        for t in range(moves + correct_last):
            now, before = est("B", x, y, MEANS), est("B", *old, MEANS)
            v, u, old = v + now[0] - before[0], u + now[1] - before[1], (x, y)
            worst = max(worst, np.abs(v - now[0]).max(), np.abs(u - now[1]).max())
            if t < moves:
                y = y - beta * u
    return x, y, worst


def test_vrbo_on_full_batches_carries_the_exact_directions_of_its_pair():
    settings: dict[str, Any] = dict(terms=TERMS, rate=0.3, inner_optimizer=0.3, outer_optimizer=0.2)
    states = follow(b.vrbo(PROBLEMS["B"], period=7, inner_steps=6, **settings), repeated(50), jnp.ones(DIM))
    for k in range(50):
        v, u = est("B", np.asarray(states.x[k]), np.asarray(states.y[k]), MEANS)
        np.testing.assert_allclose(states.direction.x[k], v, atol=1e-12)
        np.testing.assert_allclose(states.direction.y[k], u, atol=1e-12)
    x, y, worst = vrbo_in_numpy(50, 7, 6)
    assert worst < 1e-12
    np.testing.assert_allclose(states.x[-1], x, atol=1e-12)
    np.testing.assert_allclose(states.y[-1], y, atol=1e-12)


def test_vrbo_without_one_of_its_corrections_loses_the_pair():
    assert vrbo_in_numpy(50, 7, 6, correct_last=False)[2] == pytest.approx(0.029, rel=0.05)
    assert vrbo_in_numpy(50, 7, 6, correct_x=False)[2] == pytest.approx(0.053, rel=0.05)


def vrbo(moves, **settings):
    return b.vrbo(
        PROBLEMS["A"],
        terms=TERMS,
        rate=0.6,
        inner_optimizer=0.3,
        outer_optimizer=0.2,
        period=10,
        inner_steps=moves,
        **settings,
    )


@pytest.mark.parametrize("m, later", [(1, (0.283, 0.030, 8.4e-4)), (5, (0.302, 0.034, 1.1e-3))])
def test_vrbo_with_refreshes_on_all_rows_has_no_noise_floor(m, later):
    """A loop `t = 0 .. m + 1` whose last pass moves nothing moves y m + 1 times."""
    found = errors(follow_samples(vrbo(m + 1), samples(1, 201, m + 2, 16)))
    assert found[0] == pytest.approx(1.322, abs=1e-3)  # the first step refreshes: no noise yet
    # The expected values are those of other samples; three seeds agree within 8 %.
    np.testing.assert_allclose(found[[20, 50, 100]], later, rtol=0.15)
    assert found[200] < 1e-4


def test_vrbo_with_refreshes_on_64_rows_stops_at_their_noise():
    small, large = samples(1, 300, 3, 16), samples(2, 300, 1, 64)
    means = tuple(np.concatenate(pair, axis=1) for pair in zip(small, large, strict=True))
    xs = follow_samples(vrbo(2, refresh=1), means)
    # The errors are 0.10 to 0.16 on some samples and 0.06 to 0.12 on others.
    assert 0.06 < errors(xs[200:]).mean() < 0.16


@pytest.mark.parametrize("size, floor", [(16, 0.077), (64, 0.031)])
def test_stocbio_on_the_same_toy_stops_at_its_noise(size, floor):
    """The floor is the mean error over the last 100 of 400 steps. Each inner step has a sample of its own."""
    algorithm = b.stocbio(
        PROBLEMS["A"], inner_optimizer=0.3, outer_optimizer=0.2, inner_steps=10, terms=TERMS, rate=0.6
    )
    order = np.minimum(np.arange(10 + TERMS + 1), 10)

    def means(seed):
        a, b_mean, c = samples(seed, 400, 11, size)
        return a[:, order], b_mean[:, order], c[:, 10:]

    stacked = tuple(map(np.stack, zip(*map(means, (1, 2, 3)), strict=True)))
    xs = jax.vmap(lambda means: follow_samples(algorithm, means, draws=1)[-100:])(stacked)
    # The expected floor comes from one run, and runs scatter by 12 %.
    assert errors(xs.reshape(-1, DIM)).mean() == pytest.approx(floor, rel=0.2)
