"""First-order, finite-difference and proximal methods: errors, limits and minibatches.

Symbols are those of the library: y is trained on g alone, z also on f.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as b
from bilevel.calculus import cross_difference, products
from bilevel.sampling import Stacked
from cases.minibatches import ALPHA, BATCH, PROBLEM, RHO, A, B, C, E, X, Y
from cases.problems import flat, logistic_case, quadratic_case, quartic_case, relative_error

PENALTIES = np.array([10.0, 100.0, 1000.0])


def slope(errors, sizes):
    return np.diff(np.log(errors)) / np.diff(np.log(sizes))


def direction(algorithm, x, y, data):
    """Return the change of x in the first step, at an outer step size of 1, and the new state."""
    state = algorithm.init(x, y)
    new, _ = jax.jit(algorithm.step)(state, data, None)
    return jax.tree.map(jnp.subtract, state.x, new.x), new


# F2SA and F3SA


@pytest.mark.parametrize(
    "order, want, power",
    [(1, [5.9e-4, 6.2e-5, 6.2e-6], 1), (2, [4.6e-5, 4.6e-7, 4.6e-9], 2)],
    ids=["forward", "central"],
)
def test_error_of_f2sa_is_one_over_the_penalty_and_squared_for_the_central_difference(order, want, power):
    """Kwon et al., ICML 2023, and for the central difference Chen et al., arXiv:2509.02937."""
    case = logistic_case()
    exact = case.exact(case.x)[1]
    assert np.linalg.norm(exact) == pytest.approx(0.0444, rel=2e-3)

    def error(penalty):
        algorithm = b.f2sa(
            case.problem,
            inner_optimizer=2.5,
            outer_optimizer=1.0,
            inner_steps=150,
            penalty=penalty,
            order=order,
        )
        got, _ = direction(algorithm, case.x, case.y, case.data)
        return jnp.linalg.norm(got - exact)

    errors = np.array(jax.jit(jax.vmap(error))(jnp.asarray(PENALTIES)))
    np.testing.assert_allclose(errors, want, rtol=0.02)  # two digits are given
    np.testing.assert_allclose(slope(errors, PENALTIES), -power, atol=0.05)


@pytest.mark.parametrize("name", ["f2sa", "f3sa"])
def test_fixed_point_of_the_penalty_is_stationary_up_to_one_over_the_penalty(name):
    """On `logistic_case` with its direct term, |grad Phi| = 6.1e-3 / penalty at the fixed point."""
    case = logistic_case(direct=True)

    def last(penalty):
        algorithm = getattr(b, name)(case.problem, inner_optimizer=0.5, outer_optimizer=0.5, penalty=penalty)
        return b.advance(
            algorithm, algorithm.init(case.x, case.y), case.data, jax.random.key(0), start=0, steps=2000
        )

    states = jax.jit(jax.vmap(last))(jnp.asarray(PENALTIES))
    norms = [np.linalg.norm(case.exact(x)[1]) for x in states.x]
    np.testing.assert_allclose(norms[1:], 6.1e-3 / PENALTIES[1:], rtol=0.02)
    # y solves the inner problem, z does not.
    for x, y, z, penalty in zip(states.x, states.y, states.z, PENALTIES, strict=True):
        solution = case.exact(x)[0]
        assert np.linalg.norm(y - solution) < 1e-8 < 0.1 / penalty < np.linalg.norm(z - solution)


def test_a_penalty_built_from_increments_grows_by_their_sum():
    """Increments of 0.1 (k + 1)^(-1/7) do not make a penalty that grows like k^(1/7)."""
    grown = 1 + np.cumsum(0.1 * np.arange(1, 10_001) ** (-1 / 7))
    np.testing.assert_allclose(grown[[99, 999, 9999]], [7, 44, 314], rtol=0.05)
    case = quartic_case()
    algorithm = b.f2sa(case.problem, penalty=lambda k: 2.0 + 3.0 * k.astype(float))
    same = b.f2sa(case.problem, penalty=5.0)
    state = algorithm.init(case.x, case.y)._replace(count=jnp.ones((), jnp.int32))
    got, want = (jax.jit(a.step)(state, case.data, None)[0] for a in (algorithm, same))
    np.testing.assert_allclose(got.x, want.x, rtol=1e-13)
    np.testing.assert_allclose(got.z, want.z, rtol=1e-13)


@pytest.mark.parametrize("weight", [1.0, 0.2])
def test_f3sa_on_full_batches_is_f2sa_with_one_inner_step(weight):
    case = quartic_case()
    settings: dict[str, Any] = dict(inner_optimizer=0.3, outer_optimizer=0.05, penalty=5.0)
    paths = []
    for algorithm in (
        b.f2sa(case.problem, inner_steps=1, **settings),
        b.f3sa(case.problem, weight=weight, **settings),
    ):

        def step(state, _, algorithm=algorithm):
            state = algorithm.step(state, case.data, None)[0]
            return state, (state.x, state.y, state.z)

        paths.append(jax.lax.scan(step, algorithm.init(case.x, case.y), length=40)[1])
    # Rounding, times a penalty of 5 and 40 steps.
    for got, want in zip(*paths, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)


def test_paired_minibatches_cancel_the_noise_that_the_penalty_multiplies():
    """g_x is noisy and z - y is of the order of 1 / penalty: the variance of two samples is 2 penalty^2."""
    problem = b.Problem(
        lambda x, y, batch: 0.5 * (y - 1) ** 2, lambda x, y, batch: 0.5 * y**2 + (0.5 * y + batch.mean()) * x
    )
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(400, 4)))
    spread, outer = [], b.full(None, None).outer
    for paired in (False, True):
        algorithm = b.f2sa(problem, outer_optimizer=1.0, penalty=100.0, inner_steps=1, paired=paired)
        state = algorithm.init(jnp.zeros(()), jnp.zeros(()))
        moved = jax.vmap(lambda n, a=algorithm, s=state: a.step(s, b.Batch(outer, Stacked(n)), None)[0].x)
        spread.append(np.std(jax.jit(moved)(noise)))
    assert spread[0] == pytest.approx(100 * np.sqrt(2), rel=0.1) and spread[1] < 1e-12


def test_f2sa_on_minibatches_ends_closer_to_the_solution_with_paired_minibatches():
    """y* = x + mean of the rows, f = |y - target|^2 / 2: Phi is |x - target|^2 / 2 on centred rows."""
    rng = np.random.default_rng(0)
    rows, target = rng.normal(size=(1024, 8)), jnp.asarray(rng.normal(size=8))
    problem = b.Problem(
        lambda x, y, batch: 0.5 * jnp.sum((y - target) ** 2),
        lambda x, y, batch: 0.5 * jnp.sum((y - x - batch.mean(0)) ** 2),
    )
    data = b.minibatches(None, rows - rows.mean(0), batch_size=64)
    start = jnp.zeros(8), jnp.zeros(8)

    def final_loss(**settings):
        algorithm = b.f2sa(problem, outer_optimizer=0.3, **settings)
        keys = jax.random.split(jax.random.key(0), 4)
        x = b.run(algorithm, *start, data, steps=300, key=keys, log_every=300).state.x
        return np.mean(np.sum((x - target[None]) ** 2, axis=1)) / 2

    # Phi is 4.1 at the start.
    assert final_loss() < 0.5 < 1 < final_loss(paired=False)


# BOME


@pytest.mark.parametrize("barrier", ["gradient", "value"])
@pytest.mark.parametrize("seed", range(4))
def test_bome_decreases_the_value_gap_at_exactly_the_rate_of_its_barrier(barrier, seed):
    """Liu et al., NeurIPS 2022: <grad q, direction> = max(<grad f, grad q>, phi)."""
    case, rng = quartic_case(), np.random.default_rng(seed)
    f, g = case.problem.outer, case.problem.inner
    x, y = (jnp.asarray(rng.normal(size=n)) for n in (4, 5))
    algorithm = b.bome(
        case.problem,
        inner_optimizer=0.2,
        outer_optimizer=1.0,
        penalised_optimizer=1.0,
        barrier=barrier,
        control=0.7,
    )
    state, _ = algorithm.step(algorithm.init(x, y), case.data, None)
    end = b.descend(case.problem, 0.2, 10).solve(x, y, case.data)
    np.testing.assert_array_equal(state.y, end)
    value, q = jax.value_and_grad(lambda x, y: g(x, y, None) - g(x, end, None), argnums=(0, 1))(x, y)
    q, slope = flat(q), flat(jax.grad(f, argnums=(0, 1))(x, y, None))
    phi = 0.7 * (q @ q if barrier == "gradient" else float(value))
    moved = np.concatenate([x - state.x, y - state.z])
    assert q @ moved == pytest.approx(max(slope @ q, phi), rel=1e-12)
    # The penalty acts along grad q alone: the rest of the direction comes from f.
    np.testing.assert_allclose(
        moved - q * (q @ moved) / (q @ q), slope - q * (q @ slope) / (q @ q), atol=1e-12
    )


def test_bome_at_the_inner_solution_has_no_penalty_and_no_nan():
    problem = b.Problem(lambda x, y, batch: (y - 1.0) ** 2 + x**2, lambda x, y, batch: y**2)
    algorithm = b.bome(problem, outer_optimizer=0.5, penalised_optimizer=0.5)
    state, _ = algorithm.step(algorithm.init(3.0, 0.0), b.full(None, None), None)
    assert (float(state.x), float(state.z)) == (0.0, 1.0)


# V-PBGD


# The toy problem of Shen and Chen, ICML 2023, arXiv:2302.05185.
def toy(x, y, batch):
    return jnp.cos(4 * y + 2) / (1 + jnp.exp(2 - 4 * x)) + 0.5 * jnp.log((4 * x - 2) ** 2 + 1)


def toy_inner(x, y, batch):
    return (x + y) ** 2 + x * jnp.sin(x + y) ** 2


def test_gradient_of_the_toy_problem_of_v_pbgd():
    """The authors' code has 1 + e^2 in f_x instead of (1 + e)^2, and gives 0.458."""
    x, y = 0.7, 0.3
    central = (toy(x + 1e-6, y, None) - toy(x - 1e-6, y, None)) / 2e-6
    assert float(jax.grad(toy)(x, y, None)) == pytest.approx(float(central), abs=1e-8)
    assert float(central) == pytest.approx(1.097040, abs=1e-6)


@pytest.mark.parametrize(
    "penalty, ends, gap", [(10.0, [0.367, 1.188, 2.824], None), (100.0, [0.381, 1.213, 2.829], 0.003)]
)
def test_v_pbgd_ends_near_the_local_minima_of_the_toy_problem(penalty, ends, gap):
    """The distance to the minima of Phi, 0.3824, 1.2152 and 2.8296, is O(1 / penalty)."""
    problem = b.Problem(toy, toy_inner, outer_projection=lambda x: jnp.clip(x, 0, 3))
    algorithm = b.v_pbgd(problem, penalty=penalty)
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.uniform(0, 3, 60)), jnp.asarray(rng.uniform(-5, 8.5, 60))

    @jax.jit
    @jax.vmap
    def last(x, y):
        # As in the authors' code, the value gap is evaluated at the solution y = -x from the first step on.
        state = algorithm.init(x, y)._replace(y=-x)
        return b.advance(algorithm, state, b.full(None, None), jax.random.key(0), start=0, steps=30_000)

    states = last(x, y)
    found = np.asarray(states.x)
    nearest = np.argmin(np.abs(found[:, None] - np.array(ends)), axis=1)
    np.testing.assert_allclose(found, np.array(ends)[nearest], atol=1e-3)  # three digits are given
    assert set(nearest) == {0, 1, 2}
    assert np.max(np.abs(states.x + states.y)) < 1e-6
    if gap:
        assert np.max(np.abs(states.x + states.z)) <= gap


def test_v_pbgd_starts_without_a_penalty():
    case = quartic_case()
    algorithm = b.v_pbgd(case.problem, outer_optimizer=1.0, penalty=optax.linear_schedule(0.0, 4.0, 2))
    state = algorithm.init(case.x, case.y)
    first, _ = algorithm.step(state, case.data, None)
    np.testing.assert_array_equal(state.x - first.x, jax.grad(case.problem.outer)(case.x, case.y, None))
    third, _ = algorithm.step(state._replace(count=jnp.full((), 2)), case.data, None)
    y = case.y - 0.1 * jax.grad(case.problem.inner, argnums=1)(case.x, case.y, None)
    g_x = jax.grad(case.problem.inner)
    want = state.x - first.x + 4 * (g_x(case.x, case.y, None) - g_x(case.x, y, None))
    np.testing.assert_allclose(state.x - third.x, want / 4, rtol=1e-12)


# Finite differences: DARTS and SAMA


def test_cross_difference_has_slope_two_and_is_exact_where_g_x_is_quadratic_in_y():
    """With g = e^x y^4 / 4 the error is exactly e^x y u^3 eps^2."""
    rng = np.random.default_rng(0)
    x, y, u = (jnp.asarray(rng.normal(size=6)) for _ in range(3))
    u = u / jnp.linalg.norm(u)

    def quartic(x, y, batch):
        return jnp.sum(jnp.exp(x) * y**4) / 4 + 0.5 * jnp.sum(y**2)

    exact = products(quartic, x, y, None, u).cross
    lengths = np.array([0.1, 0.01, 0.001])
    errors = [np.linalg.norm(cross_difference(quartic, x, y, None, u, length) - exact) for length in lengths]
    np.testing.assert_allclose(errors, np.linalg.norm(np.exp(x) * y * u**3) * lengths**2, rtol=1e-6)
    case = logistic_case()
    y, exact = case.y + 0.5, jnp.exp(case.x) * (case.y + 0.5)
    for length in lengths:
        got = cross_difference(case.problem.inner, case.x, y, case.data.inner[0], 7.0 * jnp.ones(10), length)
        np.testing.assert_allclose(got, 7.0 * exact, rtol=1e-15 / length)
    zero = cross_difference(case.problem.inner, case.x, y, case.data.inner[0], jnp.zeros(10), 0.1)
    np.testing.assert_array_equal(zero, 0)


def test_darts_is_the_derivative_of_one_inner_step():
    """The finite difference is exact on `logistic_case`, and of second order on a quartic problem."""
    case = logistic_case(direct=True)
    y = jnp.asarray(np.random.default_rng(0).normal(size=10))

    def truth(problem, x, y, data, rate):
        return jax.grad(
            lambda x: problem.outer(
                x, y - rate * jax.grad(problem.inner, argnums=1)(x, y, data.inner[0]), data.outer[0]
            )
        )(x)

    want = truth(case.problem, case.x, y, case.data, 0.7)
    got, state = direction(b.darts(case.problem, outer_optimizer=1.0, virtual_step=0.7), case.x, y, case.data)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    unrolled = b.unrolled(b.descend(case.problem, 0.7, 1))
    np.testing.assert_allclose(
        got, b.hypergradient(case.problem, unrolled, case.x, y, case.data)[0], rtol=1e-12
    )
    # y is trained at the new x.
    g_y = jax.grad(case.problem.inner, argnums=1)(state.x, y, case.data.inner[0])
    np.testing.assert_allclose(state.y, y - 0.1 * g_y, rtol=1e-14)
    problem = b.Problem(
        lambda x, y, batch: jnp.sum((y - 1) ** 2), lambda x, y, batch: jnp.sum(jnp.exp(x) * y**4 + y**2)
    )
    errors = []
    for difference in (0.1, 0.01, 0.001):
        algorithm = b.darts(problem, outer_optimizer=1.0, difference=difference)
        got, _ = direction(algorithm, case.x, y, b.full(None, None))
        errors.append(np.linalg.norm(got - truth(problem, case.x, y, b.full(None, None), 0.1)))
    np.testing.assert_allclose(slope(errors, [0.1, 0.01, 0.001]), 2, atol=0.02)


def test_darts_without_a_virtual_step_drops_the_indirect_term():
    case = quartic_case()
    algorithm = b.darts(case.problem, outer_optimizer=1.0, virtual_step=0)
    assert algorithm.cost == b.Cost(gradients=2)
    got, _ = direction(algorithm, case.x, case.y, case.data)
    np.testing.assert_array_equal(got, jax.grad(case.problem.outer)(case.x, case.y, None))
    with pytest.raises(ValueError, match="virtual_step must be given"):
        b.darts(case.problem, inner_optimizer=optax.adam(0.1))


def test_sama_of_gradient_descent_replaces_the_inverse_hessian_by_the_identity():
    case = logistic_case(direct=True)
    y = jnp.asarray(np.random.default_rng(0).normal(size=10))
    got, state = direction(b.sama(case.problem, outer_optimizer=1.0, inner_steps=3), case.x, y, case.data)
    f_x, f_y = jax.grad(case.problem.outer, argnums=(0, 1))(case.x, state.y, case.data.outer[0])
    np.testing.assert_allclose(got, f_x - jnp.exp(case.x) * state.y * f_y, rtol=1e-12)


@pytest.mark.parametrize("length", [None, 0.1])
def test_sama_takes_a_difference_of_the_given_length_which_is_one_by_default(length):
    """g = e^x y^4 / 4: the central difference along u is off by e^x y u^3 eps^2, eps = length / |u|."""
    problem = b.Problem(
        lambda x, y, batch: 0.5 * jnp.sum((y - 1) ** 2), lambda x, y, batch: jnp.sum(jnp.exp(x) * y**4) / 4
    )
    x, y = (jnp.asarray(np.random.default_rng(0).normal(size=5)) for _ in range(2))
    settings = {} if length is None else dict(difference=length)
    algorithm = b.sama(problem, inner_optimizer=0.0, outer_optimizer=1.0, **settings)
    got, _ = direction(algorithm, x, y, b.full(None, None))
    u = y - 1
    eps = (length or 1.0) / jnp.linalg.norm(u)
    np.testing.assert_allclose(got, -jnp.exp(x) * (y**3 * u + y * u**3 * eps**2), rtol=1e-11)


def test_adam_derivative_is_that_of_optax_after_many_steps():
    """`adam_derivative` has no bias correction, whose effect is gone after 100,000 steps."""
    rng = np.random.default_rng(0)
    mu, g = {"a": jnp.asarray(rng.normal(size=5))}, {"a": jnp.asarray(rng.normal(size=5))}
    nu = {"a": jnp.asarray(rng.uniform(0.5, 2, size=5))}
    adam: Any = optax.chain(optax.clip(10.0), optax.adam(0.02, b1=0.8, b2=0.99))
    derivative = b.adam_derivative(0.02, b1=0.8, b2=0.99)
    errors = []
    for count in (10, 100_000):
        state = optax.tree.set(adam.init(g), count=jnp.full((), count, jnp.int32), mu=mu, nu=nu)
        # An optax update is minus the step. optax.adam mixes integers and floats.
        with jax.numpy_dtype_promotion("standard"):
            exact = -jnp.diagonal(jax.jacobian(lambda g, s=state: adam.update(g, s)[0]["a"])(g)["a"])
        errors.append(relative_error(derivative(state, g), exact))
    assert errors[1] < 1e-6 and errors[0] > 0.1


# Constraints and prox


def constrained_quadratic(seed=0, size=10, count=3):
    """g = y'Qy / 2 - (Px)'y under A y = B x, f = |y - t|^2 / 2, solved by the KKT system."""
    rng = np.random.default_rng(seed)
    M, P = rng.normal(size=(size, size)), rng.normal(size=(size, size))
    A, B = rng.normal(size=(count, size)), rng.normal(size=(count, size))
    t, x = rng.normal(size=size), rng.normal(size=size)
    Q = M @ M.T / 10 + np.eye(size)
    system = np.block([[Q, A.T], [A, np.zeros((count, count))]])
    answer = np.linalg.solve(system, np.vstack([P, B]))

    def value(x):
        return 0.5 * np.sum((answer[:size] @ x - t) ** 2)

    problem = b.Problem(
        lambda x, y, batch: 0.5 * jnp.sum((y - t) ** 2), lambda x, y, batch: 0.5 * y @ Q @ y - (P @ x) @ y
    )
    return problem, lambda x, y: A @ y - B @ x, jnp.asarray(x), value, answer


def test_error_of_constrained_first_order_is_proportional_to_the_perturbation():
    """Error of first order in the perturbation, against central differences of Phi."""
    problem, constraint, x, value, answer = constrained_quadratic()
    steps = 1e-5 * np.eye(10)
    exact = np.array([(value(x + step) - value(x - step)) / 2e-5 for step in steps])
    errors, sizes = [], [0.1, 0.01, 0.001]
    for perturbation in sizes:
        algorithm = b.constrained_first_order(
            problem,
            inner_optimizer=0.04,
            outer_optimizer=1.0,
            inner_steps=6000,
            constraint=constraint,
            dual_step=1.0,
            perturbation=perturbation,
        )
        got, state = direction(algorithm, x, jnp.zeros(10), b.full(None, None))
        errors.append(relative_error(got, exact))
    np.testing.assert_allclose(np.concatenate([state.y, state.multipliers[0]]), answer @ x, atol=1e-10)
    np.testing.assert_allclose(constraint(x, state.z), 0, atol=1e-10)
    np.testing.assert_allclose(slope(errors, sizes), 1, atol=0.1)
    np.testing.assert_allclose(errors, [7.7e-2, 8.4e-3, 8.4e-4], rtol=0.05)


def test_constrained_first_order_without_constraints_is_f2sa():
    """Here f does not depend on x directly, so the point at which f_x is evaluated does not matter."""
    case = logistic_case()
    settings: dict[str, Any] = dict(inner_optimizer=0.5, outer_optimizer=1.0, inner_steps=5)
    got, _ = direction(
        b.constrained_first_order(case.problem, perturbation=0.1, **settings), case.x, case.y, case.data
    )
    want, _ = direction(b.f2sa(case.problem, penalty=10.0, **settings), case.x, case.y, case.data)
    np.testing.assert_allclose(got, want, rtol=1e-10)


def test_prox_aid_ends_at_a_stationary_point_of_the_nonsmooth_problem_with_exact_zeros():
    """Quadratic losses, h = 0.3 |x|_1."""
    case = quadratic_case()
    rate = 0.05

    def soft(x, scale=1.0):
        return jax.tree.map(lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.3 * scale, 0), x)

    algorithm = b.prox_aid(
        case.problem,
        inner_optimizer=case.step,
        outer_optimizer=rate,
        momentum=0.3,
        prox=lambda x: soft(x, rate),
    )
    state = jax.jit(
        lambda state: b.advance(algorithm, state, case.data, jax.random.key(0), start=0, steps=1000)
    )(algorithm.init(case.x, case.y))
    x = flat(state.x)
    assert 0 < np.sum(x == 0) < 6
    np.testing.assert_allclose(x, soft(x - case.exact(state.x)[1]), atol=1e-10)


def test_nesterov_is_the_accelerated_recursion_and_its_derivative_is_exact():
    H, c = jnp.diag(jnp.asarray([0.1, 0.5, 1.0])), jnp.asarray([1.0, -2.0, 0.5])
    v = last = ahead = np.zeros(3)
    for _ in range(7):
        v, last = ahead - 0.9 * (H @ ahead - c), v
        ahead = v + 0.5 * (v - last)
    got, residual = b.nesterov(7, 0.9, 0.5).solve(lambda i: lambda w: H @ w, c, jnp.zeros(3))
    np.testing.assert_allclose(got, v, rtol=1e-14)
    assert residual == pytest.approx(np.linalg.norm(H @ v - c) / np.linalg.norm(c))
    plain, _ = b.richardson(7, 0.9).solve(lambda i: lambda w: H @ w, c, jnp.zeros(3))
    same, _ = b.nesterov(7, 0.9, 0.0).solve(lambda i: lambda w: H @ w, c, jnp.zeros(3))
    np.testing.assert_allclose(same, plain, rtol=1e-14)
    solve = jax.jacrev(
        lambda c: b.nesterov(300, 0.9, 0.5).solve(lambda i: lambda w: H @ w, c, jnp.zeros(3))[0]
    )
    np.testing.assert_allclose(solve(c), jnp.linalg.inv(H), atol=1e-10)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\), got 1"):
        b.nesterov(3, 0.1, 1)


# Minibatches: g_i = y'A_i y / 2 + y'C_i x,  f_j = |y - b_j|^2 / 2 + e_j'x


def g_y(i, x, y):
    return A[i] @ y + C[i] @ x


def f2sa(x, memory):
    y, z = memory or (Y, Y)
    for t in range(2):
        y, z = y - RHO * g_y(2 * t, x, y), z - RHO * (g_y(2 * t + 1, x, z) + (z - B[t]) / 7)
    return x - ALPHA * (E[2] + 7 * (C[5].T @ z - C[4].T @ y)), y, (y, z)


def f2sa_paired(x, memory):
    new, y, (_, z) = f2sa(x, memory)
    return new + ALPHA * 7 * (C[5] - C[4]).T @ z, y, (y, z)


def f2sa_central(x, memory):
    low, high = memory or (Y, Y)
    for t in range(2):
        low = low - RHO * (g_y(2 * t, x, low) - (low - B[2 * t]) / 7)
        high = high - RHO * (g_y(2 * t + 1, x, high) + (high - B[2 * t + 1]) / 7)
    d = (E[4] + E[5]) / 2 + 7 * (C[5].T @ high - C[4].T @ low) / 2
    return x - ALPHA * d, (low + high) / 2, (low, high)


def f3sa(x, memory, levels=None, shares=None):
    y, z, last, d, k = memory or (Y, Y, None, None, 0)
    level, keep = (levels or {}).get(k, 7), 1 - (shares or {}).get(k, 0.2)

    def inner(x, y, z):
        return [g_y(0, x, y), g_y(1, x, z), z - B[0]]

    def outer(x, y, z):
        return [E[1], C[3].T @ z, C[2].T @ y]

    def storm(gradients, now, before, old):
        if old is None:
            return gradients(*now)
        terms = zip(gradients(*now), gradients(*before), old, strict=True)
        return [fresh + keep * (d - stale) for fresh, stale, d in terms]

    d_inner = storm(inner, (x, y, z), last, d and d[0])
    old_y, old_z = y, z
    y, z = y - RHO * d_inner[0], z - RHO * (d_inner[1] + d_inner[2] / level)
    d_outer = storm(outer, (x, y, z), last and (last[0], old_y, old_z), d and d[1])
    new = x - ALPHA * (d_outer[0] + level * (d_outer[1] - d_outer[2]))
    return new, y, (y, z, (x, old_y, old_z), (d_inner, d_outer), k + 1)


def f3sa_scheduled(x, memory):
    return f3sa(x, memory, {0: 2, 1: 5, 2: 8}, {0: 1.0, 1: 0.5, 2: 1 / 3})


def bome(x, memory):
    z = y = Y if memory is None else memory
    for t in range(3):
        y = y - RHO * g_y(t, x, y)
    q = np.concatenate([C[3].T @ (z - y), g_y(3, x, z)])
    f = np.concatenate([E[0], z - B[0]])
    d = f + max(0.5 * q @ q - f @ q, 0) / (q @ q) * q
    return x - ALPHA * d[:2], y, z - RHO * d[2:]


def v_pbgd(x, memory, scale=1 / 7, level=7.0):
    y, z = memory or (Y, Y)
    for t in range(2):
        y = y - RHO * g_y(t, x, y)
    d_x, d_z = E[0] + level * C[2].T @ (z - y), (z - B[0]) + level * g_y(2, x, z)
    return x - ALPHA * scale * d_x, y, (y, z - RHO * scale * d_z)


def v_pbgd_scheduled(x, memory):
    """Penalties 0, 0.6 and 1.2: below 1 nothing is scaled. z moves by its own step size."""
    k, memory = memory or (0, None)
    before = (Y, Y) if memory is None else memory
    x, y, (_, z) = v_pbgd(x, before, 1 / max(0.6 * k, 1), 0.6 * k)
    return x, y, (k + 1, (y, before[1] + 0.5 * (z - before[1])))


def darts(x, memory):
    y = Y if memory is None else memory
    w = y - RHO * g_y(0, x, y) - B[0]
    x = x - ALPHA * (E[0] - RHO * C[0].T @ w)
    y = y - RHO * g_y(0, x, y)
    return x, y, y


def sama(x, memory):
    y = Y if memory is None else memory
    for t in range(3):
        y = y - RHO * g_y(t, x, y)
    return x - ALPHA * (E[0] - C[2].T @ (y - B[0])), y, y


def sama_adam(x, memory):
    y, mu, nu, count = memory or (Y, np.zeros(3), np.zeros(3), 0)
    for t in range(3):
        g, count = g_y(t, x, y), count + 1
        slope = 0.1 * 0.999 * nu - 0.9 * 0.001 * g * mu
        mu, nu = 0.9 * mu + 0.1 * g, 0.999 * nu + 0.001 * g**2
        y = y - 0.05 * (mu / (1 - 0.9**count)) / (np.sqrt(nu / (1 - 0.999**count)) + 1e-8)
    D = 0.05 * slope / (np.sqrt(nu) + 1e-8) ** 3
    return x - ALPHA * (E[0] - C[2].T @ (D * (y - B[0]))), y, (y, mu, nu, count)


def prox_aid(x, memory):
    y, v = memory or (Y, np.zeros(3))
    for t in range(2):
        y = y - RHO * g_y(t, x, y)
    ahead = v
    for _ in range(3):
        v, last = ahead - 0.2 * (A[2] @ ahead - (y - B[0])), v
        ahead = v + 0.4 * (v - last)
    return np.clip(x - ALPHA * (E[0] - C[3].T @ v), -0.2, 0.2), y, (y, v)


def constrained_first_order(x, memory):
    y, l, z, m = memory or (Y, np.zeros(1), Y, np.zeros(1))
    a, c = np.array([[1.0, 2.0, -1.0]]), np.array([[0.5, 3.0]])
    for t in range(2):
        y, z = (
            y - RHO * (g_y(t, x, y) + a.T @ (l + 0.1 * (a @ y - c @ x))),
            z - RHO * (g_y(t, x, z) + (z - B[t]) / 7 + a.T @ (m + 0.1 * (a @ z - c @ x))),
        )
        l, m = l + 0.1 * (a @ y - c @ x), m + 0.1 * (a @ z - c @ x)
    d = E[2] + 7 * (C[2].T @ (z - y) - c.T @ (m - l))
    return x - ALPHA * d, y, (y, l, z, m)


def line(x, y):
    return jnp.asarray([[1.0, 2.0, -1.0]]) @ y - jnp.asarray([[0.5, 3.0]]) @ x


ADAM: dict[str, Any] = dict(inner_optimizer=optax.adam(0.05), adaptation=b.adam_derivative(0.05))
MINIBATCHES = {
    f2sa: (b.f2sa, dict(penalty=7.0, inner_steps=2, paired=False)),
    f2sa_paired: (b.f2sa, dict(penalty=7.0, inner_steps=2)),
    f2sa_central: (b.f2sa, dict(penalty=7.0, inner_steps=2, order=2, paired=False)),
    f3sa: (b.f3sa, dict(penalty=7.0, weight=0.2)),
    f3sa_scheduled: (
        b.f3sa,
        dict(penalty=lambda k: 2.0 + 3.0 * k.astype(float), weight=lambda k: 1 / (1.0 + k.astype(float))),
    ),
    bome: (b.bome, dict(inner_steps=3)),
    v_pbgd: (b.v_pbgd, dict(penalty=7.0, inner_steps=2)),
    v_pbgd_scheduled: (
        b.v_pbgd,
        dict(penalty=lambda k: 0.6 * k.astype(float), inner_steps=2, penalised_optimizer=RHO / 2),
    ),
    darts: (b.darts, {}),
    sama: (b.sama, dict(inner_steps=3)),
    sama_adam: (b.sama, dict(inner_steps=3) | ADAM),
    prox_aid: (
        b.prox_aid,
        dict(inner_steps=2, linear_steps=3, rate=0.2, momentum=0.4, prox=lambda x: jnp.clip(x, -0.2, 0.2)),
    ),
    constrained_first_order: (
        b.constrained_first_order,
        dict(inner_steps=2, perturbation=1 / 7, constraint=line),
    ),
}


@pytest.mark.parametrize("reference", MINIBATCHES, ids=lambda function: function.__name__)
def test_every_minibatch_is_read_where_the_paper_reads_it(reference):
    factory, settings = MINIBATCHES[reference]
    algorithm = factory(PROBLEM, **dict(inner_optimizer=RHO, outer_optimizer=ALPHA) | settings)
    state = algorithm.init(jnp.asarray(X), jnp.asarray(Y))
    step, x, memory = jax.jit(algorithm.step), X, None
    for _ in range(3):
        # optax.adam mixes integers and floats.
        with jax.numpy_dtype_promotion("standard"):
            state, _ = step(state, BATCH, None)
        x, y, memory = reference(x, memory)
        # The finite differences divide rounding errors by 0.01, the penalties multiply them by 7.
        np.testing.assert_allclose(state.x, x, atol=1e-12)
        np.testing.assert_allclose(state.y, y, atol=1e-12)


def test_arguments_out_of_range_are_refused():
    problem = quartic_case().problem
    for build, match in [
        (lambda: b.f2sa(problem, penalty=0), "penalty must be positive, got 0"),
        (lambda: b.f2sa(problem, order=3), "order must be 1 or 2, got 3"),
        (lambda: b.f3sa(problem, penalty=-1.0), "penalty must be positive, got -1.0"),
        (lambda: b.f3sa(problem, weight=2.0), r"weight must be in \(0, 1\], got 2.0"),
        (lambda: b.bome(problem, control=0), "control must be positive, got 0"),
        (lambda: b.bome(problem, barrier="q"), 'barrier must be "gradient" or "value", got \'q\''),
        (lambda: b.v_pbgd(problem, penalty=-1), "penalty must not be negative, got -1"),
        (lambda: b.sama(problem, inner_steps=0), "inner_steps must be at least 1, got 0"),
        (lambda: b.sama(problem, difference=0.0), "difference must be positive, got 0.0"),
        (lambda: b.darts(problem, difference=0.0), "difference must be positive, got 0.0"),
        (lambda: b.darts(problem, virtual_step=-0.1), "virtual_step must be at least 0, got -0.1"),
        (lambda: b.constrained_first_order(problem, dual_step=0), "dual_step must be positive, got 0"),
        (lambda: b.constrained_first_order(problem, perturbation=0), "perturbation must be positive, got 0"),
    ]:
        with pytest.raises(ValueError, match=match):
            build()
