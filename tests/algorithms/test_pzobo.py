"""The estimator of PZOBO: its bias and its noise, on `zeroth_order` and `pzobo`.

Mean squared errors (MSE) are relative: E|e - w|^2 / |w|^2, where e is the estimated indirect term and w the
exact one. x has p entries, and there are Q directions of length mu.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as b
from bilevel import tasks
from bilevel.response import gaussian, orthogonal, sphere
from bilevel.sampling import Stacked
from bilevel_claims.pzobo.hozog import hozog
from bilevel_claims.pzobo.laws import one_draw, unit_tensors
from cases.problems import unread

RNG = np.random.default_rng(0)
NO_DATA = b.full(None, None)


def affine(p, d, seed=0):
    """Return a solver that reaches B x + c in one step, x, a cotangent f_y and the exact term B'f_y."""
    rng = np.random.default_rng(seed)
    B, c, f_y = (jnp.asarray(rng.normal(size=shape)) for shape in ((d, p), (d,), (d,)))
    problem = b.Problem(unread, lambda x, y, batch: 0.5 * jnp.sum((y - B @ x - c) ** 2))
    return b.descend(problem, 1.0, steps=1), jnp.asarray(rng.normal(size=p)), f_y, B.T @ f_y


def estimates(solver, x, f_y, count, Q, law=gaussian, smoothing=0.1, y0=None):
    """Return `count` independent estimates, shape (count, p)."""
    response = b.zeroth_order(solver, Q, smoothing=smoothing, law=law)
    y0 = jnp.zeros_like(f_y) if y0 is None else y0

    def one(key):
        return response.respond(x, y0, NO_DATA, key)[1](f_y, ()).x

    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=2000))(keys))


def mse(e, w):
    e, w = np.asarray(e), np.asarray(w)
    return np.mean(np.sum((e - w) ** 2, axis=1)) / np.sum(w**2)


def cosines(e, w):
    return e @ np.asarray(w) / (np.linalg.norm(e, axis=1) * np.linalg.norm(w))


def unit(key, x, count):
    """Return unit directions, without the factor p, as in the authors' code for one tensor."""
    return sphere(key, x, count) / math.sqrt(x.size)


def nonlinear():
    """Return a problem with p = 30, d = 20 and twenty inner steps whose path is not affine in x."""
    rng = np.random.default_rng(0)
    p, d = 30, 20
    A, C, x = rng.normal(size=(d, d)), rng.normal(size=(d, p)) / np.sqrt(p), jnp.asarray(rng.normal(size=p))
    H = jnp.asarray(A @ A.T / d + np.eye(d))

    def inner(x, y, batch):
        bend = 0.1 * jnp.sum(jnp.cos(y)) * (1 + jnp.sum(x**2) / p)
        return 0.5 * y @ H @ y - y @ C @ x + bend

    def outer(x, y, batch):
        return 0.5 * jnp.sum((y - 1) ** 2) + 0.05 * jnp.sum(x**2)

    problem = b.Problem(outer, inner)
    solver = b.descend(problem, float(1 / np.linalg.eigvalsh(H)[-1]), steps=20)
    y = solver.solve(x, jnp.zeros(d), NO_DATA)
    f_x, f_y = jax.grad(outer, argnums=(0, 1))(x, y, None)
    w = b.unrolled(solver).respond(x, jnp.zeros(d), NO_DATA, None)[1](f_y, ()).x
    return problem, solver, x, f_x, f_y, w


def test_scaled_unit_vectors_as_directions_give_the_unrolled_term():
    """Only the error of the differences is left, of first order in the smoothing."""
    _, solver, x, _, f_y, w = nonlinear()

    def axes(key, x, count):
        return math.sqrt(count) * jnp.eye(count)

    errors = []
    for smoothing in (1e-6, 1e-4):
        response = b.zeroth_order(solver, 30, smoothing=smoothing, law=axes)
        e = response.respond(x, jnp.zeros(20), NO_DATA, jax.random.key(0))[1](f_y, ()).x
        errors.append(float(jnp.linalg.norm(e - w) / jnp.linalg.norm(w)))
    assert errors[0] < 1e-6 and errors[1] / errors[0] == pytest.approx(100, rel=0.1)


def test_unbiased_on_affine_responses_with_mean_squared_error_p_plus_one_over_q():
    """The scale of least error is Q / (Q + p + 1)."""
    solver, x, f_y, w = affine(20, 7)
    e = estimates(solver, x, f_y, 100_000, Q=5)
    assert np.linalg.norm(e.mean(0) - w) / jnp.linalg.norm(w) < 0.02
    assert mse(e, w) == pytest.approx(21 / 5, rel=0.02)
    assert mse(5 / 26 * e, w) == pytest.approx(21 / 26, rel=0.01)


@pytest.mark.slow
def test_noise_grows_with_the_outer_dimension():
    """The mean cosine with the exact term is sqrt(2 / (pi p)) at Q = 1."""
    for p, cosine in ((20, 0.1816), (1000, 0.02523)):
        solver, x, f_y, w = affine(p, 7)
        # The deviation of |cos| is about 0.75 of its mean, so 40,000 draws give the mean within 0.5 %.
        assert cosines(estimates(solver, x, f_y, 40_000, Q=1), w).mean() == pytest.approx(cosine, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("Q, cosine", [(10, 0.210), (50, 0.444), (200, 0.706), (1000, 0.914)])
def test_many_directions_point_the_right_way(Q, cosine):
    """The mean cosine is about 1 / sqrt(1 + (p + 1) / Q), here with p = 200."""
    solver, x, f_y, w = affine(200, 7)
    assert cosines(estimates(solver, x, f_y, 200, Q=Q), w).mean() == pytest.approx(cosine, rel=0.05)


@pytest.mark.slow
def test_directions_on_a_sphere_need_the_factor_p():
    """With the factor the MSE is (p - 1) / Q; without it only a share 1 / p of the term is left."""
    solver, x, f_y, w = affine(20, 7)
    assert mse(estimates(solver, x, f_y, 100_000, Q=5, law=sphere), w) == pytest.approx(19 / 5, rel=0.02)
    e = estimates(solver, x, f_y, 100_000, Q=1, law=unit)
    assert (e @ w).mean() / (w @ w) == pytest.approx(1 / 20, rel=0.02)
    assert mse(e, w) == pytest.approx(1 - 1 / 20, rel=0.01)


@pytest.mark.parametrize(
    "split, error", [([24], 0.9583), ([12, 12], 1.0), ([4, 8, 12], 1.1007), ([2, 2, 4, 4, 6, 6], None)]
)
def test_directions_normalised_tensor_by_tensor_are_worse_than_no_estimate_from_three_tensors_on(
    split, error
):
    """The directions of the authors' code have error |w|^2 + (L - 2) sum_l |w_l|^2 / p_l for L tensors."""
    solver, x, f_y, w = affine(24, 7)
    edges = np.cumsum(split)[:-1]

    def by_tensor(key, x, count):
        blocks = jnp.split(gaussian(key, x, count), edges, axis=1)
        return jnp.concatenate([u / jnp.linalg.norm(u, axis=1, keepdims=True) for u in blocks], axis=1)

    parts, w = np.split(np.asarray(w), edges), np.asarray(w)
    formula = 1 + (len(split) - 2) * sum(part @ part / part.size for part in parts) / (w @ w)
    e = estimates(solver, x, f_y, 100_000, Q=1, law=by_tensor)
    assert mse(e, w) == pytest.approx(formula, rel=0.02)
    shares = [
        (block @ part).mean() / (part @ part)
        for block, part in zip(np.split(e, edges, axis=1), parts, strict=True)
    ]
    np.testing.assert_allclose(shares, [1 / size for size in split], rtol=0.15, atol=0.01)
    assert (mse(e, w) > 1.01) == (len(split) > 2)


@pytest.mark.slow
@pytest.mark.parametrize("Q", [5, 10, 20])
def test_orthogonal_directions_leave_no_noise_when_there_are_p_of_them(Q):
    """The MSE is p / Q - 1."""
    solver, x, f_y, w = affine(20, 7)
    e = estimates(solver, x, f_y, 20_000, Q=Q, law=orthogonal)
    assert mse(e, w) == pytest.approx(20 / Q - 1, rel=0.03, abs=1e-20)


def test_more_orthogonal_directions_than_entries_are_refused_and_trees_are_one_vector():
    x = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)}
    along = orthogonal(jax.random.key(0), x, 10)
    flat = jnp.concatenate([along["a"].reshape(10, 6), along["b"]], axis=1)
    np.testing.assert_allclose(flat @ flat.T, 10 * np.eye(10), atol=1e-12)
    norms = jax.tree.map(lambda u: jnp.sum(u.reshape(3, -1) ** 2, axis=1), sphere(jax.random.key(0), x, 3))
    np.testing.assert_allclose(norms["a"] + norms["b"], 10, rtol=1e-12)
    with pytest.raises(ValueError, match="orthogonal directions can be at most 10, the entries of x, got 11"):
        orthogonal(jax.random.key(0), x, 11)


@pytest.mark.parametrize("power, smoothing, mean", [(2, 0.5, 2.0), (3, 0.5, 3.75), (3, 0.1, 3.03)])
def test_smoothing_leaves_a_bias_from_odd_terms_of_the_path_only(power, smoothing, mean):
    """y = x^2 has no bias; y = x^3 at x = 1 has 3 mu^2. Means are by 20-point Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    problem = b.Problem(unread, lambda x, y, batch: 0.5 * (y - x**power) ** 2)
    solver = b.descend(problem, 1.0, steps=1)

    def term(u):
        response = b.zeroth_order(solver, 1, smoothing=smoothing, law=lambda key, x, count: u[None])
        return response.respond(jnp.ones(()), jnp.zeros(()), NO_DATA, None)[1](jnp.ones(()), ()).x

    got = jnp.asarray(weights / weights.sum()) @ jax.vmap(term)(jnp.asarray(nodes))
    assert got == pytest.approx(mean, abs=1e-10)


@pytest.mark.slow
def test_on_a_path_that_is_not_affine_only_the_indirect_term_is_noisy():
    """The MSE of pzobo is (p + 1) |w|^2 / |h|^2 = 26; HOZOG estimates all of h and has p + 1 = 31."""
    problem, solver, x, f_x, f_y, w = nonlinear()
    h, mu = f_x + w, 1e-2
    e = estimates(solver, x, f_y, 40_000, Q=1, smoothing=mu)
    # The Monte Carlo floor of the mean is sqrt((p + 1) / n) = 0.028.
    assert np.linalg.norm(e.mean(0) - w) / jnp.linalg.norm(w) < 0.035
    assert mse(np.asarray(f_x) + e, h) == pytest.approx(31 * float(w @ w) / float(h @ h), rel=0.03)

    def value(x):
        return problem.outer(x, solver.solve(x, jnp.zeros(20), NO_DATA), None)

    u = gaussian(jax.random.key(1), x, 40_000)
    base = value(x)
    whole = jax.jit(jax.vmap(lambda u: (value(x + mu * u) - base) / mu * u))(u)
    assert mse(whole, h) == pytest.approx(31, rel=0.05)


@pytest.mark.parametrize("share, ratio", [(-0.9, 100.0), (1.0, 0.25)])
def test_estimating_the_indirect_term_alone_is_worse_where_it_cancels_the_direct_one(share, ratio):
    """The ratio is MSE(pzobo) / MSE(HOZOG) on the same directions, for a linear f with f_x = share w."""
    solver, x, f_y, w = affine(20, 7)
    e, w = estimates(solver, x, f_y, 40_000, Q=1), np.asarray(w)
    f_x = share * w
    # HOZOG on an affine path and a linear f estimates <f_x + w, u> u: the same law for another vector.
    u = np.asarray(gaussian(jax.random.key(1), x, 40_000))
    whole = (u @ (f_x + w))[:, None] * u
    got = np.sum((e - w) ** 2) / np.sum((whole - f_x - w) ** 2)
    assert got == pytest.approx(ratio, rel=0.03)


@pytest.mark.slow
def test_paths_share_their_minibatches_so_that_noise_is_not_divided_by_the_smoothing():
    """The MSE is p + 1 = 11 for every smoothing; with different minibatches it is 158 at 0.01."""
    rng = np.random.default_rng(0)
    p, d, steps = 10, 5, 20
    A = rng.normal(size=(d, d))
    H = A @ A.T / d + np.eye(d)
    rate = 1 / np.linalg.eigvalsh(H)[-1]
    H_, C, x, f_y = (
        jnp.asarray(H),
        jnp.asarray(rng.normal(size=(d, p))),
        jnp.zeros(p),
        jnp.asarray(rng.normal(size=d)),
    )
    problem = b.Problem(unread, lambda x, y, noise: 0.5 * y @ H_ @ y - y @ C @ x + noise @ y)
    solver = b.descend(problem, float(rate), steps=steps)
    silent = b.Batch(None, Stacked(jnp.zeros((steps, d))))
    w = b.unrolled(solver).respond(x, jnp.zeros(d), silent, None)[1](f_y, ()).x

    def pair(key, smoothing):
        """Return the estimate of `pzobo_s`, and a wrong one whose base path reads other minibatches."""
        key, *noises = jax.random.split(key, 3)
        batches = [b.Batch(None, Stacked(0.1 * jax.random.normal(k, (steps, d)))) for k in noises]
        response = b.zeroth_order(solver, 1, smoothing=smoothing)
        right = response.respond(x, jnp.zeros(d), batches[0], key)[1](f_y, ()).x
        u = gaussian(key, x, 1)[0]
        moved = solver.solve(x + smoothing * u, jnp.zeros(d), batches[0])
        return right, (moved - solver.solve(x, jnp.zeros(d), batches[1])) @ f_y / smoothing * u

    decay = np.eye(d) - rate * H
    spread = sum(np.linalg.norm(np.linalg.matrix_power(decay, j) @ f_y) ** 2 for j in range(steps))
    variance = rate**2 * 0.01 * spread
    keys = jax.random.split(jax.random.key(0), 20_000)
    for smoothing in (1.0, 0.01):
        right, wrong = jax.jit(jax.vmap(lambda key, mu=smoothing: pair(key, mu)))(keys)
        assert mse(right, w) == pytest.approx(p + 1, rel=0.04)
        expected = p + 1 + 2 * variance * p / (smoothing**2 * float(w @ w))
        assert mse(wrong, w) == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("smoothing, error", [(1e-1, 3.4e-6), (1e-3, 3.7e-4), (1e-5, 3.6e-2)])
def test_rounding_of_float32_is_divided_by_the_smoothing(smoothing, error):
    """A factor of 4 is allowed, since the rounding depends on the order in which a path adds up."""
    rng = np.random.default_rng(0)
    B, c, x, u = (rng.normal(size=s) for s in ((50, 30), 50, 30, 30))
    B32, c32, x32, u32 = (jnp.asarray(a, jnp.float32) for a in (B, 10 * c, x, u))
    problem = b.Problem(unread, lambda x, y, batch: 0.5 * jnp.sum((y - B32 @ x - c32) ** 2))
    solve = b.descend(problem, 0.5, steps=20).solve
    start = jnp.zeros(50, jnp.float32)
    delta = (solve(x32 + smoothing * u32, start, NO_DATA) - solve(x32, start, NO_DATA)) / smoothing
    got = np.linalg.norm(np.asarray(delta, np.float64) - B @ u) / np.linalg.norm(B @ u)
    assert error / 4 < got < 4 * error


def test_a_missing_factor_p_only_rescales_the_step_where_there_is_no_direct_term():
    """Unit directions with step p beta are the directions on the sphere with step beta."""
    rng = np.random.default_rng(0)
    B, target = jnp.asarray(rng.normal(size=(7, 5))), jnp.asarray(rng.normal(size=7))
    problem = b.Problem(
        lambda x, y, batch: 0.5 * jnp.sum((y - target) ** 2),
        lambda x, y, batch: 0.5 * jnp.sum((y - B @ x) ** 2),
    )
    ends = []
    for law, step in ((unit, 5 * 0.01), (sphere, 0.01)):
        algorithm = b.pzobo(problem, inner_optimizer=0.5, outer_optimizer=step, directions=2, law=law)
        start = algorithm.init(jnp.ones(5), jnp.zeros(7))
        ends.append(b.advance(algorithm, start, NO_DATA, jax.random.key(0), start=0, steps=50).x)
    np.testing.assert_allclose(*ends, rtol=1e-12)


@pytest.mark.slow
def test_pzobo_s_is_pzobo_whose_paths_read_minibatches(key):
    """Two steps are equal bit for bit, with all settings."""
    chosen: dict[str, Any] = dict(inner_steps=3, directions=2, smoothing=0.5, warm=False, law=sphere)
    task = tasks.quadratic(rows=40, outer_dim=4, inner_dim=6)
    x, y = task.start(key)
    ends = []
    for factory, settings in ((b.pzobo, chosen), (b.pzobo_s, chosen), (b.pzobo_s, {})):
        algorithm = factory(task.problem, inner_optimizer=0.2, outer_optimizer=0.001, **settings)
        state = algorithm.init(x, y)
        ends.append(b.advance(algorithm, state, task.minibatches(8), key, start=0, steps=2).x)
    np.testing.assert_array_equal(ends[0], ends[1])
    assert not np.allclose(ends[0], ends[2])
    assert algorithm.name == "pzobo_s" and b.pzobo_s(task.problem, **chosen).cost == b.Cost(gradients=10)


@pytest.mark.parametrize("warm", [True, False])
def test_paths_start_at_the_last_y_or_at_the_first(warm):
    problem = b.Problem(
        lambda x, y, batch: jnp.sum(y + x), lambda x, y, batch: 0.5 * jnp.sum(y**2) + 0 * x[0]
    )
    algorithm = b.pzobo(problem, inner_optimizer=0.5, inner_steps=1, warm=warm)
    end = b.advance(
        algorithm, algorithm.init(jnp.ones(2), jnp.ones(2)), NO_DATA, jax.random.key(0), start=0, steps=3
    )
    np.testing.assert_allclose(end.y, 0.125 if warm else 0.5)


def test_random_directions_refuse_to_run_without_a_key():
    solver, x, f_y, _ = affine(3, 2)
    for law in (gaussian, sphere, orthogonal):
        with pytest.raises(ValueError, match="random directions need a key, got None"):
            b.zeroth_order(solver, 1, law=law).respond(x, f_y, NO_DATA, None)


def test_hozog_of_the_claims_is_pzobo_where_f_is_linear_and_has_no_x():
    """F(x + mu u) - F(x) is then mu <d, f_y>; one step with the same key shows it."""
    rng = np.random.default_rng(3)
    B, c = jnp.asarray(rng.normal(size=(7, 5))), jnp.asarray(rng.normal(size=7))
    problem = b.Problem(lambda x, y, batch: c @ y, lambda x, y, batch: 0.5 * jnp.sum((y - B @ x) ** 2))
    options = {"inner_optimizer": 0.5, "inner_steps": 4, "directions": 3}
    ours, theirs = (
        method.step(method.init(jnp.ones(5), jnp.zeros(7)), NO_DATA, jax.random.key(1))[0].x
        for method in (hozog(problem, **options), b.pzobo(problem, **options, law=one_draw))
    )
    # Differences of numbers of order 10, divided by 0.01.
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def test_directions_of_the_authors_code_have_length_one_in_every_tensor(key):
    lengths = jax.tree.map(
        lambda u: jnp.linalg.norm(u.reshape(4, -1), axis=1),
        unit_tensors(key, {"matrix": jnp.ones((3, 2)), "vector": jnp.ones(5)}, 4),
    )
    np.testing.assert_allclose([*lengths["matrix"], *lengths["vector"]], 1, rtol=1e-12)
