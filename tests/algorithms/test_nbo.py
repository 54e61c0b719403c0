"""NBO, its stochastic variants and AmIGO: their update rules, in numbers."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as b
from bilevel.sampling import Stacked
from bilevel.testing import count_calls
from cases.minibatches import ALPHA, BATCH, PROBLEM, RHO, A, B, C, E, X, Y
from cases.problems import central_difference, flat, logistic_case, relative_error

LOGISTIC = logistic_case()
DIRECT = logistic_case(direct=True)
RNG = np.random.default_rng(1)
SOLUTION = jnp.asarray(LOGISTIC.exact(LOGISTIC.x)[0])
NEAR = SOLUTION + 0.3 * RNG.normal(size=10)
ADJOINT = jnp.asarray(RNG.normal(size=10))


@cache
def compiled_derivatives(problem):
    f, g = problem.outer, problem.inner

    @jax.jit
    def at(x, y, inner, outer):
        f_x, f_y = jax.grad(f, argnums=(0, 1))(x, y, outer)
        H, J = jax.hessian(g, argnums=1)(x, y, inner), jax.jacfwd(jax.grad(g), argnums=1)(x, y, inner)
        return jax.grad(g, argnums=1)(x, y, inner), f_y, H, J, f_x

    return at


def derivatives(case, x, y):
    """Return g_y, f_y, H, J and f_x at one point."""
    values = compiled_derivatives(case.problem)(x, jnp.asarray(y), case.data.inner[0], case.data.outer[0])
    return tuple(map(np.asarray, values))


def hypergradient(case, x, y, v):
    *_, J, f_x = derivatives(case, x, y)
    return f_x - J @ v


def start(algorithm, case, y, v, x=None):
    return algorithm.init(case.x if x is None else x, y)._replace(v=v)


def after_one_step(algorithm, case, y, v, x=None):
    return jax.jit(algorithm.step)(start(algorithm, case, y, v, x), case.data, None)[0]


def path(algorithm, case, steps, x=None, key=None):
    """Return x after 0, 1, .. `steps` steps, by one scan."""
    begin = algorithm.init(case.x if x is None else x, case.y)

    def step(state, _):
        return algorithm.step(state, case.data, key)[0], state.x

    last, xs = jax.jit(lambda state: jax.lax.scan(step, state, length=steps))(begin)
    return np.concatenate([xs, last.x[None]])


def quadratic_inner():
    """Return a case with g = y'H y / 2 - (P x)'y, H = M M' / 10 + I and a non-quadratic f, and its y*."""
    rng = np.random.default_rng(2)
    M, coupling, target = rng.normal(size=(10, 10)), rng.normal(size=(10, 4)), rng.normal(size=10)
    H = M @ M.T / 10 + np.eye(10)
    problem = b.Problem(
        lambda x, y, batch: jnp.sum(jnp.cosh(0.3 * (y - target))) + 0.5 * jnp.sum(x**2),
        lambda x, y, batch: 0.5 * y @ H @ y - (coupling @ x) @ y,
    )
    case = LOGISTIC._replace(problem=problem, x=jnp.asarray(rng.normal(size=4)), data=b.full(None, None))
    return case, np.linalg.solve(H, coupling @ case.x)


# NBO


def test_exact_hypergradient_of_the_logistic_case_is_the_slope_of_phi():
    def phi(x):
        return float(LOGISTIC.problem.outer(x, jnp.asarray(LOGISTIC.exact(x)[0]), LOGISTIC.data.outer[0]))

    # A step of 1e-6 leaves 1e-16 / 1e-6 of rounding.
    np.testing.assert_allclose(LOGISTIC.exact(LOGISTIC.x)[1], central_difference(phi, LOGISTIC.x), atol=1e-8)
    assert np.linalg.norm(LOGISTIC.exact(LOGISTIC.x)[1]) == pytest.approx(0.04444, rel=1e-3)


def test_without_extra_steps_y_and_v_make_soba_s_step():
    g_y, f_y, H, *_ = derivatives(LOGISTIC, LOGISTIC.x, NEAR)
    nbo = after_one_step(b.nbo(LOGISTIC.problem, inner_optimizer=0.5, extra_steps=0), LOGISTIC, NEAR, ADJOINT)
    np.testing.assert_allclose(nbo.y, NEAR - 0.5 * g_y, atol=1e-14)
    np.testing.assert_allclose(nbo.v, ADJOINT - 0.5 * (H @ ADJOINT - f_y), atol=1e-14)
    soba = after_one_step(b.soba(LOGISTIC.problem, inner_optimizer=0.5), LOGISTIC, NEAR, ADJOINT)
    np.testing.assert_allclose(nbo.y, soba.y, atol=1e-15)
    np.testing.assert_allclose(nbo.v, soba.v, atol=1e-15)


@pytest.mark.parametrize("extra_steps", [1, 7])
def test_extra_steps_are_further_terms_for_y_and_warm_gradient_steps_for_v(extra_steps):
    g_y, f_y, H, *_ = derivatives(LOGISTIC, LOGISTIC.x, NEAR)
    got = after_one_step(
        b.nbo(LOGISTIC.problem, inner_optimizer=0.5, extra_steps=extra_steps), LOGISTIC, NEAR, ADJOINT
    )
    term, total, v = g_y, 0, np.asarray(ADJOINT)
    for _ in range(extra_steps + 1):
        total, term = total + term, term - 0.5 * H @ term
        v = v - 0.5 * (H @ v - f_y)
    np.testing.assert_allclose(got.y, NEAR - 0.5 * total, atol=1e-12)
    np.testing.assert_allclose(got.v, v, atol=1e-12)


def test_x_sees_the_new_y_and_v_and_the_direct_term():
    algorithm = b.nbo(DIRECT.problem, inner_optimizer=0.5, outer_optimizer=0.7, extra_steps=2)
    got = after_one_step(algorithm, DIRECT, NEAR, ADJOINT)
    np.testing.assert_allclose(
        got.x, DIRECT.x - 0.7 * hypergradient(DIRECT, DIRECT.x, got.y, got.v), atol=1e-14
    )


def test_exact_newton_steps_leave_an_error_of_first_order_with_the_adjoint_of_the_old_y():
    exact, direction = LOGISTIC.exact(LOGISTIC.x)[1], RNG.normal(size=10)
    direction /= np.linalg.norm(direction)
    # 30 steps for 10 unknowns: exact to rounding.
    algorithm = b.nbo(LOGISTIC.problem, outer_optimizer=1.0, linear_solver=b.cg(30))
    step = jax.jit(
        lambda y: algorithm.step(start(algorithm, LOGISTIC, y, jnp.zeros(10)), LOGISTIC.data, None)[0]
    )
    errors = []
    for radius in (1e-1, 1e-2, 1e-3):
        y = SOLUTION + radius * direction
        state = step(y)
        _, f_y, H, *_ = derivatives(LOGISTIC, LOGISTIC.x, y)
        _, new_f_y, new_H, *_ = derivatives(LOGISTIC, LOGISTIC.x, state.y)
        at_old = hypergradient(LOGISTIC, LOGISTIC.x, y, np.linalg.solve(H, f_y))
        at_new = hypergradient(LOGISTIC, LOGISTIC.x, state.y, np.linalg.solve(new_H, new_f_y))
        errors.append([np.linalg.norm(d - exact) for d in (at_old, at_new, LOGISTIC.x - state.x)])
    slopes = np.log10(np.array(errors)[:-1] / np.array(errors)[1:])
    np.testing.assert_allclose(slopes, [[1, 2, 1]] * 2, atol=0.05)


def test_on_a_quadratic_e_extra_steps_are_e_plus_one_gradient_steps_of_y():
    case, _ = quadratic_inner()
    y = jnp.asarray(RNG.normal(size=10))
    got = after_one_step(b.nbo(case.problem, inner_optimizer=0.2, extra_steps=4), case, y, ADJOINT)
    want = b.descend(case.problem, 0.2, 5).solve(case.x, y, case.data)
    np.testing.assert_allclose(got.y, want, atol=1e-12)


def test_on_a_quadratic_exact_solves_give_y_star_and_the_adjoint_of_the_old_y():
    case, y_star = quadratic_inner()
    y = jnp.asarray(RNG.normal(size=10))
    got = after_one_step(b.nbo(case.problem, linear_solver=b.cg(10)), case, y, ADJOINT)
    _, f_y, H, *_ = derivatives(case, case.x, y)
    np.testing.assert_allclose(got.y, y_star, atol=1e-8)
    np.testing.assert_allclose(got.v, np.linalg.solve(H, f_y), atol=1e-8)
    assert np.abs(np.linalg.solve(H, derivatives(case, case.x, got.y)[1]) - got.v).max() > 0.01


def test_conjugate_gradients_share_no_scalars_between_the_two_systems():
    g_y, f_y, H, *_ = derivatives(LOGISTIC, LOGISTIC.x, NEAR)
    got = after_one_step(b.nbo(LOGISTIC.problem, linear_solver=b.cg(3)), LOGISTIC, NEAR, ADJOINT)

    def krylov(side):
        """Return the best vector of the Krylov space in the H-norm, which CG finds."""
        basis = np.linalg.qr(np.stack([side, H @ side, H @ H @ side], axis=1))[0]
        return basis @ np.linalg.solve(basis.T @ H @ basis, basis.T @ side)

    np.testing.assert_allclose(got.y, NEAR - krylov(g_y), atol=1e-12)
    np.testing.assert_allclose(got.v, ADJOINT - krylov(H @ ADJOINT - f_y), atol=1e-12)


def test_without_extra_steps_x_moves_neither_as_in_soba_nor_as_in_fsla():
    settings: dict[str, Any] = dict(inner_optimizer=0.5, outer_optimizer=0.1)
    nbo = path(b.nbo(DIRECT.problem, extra_steps=0, **settings), DIRECT, 3000)
    soba = path(b.soba(DIRECT.problem, **settings), DIRECT, 3000)
    fsla = path(b.fsla(DIRECT.problem, **settings), DIRECT, 3)
    # The expected gaps are rounded to two digits.
    gaps = np.abs(nbo - soba).max(axis=1)
    np.testing.assert_allclose(gaps[[1, 2, 3, 50]], [1.1e-4, 3.5e-4, 6.1e-4, 1.4e-3], rtol=0.05)
    np.testing.assert_allclose(np.abs(nbo[:4] - fsla).max(axis=1)[1:], [1.2e-5, 4.7e-5, 1.0e-4], rtol=0.05)
    for xs in (nbo, soba):
        assert np.linalg.norm(DIRECT.exact(xs[-1])[1]) < 1e-6


@pytest.mark.parametrize(
    "factory, calls",
    [
        (partial(b.nbo, extra_steps=0), (3, 1, 1)),
        (partial(b.nbo, extra_steps=1), (3, 3, 1)),
        (partial(b.nbo, extra_steps=9), (3, 19, 1)),
        (partial(b.nbo, linear_solver=b.cg(3)), (3, 7, 1)),
        (partial(b.nbo, linear_solver=b.richardson(4, 0.3)), (3, 7, 1)),
        (partial(b.amigo, inner_steps=2), (3, 2, 1)),
        (partial(b.amigo, inner_steps=2, linear_solver=b.cg(5)), (3, 6, 1)),
        (partial(b.nsbo, extra_steps=4), (11, 9, 1)),
        (partial(b.nsbo, extra_steps=4, fresh=False), (3, 9, 1)),
    ],
)
@pytest.mark.parametrize("full", [True, False])
def test_calls_of_a_step_equal_the_declared_cost(factory, calls, full):
    problem, counts = count_calls(PROBLEM)
    algorithm = factory(problem, inner_optimizer=0.3)
    assert algorithm.cost == b.Cost(*calls)
    batch = b.full(BATCH.outer[0], BATCH.inner[0]) if full else BATCH
    state = algorithm.init(jnp.asarray(X), jnp.asarray(Y))
    step = jax.jit(lambda state: algorithm.step(state, batch, None)[0])
    jax.block_until_ready(step(state))
    counts.update(dict.fromkeys(counts, 0))
    jax.block_until_ready(step(state))
    # Fresh minibatches of full data are all the same, so the compiler moves their gradients out of the loop.
    if not (full and algorithm.name == "nsbo"):
        assert counts == algorithm.cost._asdict()


def test_damping_enters_both_systems():
    g_y, f_y, H, *_ = derivatives(LOGISTIC, LOGISTIC.x, NEAR)
    damped = H + 0.2 * np.eye(10)
    systems: list[dict[str, Any]] = [
        dict(linear_solver=b.cg(30)),
        dict(inner_optimizer=1.5, extra_steps=200),
    ]
    for settings in systems:
        got = after_one_step(b.nbo(LOGISTIC.problem, damping=0.2, **settings), LOGISTIC, NEAR, ADJOINT)
        # 200 gradient steps leave (1 - 1.5 * 0.3)^200 of the error.
        np.testing.assert_allclose(got.y, NEAR - np.linalg.solve(damped, g_y), atol=1e-12)
        np.testing.assert_allclose(got.v, np.linalg.solve(damped, f_y), atol=1e-12)
    algorithm = b.nbo(LOGISTIC.problem, damping=0.2)
    state, metrics = jax.jit(algorithm.step)(start(algorithm, LOGISTIC, NEAR, ADJOINT), LOGISTIC.data, None)
    left = np.linalg.norm(f_y - damped @ state.v) / np.linalg.norm(f_y)
    assert metrics["linear_residual"] == pytest.approx(left, rel=1e-12)


@pytest.mark.parametrize("settings", [dict(linear_solver=b.cg(30)), dict(extra_steps=5)])
def test_warm_up_moves_y_and_v_alone_by_plain_steps(settings):
    momentum = optax.sgd(2.0, momentum=0.9)
    algorithm = b.nbo(LOGISTIC.problem, inner_optimizer=0.5, outer_optimizer=momentum, warm_up=3, **settings)
    step = jax.jit(algorithm.step)
    state, y, v = start(algorithm, LOGISTIC, NEAR, ADJOINT), NEAR, ADJOINT
    for _ in range(3):
        state, _ = step(state, LOGISTIC.data, None)
        g_y, f_y, H, *_ = derivatives(LOGISTIC, LOGISTIC.x, y)
        y, v = y - 0.5 * g_y, v - 0.5 * (H @ v - f_y)
    np.testing.assert_array_equal(state.x, LOGISTIC.x)
    np.testing.assert_allclose(state.y, y, atol=1e-14)
    np.testing.assert_allclose(state.v, v, atol=1e-14)
    assert not np.any(flat(state.optimizer.x))
    state, _ = step(state, LOGISTIC.data, None)
    assert np.abs(state.x - LOGISTIC.x).max() > 1e-3


@pytest.mark.parametrize("settings", [dict(damping=0.2), dict(warm_up=2), dict(damping=0.2, fresh=False)])
def test_nsbo_damps_and_warms_up_as_nbo_does(settings):
    steps: dict[str, Any] = dict(inner_optimizer=0.5, outer_optimizer=0.1, extra_steps=3)
    got = path(b.nsbo(DIRECT.problem, **steps, **settings), DIRECT, 5)
    settings = {name: value for name, value in settings.items() if name != "fresh"}
    np.testing.assert_allclose(got, path(b.nbo(DIRECT.problem, **steps, **settings), DIRECT, 5), atol=1e-14)
    assert np.abs(got - path(b.nbo(DIRECT.problem, **steps), DIRECT, 5)).max() > 1e-3


def test_nbo_refuses_linear_solvers_that_need_several_minibatches():
    for solver in (b.neumann(3, 0.1), b.richardson(3, 0.1, fresh=True)):
        with pytest.raises(
            ValueError, match="linear_solver must read a single minibatch.*got a solver that reads 3"
        ):
            b.nbo(LOGISTIC.problem, linear_solver=solver)


def test_refuses_negative_numbers():
    for name in ("extra_steps", "damping", "warm_up"):
        for factory in (b.nbo, b.nsbo):
            with pytest.raises(ValueError, match=f"{name} must be at least 0, got -1"):
                settings: dict[str, Any] = {name: -1}
                factory(LOGISTIC.problem, **settings)


# The comparison with AmIGO


def far():
    """Return a far start of x and the step size 1 / lambda_max(H(x, 0)) of y and v."""
    x = jnp.full(10, -4.0)
    H = derivatives(LOGISTIC, x, jnp.zeros(10))[2]
    return x, 1 / np.linalg.eigvalsh(H)[-1]


@pytest.mark.parametrize(
    "factory, errors, gradients, products, phi",
    [
        (partial(b.nbo, extra_steps=0), (7.8e-1, 2.6e-1, 8.7e-2, 3.4e-2), 300, 300, 0.20462),
        (partial(b.nbo, extra_steps=1), (6.4e-1, 7.6e-2, 4.0e-2, 1.7e-2), 300, 900, 0.20397),
        (partial(b.nbo, extra_steps=9), (3.7e-1, 6.0e-3, 4.8e-3, 3.3e-3), 300, 5700, 0.20353),
        (partial(b.nbo, linear_solver=b.cg(3)), (3.4e-1, 7.6e-3, 3.2e-3, 1.4e-3), 300, 2100, 0.20347),
        (partial(b.amigo, inner_steps=1), (8.7e-1, 2.7e-1, 9.0e-2, 3.4e-2), 300, 300, 0.20472),
        (partial(b.amigo, inner_steps=2), (7.6e-1, 9.0e-2, 4.2e-2, 1.6e-2), 600, 600, 0.20406),
        (partial(b.amigo, inner_steps=10), (2.9e-1, 7.0e-3, 6.1e-3, 3.0e-3), 3000, 3000, 0.20357),
    ],
)
def test_hypergradient_errors_and_costs_along_300_steps(factory, errors, gradients, products, phi):
    x, rate = far()
    algorithm = factory(LOGISTIC.problem, inner_optimizer=rate, outer_optimizer=2.0)
    xs = path(algorithm, LOGISTIC, 300, x)
    got = [relative_error((xs[k - 1] - xs[k]) / 2.0, LOGISTIC.exact(xs[k - 1])[1]) for k in (1, 10, 50, 300)]
    np.testing.assert_allclose(got, errors, rtol=0.1)
    outer_gradients = 2 if algorithm.name == "nbo" else 1
    assert 300 * (algorithm.cost.gradients - outer_gradients) == gradients
    assert 300 * algorithm.cost.hessian_products == products
    y = jnp.asarray(LOGISTIC.exact(xs[-1])[0])
    assert LOGISTIC.problem.outer(xs[-1], y, LOGISTIC.data.outer[0]) == pytest.approx(phi, abs=2e-5)


def test_amigo_of_one_step_is_the_gauss_seidel_fsla_on_full_data():
    settings: dict[str, Any] = dict(inner_optimizer=0.5, outer_optimizer=0.1)
    amigo = path(b.amigo(DIRECT.problem, inner_steps=1, **settings), DIRECT, 50)
    fsla = path(b.fsla(DIRECT.problem, weight=0.3, **settings), DIRECT, 50)
    np.testing.assert_allclose(amigo, fsla, atol=1e-12)


def test_amigo_by_conjugate_gradients_starts_at_the_last_adjoint():
    f_y, H = derivatives(LOGISTIC, LOGISTIC.x, NEAR)[1:3]
    right = jnp.asarray(np.linalg.solve(H, f_y))
    algorithm = b.amigo(LOGISTIC.problem, inner_optimizer=0.0, inner_steps=1, linear_solver=b.cg(2))
    got = after_one_step(algorithm, LOGISTIC, NEAR, right)
    np.testing.assert_allclose(got.v, right, atol=1e-12)
    assert relative_error(after_one_step(algorithm, LOGISTIC, NEAR, jnp.zeros(10)).v, right) > 1e-3


# Minibatches


def steps_match(algorithm, reference, steps=2):
    state = algorithm.init(jnp.asarray(X), jnp.asarray(Y))
    x, y, v = X, Y, np.zeros_like(Y)
    for _ in range(steps):
        state, metrics = algorithm.step(state, BATCH, None)
        x, y, v = reference(x, y, v)
        for got, want in zip((state.x, state.y, state.v), (x, y, v), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-12)
    return metrics


@pytest.mark.parametrize("extra_steps", [0, 3])
def test_nsbo_reads_a_minibatch_for_each_inner_step_and_one_more_for_x(extra_steps):
    def reference(x, y, v):
        s, e = np.zeros_like(y), np.zeros_like(y)
        for t in range(extra_steps + 1):
            g_y, f_y = A[t] @ y + C[t] @ x, y - B[t]
            s, e = s - RHO * (A[t] @ s - g_y), e - RHO * (A[t] @ (e - v) + f_y)
        last = extra_steps + 1
        y, v = y - s, v - e
        return x - ALPHA * (E[last] - C[last].T @ v), y, v

    settings: dict[str, Any] = dict(inner_optimizer=RHO, outer_optimizer=ALPHA, extra_steps=extra_steps)
    algorithm = b.nsbo(PROBLEM, **settings)
    assert algorithm.draws == b.Draws(extra_steps + 2, extra_steps + 2)
    steps_match(algorithm, reference)


def frozen(x, y, v, products, last):
    """Return one step: sides on minibatch 0, extra products on `products`, x on minibatch `last`."""
    p, q = A[0] @ y + C[0] @ x, A[0] @ v - (y - B[0])
    s, e = RHO * p, RHO * q
    for i in products:
        s, e = s - RHO * (A[i] @ s - p), e - RHO * (A[i] @ e - q)
    y, v = y - s, v - e
    return x - ALPHA * (E[last] - C[last].T @ v), y, v


def test_nsbo_without_fresh_minibatches_and_nbo_read_the_documented_minibatches():
    settings: dict[str, Any] = dict(inner_optimizer=RHO, outer_optimizer=ALPHA, extra_steps=3)
    reuse, nbo = b.nsbo(PROBLEM, fresh=False, **settings), b.nbo(PROBLEM, **settings)
    assert reuse.draws == b.Draws(2, 2) and nbo.draws == b.Draws(1, 1)
    steps_match(reuse, lambda x, y, v: frozen(x, y, v, [0, 0, 0], last=1))
    steps_match(nbo, lambda x, y, v: frozen(x, y, v, [0, 0, 0], last=0))


def test_amigo_reads_fresh_minibatches_for_y_and_v_and_draws_f_once():
    def reference(x, y, v):
        for t in range(3):
            y = y - RHO * (A[t] @ y + C[t] @ x)
        f_y = y - B[0]
        for t in range(3, 6):
            v = v - RHO * (A[t] @ v - f_y)
        return x - ALPHA * (E[0] - C[6].T @ v), y, v

    algorithm = b.amigo(PROBLEM, inner_optimizer=RHO, outer_optimizer=ALPHA, inner_steps=3)
    assert algorithm.draws[:2] == (1, 7)
    steps_match(algorithm, reference)


def test_linear_residual_is_measured_at_the_new_adjoint():
    algorithm = b.nsbo(PROBLEM, inner_optimizer=RHO, extra_steps=2)
    state = algorithm.init(jnp.asarray(X), jnp.asarray(Y))
    new, metrics = algorithm.step(state, BATCH, None)
    f_y = Y - B[0]
    want = np.linalg.norm(f_y - A[0] @ new.v) / np.linalg.norm(f_y)
    assert metrics["linear_residual"] == pytest.approx(want, rel=1e-12)


def test_fresh_minibatches_leave_the_newton_step_unbiased_and_reuse_does_not():
    repeats, extra_steps = 4000, 4
    plain = after_one_step(
        b.nbo(LOGISTIC.problem, inner_optimizer=0.5, extra_steps=extra_steps), LOGISTIC, NEAR, ADJOINT
    )
    want = np.concatenate([NEAR - plain.y, ADJOINT - plain.v])
    errors = {}
    for fresh in (True, False):
        algorithm = b.nsbo(LOGISTIC.problem, inner_optimizer=0.5, extra_steps=extra_steps, fresh=fresh)

        def one(picks, algorithm=algorithm):
            sources = (
                Stacked(jax.tree.map(lambda a, rows=rows: a[rows], source.arrays))
                for rows, source in zip(picks, LOGISTIC.data, strict=True)
            )
            state, _ = algorithm.step(start(algorithm, LOGISTIC, NEAR, ADJOINT), b.Batch(*sources), None)
            return jnp.concatenate([NEAR - state.y, ADJOINT - state.v])

        picks = np.random.default_rng(0).integers(0, 200, (repeats, 2, extra_steps + 2, 5))
        got = np.asarray(jax.jit(jax.vmap(one))(picks))
        scale = np.linalg.norm(want)
        bias = np.linalg.norm(got.mean(axis=0) - want) / scale
        noise = np.sqrt(got.var(axis=0).sum() / repeats) / scale
        errors[fresh] = bias, noise, np.sqrt(np.mean(np.sum((got - want) ** 2, axis=1))) / scale
    assert errors[True][0] < 4 * errors[True][1] and errors[False][0] > 3 * errors[False][1]
    assert errors[False][2] > 1.5 * errors[True][2]


# Memory

ROWS, SIZE, BLOCKS = 11, 4, (3, 3)


def finite_sum(rows=ROWS):
    """Return a problem of quadratics averaged over the rows of a block, with its outer and inner rows."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(rows, 3, 3))
    hessians = np.eye(3) + 0.1 * (noise + noise.transpose(0, 2, 1))
    inner = hessians, rng.normal(size=(rows, 3, 2))
    outer = rng.normal(size=(rows, 3)), rng.normal(size=(rows, 2))

    def g(x, y, batch):
        hessian, coupling = jax.tree.map(lambda a: jnp.mean(a, axis=0), batch)
        return 0.5 * y @ hessian @ y + y @ coupling @ x

    def f(x, y, batch):
        target, slope = batch
        return 0.5 * jnp.sum((y - jnp.mean(target, axis=0)) ** 2) + jnp.mean(slope @ x) + 0.5 * jnp.sum(x**2)

    return b.Problem(f, g), outer, inner


def test_saga_on_full_data_is_nsbo():
    settings: dict[str, Any] = dict(inner_optimizer=0.5, outer_optimizer=0.1, extra_steps=2)
    want = path(b.nbo(DIRECT.problem, **settings), DIRECT, 40)
    for factory in (b.nsbo_saga, partial(b.ma_nsbo_saga, weight=1.0)):
        np.testing.assert_allclose(path(factory(DIRECT.problem, **settings), DIRECT, 40), want, atol=1e-12)


def test_saga_tables_hold_sides_and_directions_of_each_block_and_count_only_true_rows():
    problem, outer, inner = finite_sum()
    data = b.minibatches(outer, inner, batch_size=SIZE)
    targets, slopes = (np.asarray(a) for a in data.outer.arrays)
    hessians, couplings = (np.asarray(a) for a in data.inner.arrays)
    settings: dict[str, Any] = dict(inner_optimizer=RHO, outer_optimizer=ALPHA, extra_steps=2)
    algorithm = b.ma_nsbo_saga(problem, weight=0.25, **settings)
    state = algorithm.init(jnp.asarray(X), jnp.asarray(Y), BLOCKS)
    step = jax.jit(algorithm.step)

    def true_rows(block):
        return slice(SIZE * block, min(SIZE * (block + 1), ROWS))

    def recall(tables, name, block, fresh):
        table = tables.setdefault(name, [np.zeros_like(fresh)] * 3)
        share = (true_rows(block).stop - true_rows(block).start) / ROWS
        shares = np.array([4, 4, 3]) / ROWS
        mean = sum(share * value for share, value in zip(shares, table, strict=True))
        value = mean + 3 * share * (fresh - table[block])
        tables[name] = [fresh if i == block else old for i, old in enumerate(table)]
        return value

    tables, x, y, v, average = {}, X, Y, np.zeros(3), None
    for blocks in ([0, 1, 2, 0], [2, 0, 1, 2], [1, 2, 0, 1], [2, 1, 1, 2], [0, 0, 2, 0]):
        picks = SIZE * jnp.array(blocks, jnp.int32)
        batch = b.Batch(data.outer.view(picks[:2]), data.inner.view(picks))
        state, _ = step(state, batch, None)

        first, last = true_rows(blocks[0]), true_rows(blocks[3])
        A0, C0 = hessians[first].mean(0), couplings[first].mean(0)
        p = recall(tables, "g_y", blocks[0], A0 @ y + C0 @ x)
        q = recall(tables, "Hv", blocks[0], A0 @ v)
        q = q - recall(tables, "f_y", blocks[0], y - targets[first].mean(0))
        s, e = RHO * p, RHO * q
        for i in (1, 2):
            # Plain products read whole blocks; other rows fill up a ragged block.
            H = hessians[SIZE * blocks[i] : SIZE * (blocks[i] + 1)].mean(0)
            s, e = s - RHO * (H @ s - p), e - RHO * (H @ e - q)
        y, v = y - s, v - e
        second = true_rows(blocks[1])
        d = recall(tables, "f_x", blocks[1], slopes[second].mean(0) + x)
        d = d - recall(tables, "Jv", blocks[3], couplings[last].mean(0).T @ v)
        average = d if average is None else 0.75 * average + 0.25 * d
        x = x - ALPHA * average
        for got, want in zip((state.x, state.y, state.v), (x, y, v), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-12)


def test_nsbo_saga_is_ma_nsbo_saga_without_average_on_minibatches(key):
    problem, outer, inner = finite_sum()
    data = b.minibatches(outer, inner, batch_size=SIZE)
    ends = []
    for factory in (b.nsbo_saga, partial(b.ma_nsbo_saga, weight=1.0)):
        algorithm = factory(problem, inner_optimizer=RHO, outer_optimizer=ALPHA, extra_steps=2)
        assert algorithm.draws == b.Draws(2, 4, fixed=True)
        begin = b.initial_state(algorithm, jnp.asarray(X), jnp.asarray(Y), data)
        ends.append(b.advance(algorithm, begin, data, key, start=0, steps=6))
    np.testing.assert_allclose(ends[0].x, ends[1].x, atol=1e-13)
    np.testing.assert_allclose(ends[0].y, ends[1].y, atol=1e-13)


@pytest.mark.slow
def test_saga_reaches_the_solution_with_constant_steps_where_nsbo_does_not(key):
    problem, outer, inner = finite_sum()
    data = b.minibatches(outer, inner, batch_size=SIZE)
    H, C = (np.mean(a, axis=0) for a in inner)
    response = -np.linalg.solve(H, C)
    target, slope = (np.mean(a, axis=0) for a in outer)

    def phi_slope(x):
        return x + slope + response.T @ (response @ x - target)

    norms = {}
    for factory, settings in ((b.nsbo, {}), (b.nsbo_saga, {})):
        algorithm = factory(problem, inner_optimizer=0.2, outer_optimizer=0.03, **settings)
        begin = b.initial_state(algorithm, jnp.asarray(X), jnp.asarray(Y), data)
        state = b.advance(algorithm, begin, data, key, start=0, steps=3000)
        norms[algorithm.name] = np.linalg.norm(phi_slope(state.x))
    assert norms["nsbo"] > 1e-3 and norms["nsbo_saga"] < 1e-12


@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_draw_of_a_step_meets_every_fixed_block_in_the_long_run(size):
    """With three draws per step and 12, 6 or 4 blocks, no draw may always see the same blocks."""
    source = b.minibatches(np.arange(12.0), np.arange(12.0), batch_size=size).inner
    picks = np.asarray(source.plan(jax.random.key(0), 0, 1800, True)).reshape(-1, 3)
    for draw in picks.T:
        assert set(draw) == set(range(0, 12, size))
    for epoch in picks.ravel()[: 1800 // source.count * source.count].reshape(-1, source.count):
        assert set(epoch) == set(range(0, 12, size))


# Linear solvers from zero


@pytest.mark.parametrize(
    "solver",
    [b.cg(3), b.richardson(4, 0.3), b.richardson(4, 0.3, damping=0.2, fresh=True), b.neumann(3, 0.3)],
)
def test_a_solve_without_a_start_starts_at_zero(solver):
    def operator(i):
        return lambda w: jnp.asarray(A)[i] @ w

    got, want = (solver.solve(operator, jnp.asarray(Y), v0)[0] for v0 in (None, jnp.zeros(3)))
    np.testing.assert_allclose(got, want, atol=1e-15)


def test_richardson_takes_an_optimizer_and_fresh_minibatches():
    momentum = optax.sgd(0.2, momentum=0.5)
    solver = b.richardson(4, momentum, fresh=True, damping=0.3)
    got, residual = solver.solve(lambda i: lambda w: jnp.asarray(A)[i] @ w, jnp.asarray(Y), jnp.asarray(B[0]))
    v, trace = B[0], np.zeros(3)
    for i in range(4):
        trace = A[i] @ v + 0.3 * v - Y + 0.5 * trace
        v = v - 0.2 * trace
    np.testing.assert_allclose(got, v, rtol=1e-12)
    left = Y - A[3] @ v - 0.3 * v
    assert residual == pytest.approx(np.linalg.norm(left) / np.linalg.norm(Y), rel=1e-12)
    assert solver.draws == 4
