"""Linear solvers: the protocol, their iterates against NumPy, and edge cases."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from bilevel import cg, heavy_ball, lineax_solver, nesterov, neumann, random_product, richardson
from bilevel.testing import check_linear_solver

RNG = np.random.default_rng(0)
Q0 = RNG.normal(size=(30, 30))
GRAM = Q0 @ Q0.T
H = 0.9 * GRAM / np.linalg.eigvalsh(GRAM)[-1] + 0.1 * np.eye(30)
B = RNG.normal(size=30)
TRUTH = np.linalg.solve(H, B)


def operator(i):
    return lambda w: jnp.asarray(H) @ w


def solve(solver, b=B, v0=None, operator=operator):
    return solver.solve(operator, jnp.asarray(b), jnp.zeros_like(b) if v0 is None else jnp.asarray(v0))


# 40 contractions by 0.5 end below 1e-12; momentum contracts faster.
MOMENTUM = (2**0.5 - 1) / (2**0.5 + 1)
MEMBERS = {
    "cg": (cg(3), {}),
    "cg, damped": (cg(3, damping=0.3), {"damping": 0.3}),
    "cg, unconverged": (cg(2), {"exact": False}),
    "cg, tolerance": (cg(9, tolerance=1e-10), {"stops_early": True}),
    "richardson": (richardson(40, 1.0), {}),
    "richardson, damped": (richardson(40, 0.8, damping=0.3), {"damping": 0.3}),
    "richardson, fresh": (richardson(40, 1.0, fresh=True), {}),
    "heavy_ball": (heavy_ball(40, 1.0, 0.5), {}),
    "heavy_ball, damped": (heavy_ball(40, 1.0, 0.5, damping=0.3), {"damping": 0.3}),
    "nesterov": (nesterov(40, 1.0, MOMENTUM), {}),
    "nesterov, damped": (nesterov(40, 0.75, MOMENTUM, damping=0.3), {"damping": 0.3}),
    "neumann": (neumann(40, 1.0), {}),
    "neumann, unconverged": (neumann(3, 0.5), {"exact": False}),
    "neumann, no factor": (neumann(0, 0.5), {"exact": False}),
    "neumann, counts": (neumann(40, 1.0, counts=[2] * 10 + [1] * 30), {}),
    "random_product": (random_product(5, 1.0), {"exact": False, "key": jax.random.key(0)}),
    "lineax_solver": (lineax_solver(lx.CG(rtol=1e-12, atol=1e-12)), {}),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_obeys_the_protocol(name):
    solver, settings = MEMBERS[name]
    check_linear_solver(solver, **settings)


def test_cg_returns_its_last_iterate():
    v, _ = cg(1).solve(lambda i: lambda w: 0.5 * w, jnp.asarray(B), jnp.zeros(30))
    np.testing.assert_allclose(v, 2 * B, rtol=1e-15)


def test_cg_of_an_eigenvector_is_exact_after_one_step():
    eigenvector = np.linalg.eigh(H)[1][:, 3]
    v, _ = solve(cg(1), b=eigenvector)
    np.testing.assert_allclose(v, np.linalg.solve(H, eigenvector), atol=1e-12)


def test_cg_steps_equal_the_galerkin_solution_of_the_krylov_space():
    for steps in (1, 3, 6):
        krylov = np.stack([np.linalg.matrix_power(H, i) @ B for i in range(steps)], axis=1)
        galerkin = krylov @ np.linalg.solve(krylov.T @ H @ krylov, krylov.T @ B)
        # The Krylov basis itself is ill-conditioned: about 1e8 for six columns.
        np.testing.assert_allclose(solve(cg(steps))[0], galerkin, rtol=1e-7)


def test_cg_starts_at_v0_and_stays_there_when_it_is_the_solution():
    np.testing.assert_allclose(solve(cg(1), v0=TRUTH)[0], TRUTH, rtol=1e-12)
    assert solve(cg(2), v0=TRUTH + 1e-6)[1] < 1e-5
    v, residual = solve(cg(5), b=np.zeros(30))
    assert not np.any(v) and residual == 0


def test_cg_with_a_tolerance_stops_at_the_first_step_that_meets_it():
    norm = np.linalg.norm(B)
    for steps in (1, 3, 6):
        v, residual = solve(cg(steps))
        got, met = solve(cg(60, tolerance=float(residual * norm) * (1 + 1e-9)))
        np.testing.assert_allclose(got, v, rtol=1e-12)
        assert met == pytest.approx(float(residual), rel=1e-9)
    np.testing.assert_array_equal(solve(cg(60, tolerance=norm))[0], 0)
    np.testing.assert_allclose(solve(cg(4, tolerance=0.0))[0], solve(cg(4))[0], rtol=1e-13)


def test_a_lineax_solver_starts_at_v0():
    solver = lineax_solver(lx.CG(rtol=1e-6, atol=1e-6, max_steps=1))
    np.testing.assert_allclose(solve(solver, v0=TRUTH)[0], TRUTH, rtol=1e-12)
    assert solve(solver)[1] > 1e-3


def test_heavy_ball_follows_its_recursion_from_v0():
    step, momentum = 4 / (1 + np.sqrt(0.1)) ** 2, ((1 - np.sqrt(0.1)) / (1 + np.sqrt(0.1))) ** 2
    v = last = np.ones(30)
    for _ in range(5):
        v, last = v - step * (H @ v - B) + momentum * (v - last), v
    np.testing.assert_allclose(solve(heavy_ball(5, 1.0, 0.1), v0=np.ones(30))[0], v, rtol=1e-12)


def test_cg_on_an_indefinite_matrix_stays_finite_and_reports_a_large_residual():
    indefinite = jnp.diag(jnp.linspace(-1, 1, 30))
    v, residual = solve(cg(50), v0=10 * B, operator=lambda i: lambda w: indefinite @ w)
    assert np.all(np.isfinite(v)) and residual > 0.1


def singular_system(rank, size, seed, dtype=np.float64):
    """Return H of low rank, and a right-hand side outside its range."""
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(rank, size)) / np.sqrt(rank)).astype(dtype)
    return rows.T @ rows, rng.normal(size=size).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("rank, size", [(5, 10), (3, 40), (20, 50)])
def test_cg_on_an_inconsistent_singular_system_ends_at_a_least_squares_solution(rank, size, dtype):
    for seed in range(3):
        H, b = singular_system(rank, size, seed, dtype)
        least = np.linalg.lstsq(H.astype(float), np.asarray(b, float), rcond=1e-5)[0]
        norm = np.linalg.norm(b)
        want = np.linalg.norm(b - H @ least) / norm
        for solver in (cg(rank + 1), cg(100), cg(100, tolerance=1e-9)):
            v, residual = solve(solver, b=b, operator=lambda i: lambda w: jnp.asarray(H) @ w)  # noqa: B023
            # The solution of least norm is at most 25 long; a part in the null space of H remains.
            assert np.linalg.norm(v) < 200
            assert residual == pytest.approx(np.linalg.norm(b - H @ v) / norm, rel=1e-5)
            assert residual == pytest.approx(want, rel=1e-3)


def test_cg_from_v0_on_an_inconsistent_singular_system_does_not_drift():
    H, b = singular_system(5, 10, 0)

    @jax.jit
    def again(v):
        return solve(cg(10), b=b, v0=v, operator=lambda i: lambda w: jnp.asarray(H) @ w)

    v = jnp.zeros(10)
    for _ in range(100):
        v, residual = again(v)
    assert np.linalg.norm(v) < 200 and residual < 1


def test_cg_on_a_consistent_singular_system_solves_it():
    H, b = singular_system(5, 10, 1)
    b = H @ b
    v, residual = solve(cg(50), b=b, operator=lambda i: lambda w: jnp.asarray(H) @ w)
    np.testing.assert_allclose(v, np.linalg.pinv(H) @ b, rtol=1e-9)
    assert residual < 1e-12


def test_cg_never_returns_a_larger_residual_than_the_start_when_it_stops():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        basis = np.linalg.qr(rng.normal(size=(30, 30)))[0]
        indefinite = jnp.asarray(basis * rng.normal(size=30) @ basis.T)
        v, residual = solve(cg(100), operator=lambda i: lambda w: indefinite @ w)  # noqa: B023
        assert residual <= 1 and np.linalg.norm(v) < 1e3


def test_cg_at_a_saddle_stays_at_zero_and_reports_it():
    for solver in (cg(5), cg(5, tolerance=1e-6)):
        v, residual = solver.solve(lambda i: lambda w: -0.5 * w, jnp.ones(2), None)
        assert not np.any(v) and residual == 1
    damped, residual = cg(5, damping=1.5).solve(lambda i: lambda w: -0.5 * w, jnp.ones(2), None)
    np.testing.assert_allclose(damped, 1)
    assert residual < 1e-15


def test_stationary_solvers_report_a_large_residual_at_a_saddle():
    saddle = jnp.diag(jnp.array([1.0, -0.5]))
    for solver in (richardson(9, 0.5), heavy_ball(9, 1.0, 0.5), nesterov(9, 0.5, 0.5), neumann(9, 0.5)):
        v, residual = solver.solve(lambda i: lambda w: saddle @ w, jnp.ones(2), None)
        assert residual > 1
        assert residual == pytest.approx(np.linalg.norm(1 - saddle @ v) / 2**0.5, rel=1e-12)


@pytest.mark.parametrize("condition", [1e2, 1e6])
def test_cg_solves_ill_conditioned_systems_to_rounding(condition):
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(30, 30)))[0]
    matrix = basis * np.linspace(1 / condition, 1, 30) @ basis.T
    v, residual = solve(cg(60), operator=lambda i: lambda w: jnp.asarray(matrix) @ w)
    # Rounding errors grow with the condition number.
    assert residual < 1e-15 * condition
    np.testing.assert_allclose(v, np.linalg.solve(matrix, B), rtol=1e-14 * condition)


def test_neumann_error_falls_with_the_terms_and_stays_below_the_bound():
    for terms, error, bound in (
        (3, 0.732, 1.633),
        (10, 0.457, 1.140),
        (50, 0.0428, 0.1465),
        (200, 1.31e-5, 6.67e-5),
    ):
        got = np.linalg.norm(solve(neumann(terms, 0.5))[0] - TRUTH) / np.linalg.norm(TRUTH)
        assert got == pytest.approx(error, rel=0.01)
        assert got <= bound


def test_the_reported_residual_is_that_of_the_returned_solution():
    for solver, damping in (
        (cg(2), 0),
        (richardson(5, 0.5), 0),
        (heavy_ball(5, 1.0, 0.1), 0),
        (cg(2, damping=0.3), 0.3),
        (neumann(7, 0.5), 0),
        (neumann(0, 0.5), 0),
    ):
        v, residual = solve(solver, v0=np.ones(30))
        left = B - (H + damping * np.eye(30)) @ v
        assert residual == pytest.approx(np.linalg.norm(left) / np.linalg.norm(B), rel=1e-12)
    _, residual = solve(neumann(7, 0.5))
    # B - H v is the next factor of the series.
    next_term = np.linalg.matrix_power(np.eye(30) - 0.5 * H, 8) @ B
    assert residual == pytest.approx(np.linalg.norm(next_term) / np.linalg.norm(B), rel=1e-12)


def test_the_series_measures_its_residual_on_the_last_minibatch():
    def minibatch(i):
        return lambda w: jnp.where(i == 2, 0.5, 0.1) * w

    for solver in (neumann(3, 1.0), neumann(2, 1.0, counts=[1, 2])):
        v, residual = solve(solver, operator=minibatch)
        assert residual == pytest.approx(np.linalg.norm(B - 0.5 * v) / np.linalg.norm(B), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_cg_stays_at_the_solution_in_float32_after_many_more_steps_than_dimensions(scale):
    diagonal = jnp.asarray(scale * np.linspace(0.5, 1, 5), jnp.float32)
    b = jnp.ones(5, jnp.float32)
    for steps in (5, 10, 20, 100):
        v, residual = cg(steps).solve(lambda i: lambda w: diagonal * w, b, jnp.zeros_like(b))
        np.testing.assert_allclose(v, b / diagonal, rtol=1e-5)
        assert residual < 1e-5


def test_neumann_equals_richardson_from_zero_with_one_more_step():
    np.testing.assert_allclose(solve(neumann(7, 0.5))[0], solve(richardson(8, 0.5))[0], rtol=1e-13)


def test_neumann_factors_are_independent_minibatches_without_bias():
    """One sample for all factors is biased, independent samples are not: 400 matrices of low rank."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(400, 10, 2))
    matrices = np.einsum("nij,nkj->nik", a, a)
    matrices = matrices / (4 * np.linalg.eigvalsh(matrices.mean(0))[-1]) + 0.2 * np.eye(10)
    rate = 1 / max(np.linalg.eigvalsh(m)[-1] for m in matrices)
    b = jnp.asarray(rng.normal(size=10))
    stack = jnp.asarray(matrices)
    exact, _ = neumann(20, rate).solve(lambda i: lambda w: stack.mean(0) @ w, b, b)

    def draw(key, independent):
        picks = jax.random.randint(key, (20,), 0, 400)
        picks = picks if independent else jnp.full(20, picks[0])
        return neumann(20, rate).solve(lambda i: lambda w: stack[picks[i]] @ w, b, b)[0]

    def bias_and_rmse(independent):
        draws = jax.vmap(lambda key: draw(key, independent))(jax.random.split(jax.random.key(0), 4000))
        scale = jnp.linalg.norm(exact)
        error = draws - exact[None]
        return jnp.linalg.norm(error.mean(0)) / scale, jnp.sqrt(jnp.mean(jnp.sum(error**2, 1))) / scale

    bias, rmse = bias_and_rmse(True)
    assert rmse == pytest.approx(0.286, rel=0.1)
    assert bias < 3 * rmse / np.sqrt(4000)
    bias, rmse = bias_and_rmse(False)
    assert bias == pytest.approx(0.346, rel=0.1) and rmse == pytest.approx(0.573, rel=0.1)


@pytest.mark.parametrize(
    "make, rule",
    [
        (lambda: cg(0), "steps must be at least 1, got 0"),
        (lambda: cg(1, damping=-1), "damping must be at least 0, got -1"),
        (lambda: heavy_ball(0, 1.0, 0.1), "steps must be at least 1, got 0"),
        (lambda: heavy_ball(1, 1.0, 2.0), r"convexity must be in \(0, 1.0\], got 2.0"),
        (lambda: neumann(-1, 0.1), "terms must be at least 0, got -1"),
        (lambda: neumann(3, 0.0), "rate must be positive, got 0"),
        (lambda: random_product(3, -0.1), "rate must be positive, got -0.1"),
    ],
)
def test_bad_arguments_raise_an_error_with_the_rule(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()
