"""AccBiO and the worst-case instance: closed forms, rates of convergence and minibatches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import bilevel as b
from bilevel import tasks
from bilevel.comparison import Budget, compare
from bilevel.tasks.worst_case import anti_difference, anti_difference_matrix
from cases.minibatches import ALPHA, BATCH, PROBLEM, RHO, A, B, C, E, X, Y
from cases.problems import quadratic_case, quartic_case

KAPPA_Y, KAPPA_X, INNER_STEPS, LINEAR_STEPS = 6.0, 9.0, 4, 3


def gaps(algorithm, task, steps):
    """Return the relative gap of Phi after 0, 1, .. steps, computed from its quadratic form."""
    data = task.data

    def step(state, _):
        state, _ = algorithm.step(state, data, None)
        return state, task.metrics(state.x, state.y, task.held)["suboptimality"]

    state = algorithm.init(*task.start(None))
    first = task.metrics(state.x, state.y, task.held)["suboptimality"]
    return np.append(1.0, jax.jit(lambda s: lax.scan(step, s, length=steps)[1])(state) / first)


def fitted(factory, task, calls, **settings):
    """Return an accelerated method with the constants of the task and `calls` steps in both solves."""
    steps = dict(inner_optimizer=task.inner_step, outer_optimizer=task.outer_step)
    conditions = dict(inner_condition=task.inner_condition, outer_condition=task.outer_condition)
    return factory(task.problem, **(steps | conditions | settings), inner_steps=calls, linear_steps=calls)


def aid(task):
    return b.aid_bio(
        task.problem,
        inner_optimizer=task.inner_step,
        outer_optimizer=task.outer_step,
        inner_steps=40,
        linear_solver=b.cg(10),
    )


def first_below(gaps, level):
    return int(np.argmax(gaps <= level)) if (gaps <= level).any() else None


def near(want):
    """Return whether counts agree within 5 % or 2 iterations, which rounding can change."""
    return pytest.approx(want, rel=0.05, abs=2)


# The worst-case instance


def test_z_is_symmetric_its_square_is_the_matrix_of_second_differences_and_its_norm_is_below_two():
    Z = anti_difference_matrix(6)
    want = np.zeros((6, 6))
    for i in range(6):
        want[i, 5 - i] = 1
        if i > 0:
            want[i, 6 - i] = -1
    np.testing.assert_array_equal(Z, want)
    np.testing.assert_array_equal(Z, Z.T)
    T = 2 * np.eye(6) - np.eye(6, k=1) - np.eye(6, k=-1)
    T[0, 0] = 1
    np.testing.assert_array_equal(Z @ Z, T)
    np.testing.assert_array_equal(anti_difference(jnp.arange(6.0) ** 2), Z @ np.arange(6.0) ** 2)
    assert np.linalg.norm(anti_difference_matrix(400), 2) == pytest.approx(1.99998, abs=1e-5)


def test_closed_forms_of_the_instance_agree_with_its_losses():
    task = tasks.worst_case(dim=300, outer_convexity=0.01, inner_convexity=0.2)
    zero = jnp.zeros(300)
    (f_xx, f_xy), (_, f_yy) = jax.hessian(task.problem.outer, argnums=(0, 1))(zero, zero, None)
    (_, J), (_, H) = jax.hessian(task.problem.inner, argnums=(0, 1))(zero, zero, None)
    y = -np.linalg.solve(H, jax.grad(task.problem.inner, argnums=1)(zero, zero, None))
    response = -np.linalg.solve(H, J.T)
    f_x, f_y = jax.grad(task.problem.outer, argnums=(0, 1))(zero, jnp.asarray(y), None)
    curvature = f_xx + f_xy @ response + response.T @ f_xy.T + response.T @ f_yy @ response
    best, held_curvature, lowest = map(np.asarray, task.held)
    np.testing.assert_allclose(held_curvature, curvature, atol=1e-12)
    # The minimiser amplifies rounding by the condition number, 325.
    np.testing.assert_allclose(-held_curvature @ best, f_x + response.T @ f_y, atol=1e-12)
    at_best = task.problem.outer(jnp.asarray(best), jnp.asarray(y + response @ best), None)
    assert lowest == pytest.approx(float(at_best), rel=1e-12)
    spectrum = np.linalg.eigvalsh(curvature)
    np.testing.assert_allclose(spectrum[[0, -1]], [0.0102, 3.2482], atol=5e-5)
    assert task.outer_condition == pytest.approx(324.8, abs=0.05) and spectrum[0] >= 0.01
    assert task.inner_condition == pytest.approx(5.0, abs=0.01)
    assert task.outer_step == pytest.approx(1 / spectrum[-1], rel=1e-12)
    assert task.inner_step == pytest.approx(1 / np.linalg.eigvalsh(H)[-1], rel=1e-12)


def test_metrics_of_the_instance_are_exact(key):
    task = tasks.worst_case(dim=20, outer_convexity=0.1)
    x, data = jax.random.normal(key, (20,)), task.data
    fit = b.solution(b.implicit(task.problem, b.descend(task.problem, task.inner_step, 300), b.cg(20)))
    phi, slope = jax.value_and_grad(lambda x: task.problem.outer(x, fit(x, jnp.zeros_like(x), data), None))(x)
    metrics = task.metrics(x, None, task.held)
    assert metrics["outer_loss"] == pytest.approx(float(phi), rel=1e-12)
    assert metrics["suboptimality"] == pytest.approx(float(phi - task.held[2]), rel=1e-12)
    assert metrics["stationarity"] == pytest.approx(float(jnp.linalg.norm(slope)), rel=1e-10)


def decay(mu_x, mu_y):
    """`(lambda, tau, roots)` of the recurrence of x* in the lower bound of Ji and Liang, JMLR 2023."""
    a, c = (1 - mu_x) / 4, (1 - mu_y) / 4
    s = a * mu_y + 0.5
    den = mu_x * c**2 + s * c
    lam, tau = (2 * mu_x * c * mu_y + s * mu_y + 0.25) / den, mu_x * mu_y**2 / den
    return lam, tau, np.sort(np.roots([1, -(4 + lam), 6 + 2 * lam + tau, -(4 + lam), 1]).real)


def test_minimiser_decays_from_entry_to_entry_at_the_rate_of_the_lower_bound():
    lam, tau, roots = decay(0.01, 0.2)
    assert lam == pytest.approx(3.27017, abs=1e-5) and tau == pytest.approx(0.00362647, abs=1e-8)
    np.testing.assert_allclose(roots, [0.1972, 0.9672, 1.0339, 5.0719], atol=1e-4)
    best = np.asarray(tasks.worst_case(dim=300, outer_convexity=0.01, inner_convexity=0.2).held[0])
    np.testing.assert_allclose(best[60:66] / best[59:65], roots[1], atol=1e-4)


@pytest.mark.parametrize(
    "mu_x, lengths",
    [(1e-2, [15.51, 30.53, 55.54]), (1e-3, [47.94, 95.38, 174.44]), (1e-4, [150.50, 300.50, 550.50])],
)
def test_length_of_the_decay_grows_like_one_over_root_mu_x_times_mu_y(mu_x, lengths):
    for mu_y, length in zip((0.5, 0.2, 0.1), lengths, strict=True):
        got = 1 / (1 - decay(mu_x, mu_y)[2][1])
        assert got == pytest.approx(length, abs=0.01)
        assert 1 < got / (0.5 / (np.sqrt(mu_x) * mu_y)) < 1.6


def test_compare_passes_the_condition_numbers_of_a_task_to_the_algorithms_that_need_them():
    task = tasks.worst_case(dim=20)
    record, plain = compare(task, ["accbio", "itd_bio"], Budget(steps=200), progress=False)
    assert record["hyperparameters"]["outer_condition"] == task.outer_condition
    assert record["hyperparameters"]["inner_condition"] == task.inner_condition
    assert record["final"]["suboptimality"] < 1e-9 and "inner_condition" not in plain["hyperparameters"]


def test_instance_refuses_convexities_out_of_range_and_minibatches():
    with pytest.raises(ValueError, match=r"outer_convexity must be in \[0, 1\], got 2"):
        tasks.worst_case(outer_convexity=2)
    with pytest.raises(ValueError, match=r"inner_convexity must be in \(0, 1\], got 0"):
        tasks.worst_case(inner_convexity=0)
    with pytest.raises(ValueError, match="whole data only, got the batch size 10; use None"):
        compare(tasks.worst_case(), ["soba"], Budget(steps=1), batch_size=10, progress=False)


# Rates of convergence


@pytest.mark.parametrize("warm", [False, True])
def test_accbio_needs_the_same_iterations_with_warm_and_cold_starts(warm):
    task = tasks.worst_case(dim=200)
    got = gaps(fitted(b.accbio, task, 40, warm=warm), task, 600)
    assert first_below(got, 1e-6) == near(57) and first_below(got, 1e-10) == near(122)


@pytest.mark.parametrize(
    "mu_x, method, counts, steps",
    [
        (1e-2, "accbio_bg", (145, 341), 400),
        (1e-2, "aid_bio", (364, 1356), 1500),
        (1e-3, "accbio", (119, 356), 400),
        (1e-3, "accbio_bg", (239, 974), 1100),
        (1e-3, "aid_bio", (1238, 10282), 10900),
    ],
)
def test_iterations_of_accelerated_methods_grow_with_the_root_of_the_condition_number(
    mu_x, method, counts, steps
):
    task = tasks.worst_case(dim=200, outer_convexity=mu_x)
    algorithm = {
        "accbio": lambda: fitted(b.accbio, task, 40),
        "accbio_bg": lambda: fitted(b.accbio_bg, task, 40, outer_optimizer=0.5 * task.outer_step),
        "aid_bio": lambda: aid(task),
    }[method]()
    got = gaps(algorithm, task, steps)
    assert (first_below(got, 1e-6), first_below(got, 1e-10)) == tuple(map(near, counts))


def test_gap_has_a_floor_that_falls_geometrically_with_the_inner_steps():
    task = tasks.worst_case(dim=200)
    found = {}
    for calls, floor, count in ((5, 7.7e-4, None), (10, 1.3e-6, None), (20, 7e-12, 57), (40, 3e-22, 57)):
        found[calls] = gaps(fitted(b.accbio, task, calls), task, 400)
        # The last floor is near rounding error, which differs between machines.
        assert found[calls][-1] == pytest.approx(floor, rel=0.1) if calls < 40 else found[calls][-1] < 1e-20
        assert first_below(found[calls], 1e-6) == (count and near(count))


@pytest.mark.parametrize(
    "mu_x, mu_y, calls, count, aid_count",
    [
        (1e-2, 0.5, 22, 67, 487),
        (1e-2, 0.2, 34, 57, 364),
        (1e-2, 0.1, 48, 56, 344),
        (1e-3, 0.2, 34, 119, 1238),
    ],
)
def test_accbio_reaches_a_gap_of_a_millionth_with_fewer_oracle_calls_than_aid_bio(
    mu_x, mu_y, calls, count, aid_count
):
    task = tasks.worst_case(dim=200, outer_convexity=mu_x, inner_convexity=mu_y)
    assert task.inner_condition is not None
    assert calls == np.ceil(15 * np.sqrt(task.inner_condition))
    algorithm = fitted(b.accbio, task, calls)
    accelerated = first_below(gaps(algorithm, task, 200), 1e-6)
    plain = first_below(gaps(aid(task), task, 1400), 1e-6)
    assert accelerated == near(count) and plain == near(aid_count)
    assert accelerated is not None and plain is not None
    assert accelerated * (algorithm.cost.gradients - 1 + algorithm.cost.hessian_products) < plain * 50 / 3


def test_each_step_reaches_only_a_few_more_coordinates():
    """Ji and Liang, JMLR 2023: the zero-chain of the lower bound."""
    task = tasks.worst_case(dim=200)
    algorithm = fitted(b.accbio, task, 3)
    state, reached = algorithm.init(*task.start(None)), []
    step = jax.jit(lambda state: algorithm.step(state, task.data, None)[0])
    for _ in range(6):
        state = step(state)
        reached.append(1 + int(np.max(np.nonzero(np.abs(state.x) > 1e-14))))
    np.testing.assert_allclose(reached, [6, 11, 16, 21, 26, 30], atol=1)


@pytest.mark.parametrize("eps, count, plain_count", [(1e-2, 6, 7), (1e-3, 24, 33), (1e-4, 70, 152)])
def test_ridge_on_a_convex_problem_beats_gradient_descent_by_more_at_higher_accuracy(eps, count, plain_count):
    task = tasks.worst_case(dim=120, outer_convexity=0.0)
    best, curvature, _ = map(np.asarray, task.held)
    smoothness, radius = 1 / task.outer_step, best @ best
    assert radius == pytest.approx(1.2, abs=0.05) and task.outer_condition is None
    ridge = eps / radius
    algorithm = fitted(
        b.accbio,
        task,
        60,
        outer_optimizer=1 / (smoothness + ridge),
        outer_condition=(smoothness + ridge) / ridge,
        ridge=ridge,
    )
    first = 0.5 * best @ curvature @ best
    assert first_below(gaps(algorithm, task, 100) * first, eps) == pytest.approx(count, rel=0.05, abs=1)
    x, steps = np.zeros(120), 0
    while 0.5 * (x - best) @ curvature @ (x - best) > eps:
        x, steps = x - curvature @ (x - best) / smoothness, steps + 1
    assert steps == pytest.approx(plain_count, rel=0.05, abs=1)


# Update rules and minibatches


def train(x, y):
    """Return the last y of Nesterov's method, with gradient t on minibatch t."""
    weight = (np.sqrt(KAPPA_Y) - 1) / (np.sqrt(KAPPA_Y) + 1)
    s = y
    for i in range(INNER_STEPS):
        new_y = s - RHO * (A[i] @ s + C[i] @ x)
        s, y = new_y + weight * (new_y - y), new_y
    return y


def solve(y):
    """Return the last v of the heavy-ball method from 0, on the minibatch after those of y."""
    L, mu = 1 / RHO, 1 / (RHO * KAPPA_Y)
    lam = 4 / (np.sqrt(L) + np.sqrt(mu)) ** 2
    theta = max((1 - np.sqrt(lam * mu)) ** 2, (1 - np.sqrt(lam * L)) ** 2)
    v = last = np.zeros_like(y)
    for _ in range(LINEAR_STEPS):
        v, last = v - lam * (A[INNER_STEPS] @ v - (y - B[0])) + theta * (v - last), v
    return v


def accbio(steps, warm, ridge=0.0):
    weight = (np.sqrt(KAPPA_X) - 1) / (np.sqrt(KAPPA_X) + 1)
    z, ahead, y = X, X, Y
    for _ in range(steps):
        y = train(ahead, y if warm else Y)
        new_z = ahead - ALPHA * (E[0] - C[INNER_STEPS + 1].T @ solve(y) + ridge * ahead)
        z, ahead = new_z, new_z + weight * (new_z - z)
    return z, y


def accbio_bg(steps):
    mu = 1 / (2 * ALPHA * KAPPA_X)  # alpha = 1/(2 L_Phi)
    root = np.sqrt(ALPHA * mu)
    eta, tau, beta = root / (root + 2), root / 2, np.sqrt(ALPHA / mu)
    x, z, y = X, X, Y
    for _ in range(steps):
        between = eta * x + (1 - eta) * z
        y = train(between, y)
        G = E[0] - C[INNER_STEPS + 1].T @ solve(y)
        x, z = tau * between + (1 - tau) * x - beta * G, between - ALPHA * G
    return z, y


@pytest.mark.parametrize(
    "factory, settings, want",
    [
        (b.accbio, {}, accbio(3, warm=False)),
        (b.accbio, {"warm": True}, accbio(3, warm=True)),
        (b.accbio, {"ridge": 0.7}, accbio(3, warm=False, ridge=0.7)),
        (b.accbio, {"inner_optimizer": optax.sgd(RHO), "rate": RHO}, accbio(3, warm=False)),
        (b.accbio_bg, {}, accbio_bg(3)),
        (b.accbio_bg, {"inner_optimizer": optax.sgd(RHO), "rate": RHO}, accbio_bg(3)),
    ],
    ids=["cold", "warm", "ridge", "rate", "bg", "bg_rate"],
)
def test_three_steps_on_minibatches_follow_the_update_rule(factory, settings, want):
    algorithm = factory(
        PROBLEM,
        outer_optimizer=ALPHA,
        inner_condition=KAPPA_Y,
        outer_condition=KAPPA_X,
        inner_steps=INNER_STEPS,
        linear_steps=LINEAR_STEPS,
        **(dict(inner_optimizer=RHO) | settings),
    )
    assert algorithm.draws == b.Draws(1, INNER_STEPS + 2)
    state = algorithm.init(jnp.asarray(X), jnp.asarray(Y))
    step = jax.jit(lambda state: algorithm.step(state, BATCH, None))
    for _ in range(3):
        before = state
        state, metrics = step(state)
    np.testing.assert_allclose(state.x, want[0], rtol=1e-12)
    np.testing.assert_allclose(state.y, want[1], rtol=1e-12)
    # The metrics belong to the extrapolated point at which y was trained.
    if factory is b.accbio:
        x = before.ahead
    else:
        s = (2 * KAPPA_X) ** -0.5
        x = before.x + s / (s + 2) * (before.slow - before.x)
    y, outer, inner = state.y, BATCH.outer[0], BATCH.inner[INNER_STEPS + 1]
    assert metrics["outer_loss"] == pytest.approx(float(PROBLEM.outer(x, y, outer)), rel=1e-12)
    assert metrics["inner_loss"] == pytest.approx(float(PROBLEM.inner(x, y, inner)), rel=1e-12)
    residual = A[INNER_STEPS + 1] @ y + C[INNER_STEPS + 1] @ x
    assert metrics["inner_residual"] == pytest.approx(np.linalg.norm(residual), rel=1e-12)


def test_accelerated_descent_returns_y_one_momentum_step_before_nesterov_in_optax():
    case = quartic_case()
    weight = (np.sqrt(10) - 1) / (np.sqrt(10) + 1)

    def last_y(steps):
        solver = b.accelerate(case.problem, 0.2, steps, condition=10.0)
        return solver.solve(case.x, case.y + 1, case.data)

    ahead = last_y(6) + weight * (last_y(6) - last_y(5))
    optimizer = optax.sgd(0.2, momentum=weight, nesterov=True)
    in_optax = b.descend(case.problem, optimizer, 6).solve(case.x, case.y + 1, case.data)
    np.testing.assert_allclose(in_optax, ahead, rtol=1e-12)


def test_accelerated_descent_with_condition_number_one_is_descent():
    case = quadratic_case()
    got = b.accelerate(case.problem, 0.5, 5, condition=1.0).solve(case.x, case.y, case.data)
    want = b.descend(case.problem, 0.5, 5).solve(case.x, case.y, case.data)
    for left, right in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-14)


def heavy_ball_error(condition, claimed, steps=200):
    """Return the relative error of v when `heavy_ball` is given L multiplied by `claimed`."""
    task = tasks.worst_case(dim=100, inner_convexity=1 / condition)
    zero = jnp.zeros(100)
    H = jax.hessian(task.problem.inner, argnums=1)(zero, zero, None)
    f_y = jax.grad(task.problem.outer, argnums=1)(zero, zero, None)
    truth = np.linalg.solve(H, f_y)
    solver = b.heavy_ball(steps, claimed * float(np.linalg.eigvalsh(H)[-1]), 1 / condition)
    v, _ = solver.solve(lambda i: lambda w: H @ w, f_y, zero)
    return np.linalg.norm(v - truth) / np.linalg.norm(truth)


def test_heavy_ball_momentum_is_squared():
    # Without the square the error would be 9.2e-5.
    assert heavy_ball_error(500, 1.0) == pytest.approx(1.6e-8, rel=0.05)


def test_heavy_ball_diverges_if_l_is_too_small_and_is_slower_if_l_is_too_large():
    assert heavy_ball_error(5, 0.5) > 1e50 and heavy_ball_error(50, 0.8) > 1e50
    assert heavy_ball_error(500, 2.0) == pytest.approx(3.2e-6, rel=0.05)


@pytest.mark.parametrize(
    "make, rule",
    [
        (lambda p: b.accbio(p, inner_condition=0.5), "a condition number must be at least 1, got 0.5"),
        (lambda p: b.accbio(p, outer_condition=0.5), "a condition number must be at least 1, got 0.5"),
        (lambda p: b.accbio_bg(p, outer_condition=0.5), "outer_condition must be at least 1, got 0.5"),
        (lambda p: b.accbio(p, ridge=-0.1), "ridge must be at least 0, got -0.1"),
        (lambda p: b.accbio(p, inner_optimizer=optax.adam(0.1)), "rate must be given"),
        (lambda p: b.accelerate(p, 0.1, -1, condition=1.0), "inner steps must be at least 0, got -1"),
    ],
)
def test_arguments_out_of_range_are_refused(make, rule):
    with pytest.raises(ValueError, match=rule):
        make(quartic_case().problem)
