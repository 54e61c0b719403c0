"""Quasi-Newton and Krylov methods: L-BFGS, SHINE, qNBO, LancBiO and SubBiO."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import bilevel as b
from bilevel.quasi_newton import (
    apply_inverse,
    empty_memory,
    quasi_newton,
    remember_pair,
    solve_quadratic,
)
from cases.minibatches import ALPHA, BATCH, KEY, PROBLEM, RHO, A, B, C, E, P, Q, X, Y
from cases.problems import logistic_case, quadratic_case, quartic_case, relative_error, unread

SIZE = 8
RNG = np.random.default_rng(0)
BASIS = np.linalg.qr(RNG.normal(size=(SIZE, SIZE)))[0]
H = jnp.asarray(BASIS * np.geomspace(0.1, 10, SIZE) @ BASIS.T)
LINEAR, RIGHT = jnp.asarray(RNG.normal(size=SIZE)), jnp.asarray(RNG.normal(size=SIZE))
TRUTH = np.linalg.solve(H, RIGHT)
QUADRATIC = b.Problem(unread, lambda x, y, batch: 0.5 * y @ H @ y - LINEAR @ y)


def trained(steps, **settings):
    """Return y and B^-1 c after `steps` quasi-Newton steps on the quadratic."""
    solver = quasi_newton(QUADRATIC, 0.1, steps, **dict(memory=SIZE + 1) | settings)
    y, memory = jax.jit(solver.solve)(0.0, jnp.zeros(SIZE), b.full(None, None))
    return y, apply_inverse(memory, RIGHT)


def dense_bfgs(steps):
    """Run BFGS with exact line search from the identity; return the errors of B^-1 c and the last B^-1."""
    h, linear, right = map(np.asarray, (H, LINEAR, RIGHT))
    inverse, y, errors = np.eye(SIZE), np.zeros(SIZE), []
    for _ in range(steps):
        g = h @ y - linear
        d = -inverse @ g
        s = -(g @ d) / (d @ h @ d) * d
        r = h @ s
        left = np.eye(SIZE) - np.outer(s, r) / (s @ r)
        inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ r)
        y = y + s
        errors.append(relative_error(inverse @ right, TRUTH))
    return np.array(errors), inverse


def test_the_two_loop_recursion_is_the_dense_bfgs_formula():
    pairs = [RNG.normal(size=SIZE) for _ in range(5)]
    memory, scale = empty_memory(jnp.zeros(SIZE), 3), 1.0
    for s in pairs:
        memory = remember_pair(memory, jnp.asarray(s), H @ s)
        scale = (s @ H @ s) / np.sum((H @ s) ** 2)
    # The ring has forgotten the first two.
    inverse = scale * np.eye(SIZE)
    for s in pairs[2:]:
        r = np.asarray(H @ s)
        left = np.eye(SIZE) - np.outer(s, r) / (s @ r)
        inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ r)
    np.testing.assert_allclose(apply_inverse(memory, RIGHT), inverse @ RIGHT, rtol=1e-12)
    # The inverse satisfies the newest pair exactly.
    np.testing.assert_allclose(apply_inverse(memory, H @ pairs[-1]), pairs[-1], rtol=1e-12)


def test_the_memory_works_on_trees_and_starts_as_the_identity():
    y = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    w = jax.tree.map(lambda leaf: leaf + 2.0, y)
    memory = empty_memory(y, 4)
    assert optax.tree.norm(optax.tree.sub(apply_inverse(memory, w), w)) == 0
    memory = remember_pair(memory, w, optax.tree.scale(5.0, w))
    np.testing.assert_allclose(apply_inverse(memory, w)["b"], 0.4, rtol=1e-14)


@pytest.mark.parametrize("change", [-1.0, 0.0], ids=["negative", "zero"])
def test_pairs_without_positive_curvature_are_refused(change):
    memory = remember_pair(empty_memory(jnp.zeros(2), 2), jnp.ones(2), 4 * jnp.ones(2))
    after = remember_pair(memory, jnp.array([1.0, -1.0]), change * jnp.array([1.0, -1.0]))
    jax.tree.map(np.testing.assert_array_equal, after, memory)


def test_the_inverse_of_bfgs_is_poor_for_f_y_until_the_last_step():
    errors, inverse = dense_bfgs(SIZE)
    np.testing.assert_allclose(errors[:-1], [1.03, 0.73, 0.67, 0.23, 0.13, 0.14, 0.14], rtol=0.05)
    assert errors[-1] < 1e-8
    np.testing.assert_allclose(inverse, np.linalg.inv(H), atol=1e-8)


def test_inverse_of_shine_is_exact_after_one_plain_step_and_a_step_for_each_entry_of_y():
    errors = [relative_error(trained(steps)[1], TRUTH) for steps in (2, 4, SIZE - 1, SIZE)]
    assert min(errors[:-1]) > 0.02
    assert errors[-1] < 1e-8
    assert np.linalg.norm(H @ trained(SIZE)[0] - LINEAR) < 1e-12


def test_steps_after_convergence_do_not_spoil_the_inverse():
    np.testing.assert_array_equal(trained(SIZE + 20)[1], trained(SIZE)[1])


def test_unit_steps_converge_without_a_line_fit():
    y, _ = trained(30, step_size=1.0, plain_steps=5, memory=20)
    assert np.linalg.norm(H @ y - LINEAR) < 1e-10


def test_steps_of_qnbo_on_v_are_conjugate_gradients_from_an_empty_memory():
    start = jnp.asarray(RNG.normal(size=SIZE))
    want = conjugate_gradients(H, RIGHT, start, 5)
    for steps in (1, 2, 5):
        v, _ = solve_quadratic(empty_memory(start, SIZE), lambda w: H @ w, RIGHT, start, steps)
        np.testing.assert_allclose(v, want[steps - 1], atol=1e-12)


def test_steps_of_qnbo_on_v_stay_moderate_on_an_inconsistent_singular_system():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rows, right = rng.normal(size=(5, 10)), jnp.asarray(rng.normal(size=10))
        low = jnp.asarray(rows.T @ rows / 5)
        v, _ = solve_quadratic(empty_memory(right, 30), lambda w: low @ w, right, jnp.zeros(10), 20)  # noqa: B023
        least = low @ jnp.linalg.lstsq(low, right)[0]
        assert np.linalg.norm(v) < 200
        assert np.linalg.norm(right - low @ v) == pytest.approx(np.linalg.norm(right - least), rel=1e-3)


def test_steps_of_qnbo_on_v_make_the_inverse_accurate_for_f_y():
    _, memory = jax.jit(quasi_newton(QUADRATIC, 0.1, 3, memory=20).solve)(
        0.0, jnp.zeros(SIZE), b.full(None, None)
    )
    errors = []
    for steps in (1, 3, SIZE):
        v, better = solve_quadratic(memory, lambda w: H @ w, RIGHT, jnp.zeros(SIZE), steps)
        errors.append(relative_error(v, TRUTH))
    assert errors[0] < relative_error(apply_inverse(memory, RIGHT), TRUTH)
    assert errors[0] > errors[1] > 1e-3 and errors[2] < 1e-10
    np.testing.assert_allclose(apply_inverse(better, RIGHT), TRUTH, rtol=1e-8)


def one_step(factory, case, **settings):
    """Return the direction of x in the first step."""
    algorithm = factory(case.problem, inner_optimizer=case.step, outer_optimizer=1.0, **settings)
    state, _ = jax.jit(algorithm.step)(algorithm.init(case.x, case.y), case.data, None)
    return optax.tree.sub(case.x, state.x)


def test_shine_is_exact_on_a_quadratic_and_refined_on_any_problem():
    case = quadratic_case()
    assert relative_error(one_step(b.shine, case), case.exact(case.x)[1]) < 1e-8
    case = quartic_case()
    plain, refined = one_step(b.shine, case), one_step(b.shine, case, refine=b.cg(6))
    want = case.exact(case.x)[1]
    assert relative_error(refined, want) < 1e-10 < 1e-4 < relative_error(plain, want) < 0.05


@pytest.mark.slow
def test_shine_falls_back_to_f_y_where_the_inverse_is_too_large():
    case = logistic_case()
    y, _ = case.exact(case.x)
    f_y = jax.grad(case.problem.outer, argnums=1)(case.x, jnp.asarray(y), case.data.outer[0])
    # H^-1 multiplies lengths by 1 / 0.36 to 1 / 0.13.
    got = one_step(b.shine, case, inner_steps=20, fallback=2.0)
    np.testing.assert_allclose(got, -np.exp(case.x) * y * f_y, atol=1e-6)
    kept = one_step(b.shine, case, inner_steps=20, fallback=10.0)
    assert relative_error(kept, case.exact(case.x)[1]) < 0.1 < relative_error(got, case.exact(case.x)[1])


def frozen(factory, **settings):
    """Return H and c of the logistic case at y*, and `(v, steps) -> path of v` while x and y stay there."""
    case = logistic_case()
    y = jnp.asarray(case.exact(case.x)[0])
    hessian = jax.jit(jax.hessian(case.problem.inner, argnums=1))(case.x, y, case.data.inner[0])
    c = jax.grad(case.problem.outer, argnums=1)(case.x, y, case.data.outer[0])
    algorithm = factory(case.problem, inner_optimizer=0.0, outer_optimizer=0.0, **settings)

    def vs(start, steps):
        def step(state, _):
            state, _ = algorithm.step(state, case.data, None)
            return state, state.v

        return lax.scan(step, algorithm.init(case.x, y)._replace(v=start), length=steps)[1]

    return hessian, c, jax.jit(vs, static_argnums=1)


def conjugate_gradients(h, c, v, steps):
    """Return the iterates of conjugate gradients from v, in numpy."""
    h, c, v, vs = np.asarray(h), np.asarray(c), np.asarray(v), []
    r = p = c - h @ v
    for _ in range(steps):
        length = r @ r / (p @ h @ p)
        v, new = v + length * p, r - length * h @ p
        r, p = new, new + new @ new / (r @ r) * p
        vs.append(v)
    return vs


@pytest.mark.parametrize("period", [1, 6])
def test_lancbio_at_a_frozen_point_is_conjugate_gradients_from_the_last_restart(period):
    hessian, c, vs = frozen(b.lancbio, period=period)
    want = [np.zeros(10)]
    for _ in range(12 // period):
        want += conjugate_gradients(hessian, c, want[-1], period)
    np.testing.assert_allclose(vs(jnp.zeros(10), 12), want[1:], atol=1e-10)
    assert np.linalg.norm(hessian @ want[-1] - c) < (1e-8 if period == 6 else 1e-1)


def test_lancbio_converges_for_every_period_while_x_moves():
    """Each weight has an L2 strength. Without orthogonal vectors, periods from 9 on become NaN here."""
    case = logistic_case(direct=True)
    for period in (9, 10, 11, 40):
        algorithm = b.lancbio(case.problem, inner_optimizer=case.step, outer_optimizer=2.0, period=period)

        @jax.jit
        def path(state, algorithm=algorithm):
            return lax.scan(lambda state, _: algorithm.step(state, case.data, None), state, length=2000)

        state, metrics = path(algorithm.init(case.x, case.y))
        # The Hessian changes by half while x makes its first, large moves.
        assert np.max(metrics["linear_residual"][20:]) < 1
        # A few units of rounding error of 0.05 x.
        assert np.linalg.norm(case.exact(state.x)[1]) < 1e-14
        vectors = np.asarray(state.basis)[: 2000 % min(period, 10) or 10]
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(vectors)), atol=1e-12)


def test_lancbio_stops_its_subspace_where_it_is_invariant():
    """The Hessian has two distinct eigenvalues: beta vanishes after two vectors, and v is exact."""
    spectrum = jnp.array([1.0, 1.0, 1.0, 4.0, 4.0, 4.0])
    problem = b.Problem(
        lambda x, y, batch: jnp.sum(y) + 0 * x, lambda x, y, batch: 0.5 * jnp.sum(spectrum * y**2) + 0 * x
    )
    algorithm = b.lancbio(problem, inner_optimizer=0.0, outer_optimizer=0.0, period=6)

    def step(state, _):
        state, _ = algorithm.step(state, b.full(None, None), None)
        return state, state.v

    vs = lax.scan(step, algorithm.init(jnp.zeros(()), jnp.zeros(6)), length=8)[1]
    np.testing.assert_allclose(vs[1:], np.tile(1 / spectrum, (7, 1)), atol=1e-12)


def test_subbio_at_a_frozen_point_beats_gradient_steps_of_the_same_size():
    hessian, c, vs = frozen(b.subbio, rate=0.4)
    truth = np.linalg.solve(hessian, c)
    vs = vs(jnp.zeros(10), 15)
    for steps, error, plain in ((1, 0.27, 0.90), (5, 0.060, 0.62), (10, 0.039, 0.40), (15, 0.025, 0.26)):
        # The expected errors are rounded to two digits.
        assert relative_error(vs[steps - 1], truth) == pytest.approx(error, rel=0.02)
        # The error of gradient steps from zero is a power of I - 0.4 H.
        left = np.linalg.matrix_power(np.eye(10) - 0.4 * np.asarray(hessian), steps) @ truth
        assert np.linalg.norm(left) / np.linalg.norm(truth) == pytest.approx(plain, rel=0.02)


def test_subbio_is_the_galerkin_solution_in_its_plane():
    hessian, c, vs = frozen(b.subbio, rate=0.4)
    start = jnp.asarray(RNG.normal(size=10))
    plane = np.stack([c, start - 0.4 * hessian @ start], axis=1)
    want = plane @ np.linalg.solve(plane.T @ hessian @ plane, plane.T @ c)
    np.testing.assert_allclose(vs(start, 1)[0], want, atol=1e-12)


# Two steps on explicit minibatches, in numpy. y has three entries, so short recursions are exact.


def gradient(x, y, i):
    return A[i] @ y + C[i] @ x


class Pairs(list):
    """Pairs of a step and a change of the gradient, with their dense inverse."""

    def inverse(self):
        if not self:
            return np.eye(Q)
        s, r = self[-1]
        inverse = s @ r / (r @ r) * np.eye(Q)
        for s, r in self:
            left = np.eye(Q) - np.outer(s, r) / (s @ r)
            inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ r)
        return inverse


def train(x, y, plain, steps, size):
    pairs = Pairs()
    for i in range(plain):
        g = gradient(x, y, i)
        y = y - RHO * g
    pairs.append((-RHO * g, gradient(x, y, plain - 1) - g))
    for i in range(plain, plain + steps):
        g = gradient(x, y, i)
        d = -(size or 1) * pairs.inverse() @ g
        change = gradient(x, y + d, i) - g
        y = y + (1 if size else -(d @ g) / (d @ change)) * d
        pairs.append((d, change))
    return y, pairs


def shine(x, y0, y, v):
    y, pairs = train(x, y0, 1, 2, None)
    return x - ALPHA * (E[0] - C[3].T @ pairs.inverse() @ (y - B[0])), y, None


def shine_warm(x, y0, y, v):
    return shine(x, y, y, v)


def qnbo(x, y0, y, v):
    y, pairs = train(x, y, 2, 1, 0.5)
    v = np.zeros(Q) if v is None else v
    for _ in range(2):
        residual = y - B[0] - A[3] @ v
        d = pairs.inverse() @ residual
        pairs.append((d, A[3] @ d))
        v = v + d @ residual / (d @ A[3] @ d) * d
    return x - ALPHA * (E[0] - C[4].T @ v), y, v


def subbio(x, y0, y, v):
    for i in range(2):
        y = y - RHO * gradient(x, y, i)
    c = y - B[0]
    if v is None:
        v = c @ c / (c @ A[2] @ c) * c
    else:
        plane = np.stack([c, v - 0.3 * A[2] @ v], axis=1)
        v = plane @ np.linalg.solve(plane.T @ A[2] @ plane, plane.T @ c)
    return x - ALPHA * (E[0] - C[3].T @ v), y, v


def lancbio(x, y0, y, memory):
    for i in range(2):
        y = y - RHO * gradient(x, y, i)
    c = y - B[0]
    if memory is None:
        vectors, rest, diagonal, beta = [], c, [], []
    else:
        vectors, rest, diagonal, beta = memory
        beta = [np.linalg.norm(rest)]
    vectors = [*vectors, rest / np.linalg.norm(rest)]
    u = A[2] @ vectors[-1] - (beta[0] * vectors[-2] if beta else 0)
    diagonal = [*diagonal, vectors[-1] @ u]
    matrix = np.diag(diagonal) + (np.diag(beta, 1) + np.diag(beta, -1) if beta else 0)
    basis = np.stack(vectors, axis=1)
    v = basis @ np.linalg.solve(matrix, basis.T @ c)
    memory = vectors, u - diagonal[-1] * vectors[-1], diagonal, beta
    return x - ALPHA * (E[0] - C[3].T @ v), y, memory


REFERENCES = {
    shine: dict(inner_steps=2),
    shine_warm: dict(inner_steps=2, warm=True),
    qnbo: dict(plain_steps=2, inner_steps=1, adjoint_steps=2, step_size=0.5),
    subbio: dict(inner_steps=2, rate=0.3),
    lancbio: dict(inner_steps=2, period=3),
}


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda function: function.__name__)
def test_every_method_reads_the_documented_minibatches(reference):
    algorithm = getattr(b, reference.__name__.partition("_")[0])(
        PROBLEM, inner_optimizer=RHO, outer_optimizer=ALPHA, **REFERENCES[reference]
    )
    state = algorithm.init(jnp.asarray(X), jnp.asarray(Y))
    step = jax.jit(algorithm.step)
    x, y, memory = X, Y, None
    for _ in range(2):
        state, _ = step(state, BATCH, KEY)
        x, y, memory = reference(x, Y, y, memory)
        np.testing.assert_allclose(state.x, x, atol=1e-11)
        np.testing.assert_allclose(state.y, y, atol=1e-11)
    assert x.shape == (P,)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda p: b.shine(p, fallback=0.0), "fallback must be positive, got 0.0"),
        (lambda p: b.shine(p, memory=0), "memory must be at least 1, got 0"),
        (lambda p: b.shine(p, inner_steps=-1), "quasi-Newton steps must be at least 0, got -1"),
        (lambda p: b.qnbo(p, plain_steps=0), "plain_steps must be at least 1, got 0"),
        (lambda p: b.qnbo(p, adjoint_steps=0), "adjoint_steps must be at least 1, got 0"),
        (lambda p: b.lancbio(p, period=0), "period must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build(PROBLEM)
