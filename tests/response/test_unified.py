"""The unified formula: hypergradients as its weights, and their errors on the logistic case.

Equalities hold to rounding, hence the tolerance of 1e-12.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import bilevel as b
from bilevel.linear import random_product
from cases import minibatches
from cases.problems import central_difference, logistic_case

ETA = 0.4
CASE = logistic_case()
F, G = CASE.problem.outer, CASE.problem.inner
OUTER, INNER = CASE.data.outer[0], CASE.data.inner[0]
X = CASE.x
Y_STAR, TRUTH = CASE.exact(X)
Y = jnp.asarray(Y_STAR)
Y0 = jnp.zeros(10)
H = jax.hessian(G, argnums=1)(X, Y, INNER)
C = jax.grad(F, argnums=1)(X, Y, OUTER)
V = jnp.linalg.solve(H, C)
EIGENVALUES = np.linalg.eigvalsh(H)
HIGH, LOW = np.sqrt(EIGENVALUES[-1]), np.sqrt(EIGENVALUES[0])
HEAVY_STEP, HEAVY_MOMENTUM = 4 / (HIGH + LOW) ** 2, ((HIGH - LOW) / (HIGH + LOW)) ** 2

unified = jax.jit(lambda x, y, weights: b.unified_hypergradient(CASE.problem, x, y, CASE.data, **weights))


def same(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def by_response(response, y0, key=None):
    return jax.jit(lambda y0, key: b.hypergradient(CASE.problem, response, X, y0, CASE.data, key)[0])(y0, key)


def at_solution(linear, key=None):
    """Return the implicit hypergradient of the library at y*, without inner steps."""
    return by_response(b.implicit(CASE.problem, b.descend(CASE.problem, 0.1, 0), linear, warm=False), Y, key)


def inner_path(y, steps):
    """Return y_0 .. y_K of gradient descent."""

    def step(y, _):
        new = y - ETA * jax.grad(G, argnums=1)(X, y, INNER)
        return new, new

    return jnp.concatenate([y[None], lax.scan(step, y, length=steps)[1]])


def newest_first(ys):
    return jnp.broadcast_to(X, ys.shape), ys[::-1]


def cross(y, v):
    """Return J v from the closed form of the logistic case."""
    return jnp.exp(X) * y * v


def neumann_sum(terms, eta=ETA):
    power = np.eye(10) - eta * np.asarray(H)
    return eta * sum(np.linalg.matrix_power(power, i) @ C for i in range(terms))


def conjugate_weights(steps):
    """Return the steps a_j and conjugacies b_j of conjugate gradients on H v = c from zero."""
    r = p = np.asarray(C)
    lengths, conjugacies = [], []
    for _ in range(steps):
        image = H @ p
        lengths.append(r @ r / (p @ image))
        new = r - lengths[-1] * image
        conjugacies.append(new @ new / (r @ r))
        r, p = new, new + conjugacies[-1] * p
    return jnp.asarray(lengths), jnp.asarray(conjugacies)


def test_back_propagation_is_reverse_mode_and_the_transposed_forward_jacobian():
    steps = 20
    ys = inner_path(Y0, steps)
    got = unified(X, ys[-1], dict(add=jnp.full(steps, ETA), product=ETA, path=newest_first(ys[:-1])))
    same(got, by_response(b.unrolled(b.descend(CASE.problem, ETA, steps)), Y0))

    def train(x):
        def step(y, _):
            return y - ETA * jax.grad(G, argnums=1)(x, y, INNER), None

        return lax.scan(step, Y0, length=steps)[0]

    f_y = jax.grad(F, argnums=1)(X, ys[-1], OUTER)
    same(got, jax.jit(jax.jacfwd(train))(X).T @ f_y)


def test_truncated_back_propagation_from_the_solution_is_a_short_neumann_sum():
    steps, last = 9, 4
    ys = inner_path(Y0, steps)
    weights = dict(add=jnp.full(last, ETA), product=ETA)
    got = unified(X, ys[-1], weights | dict(path=newest_first(ys[-1 - last : -1])))
    truncated = b.unrolled(b.descend(CASE.problem, ETA, steps, last=last))
    same(got, by_response(truncated, Y0))
    same(by_response(truncated, Y), -cross(Y, neumann_sum(last)))
    same(unified(X, Y, weights), -cross(Y, neumann_sum(last)))


def test_the_neumann_series_is_back_propagation_started_at_the_solution():
    terms = 9
    got = unified(X, Y, dict(add=jnp.full(terms, ETA), product=ETA))
    same(got, -cross(Y, neumann_sum(terms)))
    same(got, at_solution(b.richardson(terms, ETA)))
    # Q products, Q + 1 terms.
    same(got, at_solution(b.neumann(terms - 1, ETA)))
    same(got, by_response(b.unrolled(b.descend(CASE.problem, ETA, terms)), Y))


def test_one_random_term_is_unbiased_for_the_neumann_sum_and_not_for_the_inverse():
    terms = 6
    values = jnp.stack(
        [
            unified(X, Y, dict(add=terms * ETA * jax.nn.one_hot(p, terms, dtype=float), product=ETA))
            for p in range(terms)
        ]
    )
    same(values.mean(0), -cross(Y, neumann_sum(terms)))
    assert np.linalg.norm(values.mean(0) - TRUTH) > 0.1 * np.linalg.norm(TRUTH)
    keys = jax.random.split(jax.random.key(0), 20)
    drawn = jax.vmap(lambda key: at_solution(random_product(terms, ETA), key))(keys)
    nearest = np.abs(np.asarray(drawn)[:, None] - np.asarray(values)).max(-1)
    # Each is one of the K values, and most of them are drawn.
    assert nearest.min(1).max() < 1e-12 and len(set(nearest.argmin(1))) > 3


def test_conjugate_gradients_are_the_galerkin_solution_and_a_three_term_recursion():
    steps = 6
    lengths, conjugacies = conjugate_weights(steps)
    before = jnp.concatenate([jnp.zeros(1), conjugacies[:-1]])
    got = unified(X, Y, dict(add=lengths, keep=1 + conjugacies, product=lengths, inertia=-before))
    same(got, at_solution(b.cg(steps)))
    powers = np.stack([np.linalg.matrix_power(H, i) @ C for i in range(steps)], axis=1)
    basis = np.linalg.qr(powers)[0]
    same(got, -cross(Y, basis @ np.linalg.solve(basis.T @ H @ basis, basis.T @ C)))


def test_heavy_ball_weights_are_heavy_ball_steps_and_their_automatic_derivative():
    steps = 12
    heavy = dict(keep=1 + HEAVY_MOMENTUM, product=HEAVY_STEP, inertia=-HEAVY_MOMENTUM)
    got = unified(X, Y, dict(add=jnp.full(steps, HEAVY_STEP)) | heavy)
    same(got, at_solution(b.heavy_ball(steps, EIGENVALUES[-1], EIGENVALUES[0])))
    ball = optax.sgd(HEAVY_STEP, momentum=HEAVY_MOMENTUM)
    same(got, by_response(b.unrolled(b.descend(CASE.problem, ball, steps)), Y))
    plain = dict(keep=1.0, product=HEAVY_STEP, inertia=0.0)
    same(
        unified(X, Y, dict(add=jnp.full(steps, HEAVY_STEP)) | plain),
        at_solution(b.richardson(steps, HEAVY_STEP)),
    )


@pytest.mark.parametrize("at_new", [False, True], ids=["DARTS", "T1-T2"])
def test_one_step_is_the_derivative_of_the_loss_after_it(at_new):
    ys = inner_path(Y0 + 0.3, 1)
    got = unified(X, ys[1], dict(add=jnp.array([ETA]), path=newest_first(ys[1:] if at_new else ys[:1])))
    f_y = jax.grad(F, argnums=1)(X, ys[1], OUTER)
    same(got, -ETA * cross(ys[int(at_new)], f_y))
    one_step = by_response(b.unrolled(b.descend(CASE.problem, ETA, 1)), ys[0])
    if at_new:
        assert np.abs(got - one_step).max() > 1e-4
    else:
        same(got, one_step)

        def after_one_step(x):
            return F(x, ys[0] - ETA * jax.grad(G, argnums=1)(x, ys[0], INNER), OUTER)

        np.testing.assert_allclose(got, central_difference(jax.jit(after_one_step), X), atol=1e-10)


def test_identity_diagonal_and_first_order_are_one_term_or_none():
    diagonal = jnp.linspace(0.5, 2, 10)
    same(unified(X, Y, dict(add=jnp.ones(1))), -cross(Y, C))
    same(unified(X, Y, dict(add=jnp.ones(1), start=diagonal * C)), -cross(Y, diagonal * C))
    none = unified(X, Y, dict(add=jnp.zeros(1)))
    same(none, by_response(b.first_order(b.descend(CASE.problem, 0.1, 0)), Y))


def test_weights_may_be_a_list_or_of_wider_dtype_than_the_variables():
    same(unified(X, Y, dict(add=[0.4, 0.4], product=0.4)), -cross(Y, neumann_sum(2)))
    x, y = X.astype(jnp.float32), Y.astype(jnp.float32)
    plain = b.Problem(lambda x, y, batch: jnp.sum(y**2), lambda x, y, batch: 0.5 * jnp.sum((y - x) ** 2))
    got = b.unified_hypergradient(plain, x, y, b.full(None, None), add=jnp.ones(2), product=0.5)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, 3 * y, rtol=1e-6)


def test_every_product_and_every_gradient_of_f_read_a_minibatch_of_their_own():
    """Product j and source j read minibatch j of their levels, and f reads the first outer one."""
    m, count = minibatches, 4
    rng = np.random.default_rng(0)
    add, keep, product, inertia, source = rng.uniform(0.1, 1, (5, count))
    xs, ys, start = rng.normal(size=(count, m.P)), rng.normal(size=(count, m.Q)), rng.normal(size=m.Q)
    got = b.unified_hypergradient(
        m.PROBLEM,
        jnp.asarray(m.X),
        jnp.asarray(m.Y),
        m.BATCH,
        add=jnp.asarray(add),
        keep=jnp.asarray(keep),
        product=jnp.asarray(product),
        inertia=jnp.asarray(inertia),
        source=jnp.asarray(source),
        path=(jnp.asarray(xs), jnp.asarray(ys)),
        start=jnp.asarray(start),
    )
    last, p, want = np.zeros(m.Q), start, m.E[0]
    for j in range(count):
        want = want - add[j] * m.C[j].T @ p
        slope = ys[j] - m.B[j]
        new = keep[j] * p - product[j] * m.A[j] @ p + inertia[j] * last + source[j] * slope
        last, p = p, new
    same(got, want)


def test_a_state_carried_at_a_frozen_point_is_a_neumann_sum():
    for algorithm in (
        b.fsla(CASE.problem, inner_optimizer=0.0, outer_optimizer=0.0, adjoint_optimizer=ETA),
        b.soba(CASE.problem, inner_optimizer=0.0, outer_optimizer=0.0, adjoint_optimizer=ETA),
    ):
        state = algorithm.init(X, Y)
        state = lax.fori_loop(0, 7, lambda i, s, a=algorithm: a.step(s, CASE.data, None)[0], state)
        same(state.v, neumann_sum(7))


def test_the_carried_state_of_fsla_is_a_weighted_history_at_the_points_it_passed():
    """FSLA with a schedule moves x and y; weight 1 makes its direction f_x - J v."""
    steps = 7
    rates = jnp.asarray(np.random.default_rng(1).uniform(0.1, 0.5, steps))
    case = logistic_case(direct=True)
    algorithm = b.fsla(
        case.problem,
        inner_optimizer=0.5,
        outer_optimizer=1.0,
        adjoint_optimizer=lambda count: rates[count],
        weight=1.0,
    )
    start = jnp.asarray(np.random.default_rng(2).normal(size=10))
    state = algorithm.init(case.x, case.y)._replace(v=start)

    def step(state, _):
        new = algorithm.step(state, case.data, None)[0]
        # v moves at the old x and the new y.
        return new, (state.x, new.y)

    state, (xs, ys) = lax.scan(step, state, length=steps)
    x, y = xs[-1], ys[-1]
    assert np.linalg.norm(xs[-1] - xs[0]) > 0.3 and np.linalg.norm(ys[-1] - ys[0]) > 0.3

    def and_now(path, now):
        return jnp.concatenate([path, now[None]])

    rates = jnp.concatenate([rates, jnp.zeros(1)])
    weights = dict(add=jnp.zeros(steps + 1).at[-1].set(1.0), product=rates, source=rates, start=start)
    path = and_now(xs, x), and_now(ys, y)
    same(b.unified_hypergradient(case.problem, x, y, case.data, path=path, **weights), state.direction)

    # And the closed form, in numpy.
    outer, inner = case.problem.outer, case.problem.inner
    hessian, pull = jax.jit(jax.hessian(inner, argnums=1)), jax.jit(jax.grad(outer, argnums=1))
    moves = [np.eye(10) - rates[j] * hessian(xs[j], ys[j], INNER) for j in range(steps)]

    def product(factors):
        return np.linalg.multi_dot([np.eye(10), np.eye(10), *factors[::-1]])

    v = product(moves) @ start + sum(
        product(moves[j + 1 :]) @ (rates[j] * pull(xs[j], ys[j], OUTER)) for j in range(steps)
    )
    same(state.v, v)


def test_errors_of_neumann_and_conjugate_gradients_after_six_products():
    def error(v):
        return np.linalg.norm(v - V)

    assert error(neumann_sum(6)) == pytest.approx(0.384, rel=0.01)
    v = b.cg(6).solve(lambda i: lambda w: H @ w, C, jnp.zeros(10))[0]
    assert error(v) == pytest.approx(5.1e-5, rel=0.02)


def test_relative_errors_of_three_series_after_twelve_terms():
    def error(linear):
        v = linear.solve(lambda i: lambda w: H @ w, C, jnp.zeros(10))[0]
        return np.linalg.norm(v - V) / np.linalg.norm(V)

    high, low = EIGENVALUES[-1], EIGENVALUES[0]
    assert error(b.richardson(12, 1 / high)) == pytest.approx(7.7e-4, rel=0.02)
    assert error(b.richardson(12, 2 / (high + low))) == pytest.approx(1.1e-5, rel=0.05)
    assert error(b.heavy_ball(12, high, low)) == pytest.approx(7.8e-8, rel=0.02)


def test_errors_of_back_propagation_fall_with_the_inner_steps():
    assert np.linalg.norm(TRUTH) == pytest.approx(0.0444, rel=0.01)
    for steps, error in ((5, 3.9e-2), (10, 3.0e-2), (20, 1.6e-2), (40, 4.4e-3), (80, 3.6e-4)):
        got = by_response(b.unrolled(b.descend(CASE.problem, ETA, steps)), Y0)
        assert np.linalg.norm(got - TRUTH) == pytest.approx(error, rel=0.03)
