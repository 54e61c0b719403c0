"""Product tests: every algorithm on every problem, and the claims of each paper."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as b
from algorithms import ALGORITHMS
from bilevel import algorithms, tasks
from problems import CASES, counted, flat, quadratic_case, quartic_case


def build(name, case, **changes):
    return ALGORITHMS[name](case.problem, **dict(inner_optimizer=case.step, outer_optimizer=0.02) | changes)


def stationarity(case, x):
    return np.linalg.norm(case.exact(x)[1])


def test_the_list_of_algorithms_is_complete():
    assert set(ALGORITHMS) == set(algorithms.__all__)


@pytest.mark.parametrize("problem", CASES)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_converges_to_a_stationary_point(name, problem, key):
    case = CASES[problem]()

    # PZOBO's noise is proportional to the indirect term, which is not zero at the solution: it
    # needs decreasing steps, and ends with an error of about 1e-2.
    def schedule(count):
        return 0.1 / (1 + count.astype(float) / 20)

    algorithm = build(name, case, **({"outer_optimizer": schedule} if name == "pzobo" else {}))
    result = b.run(algorithm, case.x, case.y, case.data, steps=3000, key=key, log_every=1500)
    factor = 0.03 if name == "pzobo" else 1e-6
    assert stationarity(case, result.state.x) < factor * stationarity(case, case.x)
    assert result.history["inner_residual"][-1] < factor


@pytest.mark.parametrize("name", ALGORITHMS)
def test_step_is_the_same_under_jit_and_keeps_its_structure(name, key):
    case = quadratic_case()
    algorithm = build(name, case)
    state = algorithm.init(case.x, case.y)
    plain, metrics = algorithm.step(state, case.data, key)
    jitted, _ = jax.jit(algorithm.step)(state, case.data, key)
    assert jax.tree.structure(plain) == jax.tree.structure(state)
    for before, after, compiled in zip(*map(jax.tree.leaves, (state, plain, jitted)), strict=True):
        assert before.shape == after.shape and before.dtype == after.dtype
        # Fused arithmetic rounds differently, and PZOBO divides differences by its smoothing of 1e-4.
        np.testing.assert_allclose(after, compiled, rtol=1e-7, atol=1e-10)
    _, again = algorithm.step(plain, case.data, key)
    assert metrics.keys() == again.keys()
    assert {
        "outer_loss",
        "inner_loss",
        "inner_residual",
        "linear_residual",
        "gradient_norm",
    } <= metrics.keys()
    assert all(jnp.ndim(value) == 0 for value in metrics.values())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_vmap_over_step_sizes_equals_one_run_each(name, key):
    case = quadratic_case()
    rates = jnp.array([0.01, 0.03])

    def last(rate):
        algorithm = build(name, case, outer_optimizer=rate)
        return b.advance(algorithm, algorithm.init(case.x, case.y), case.data, key, start=0, steps=5).x

    together = jax.vmap(last)(rates)
    alone = last(rates[1])
    np.testing.assert_allclose(
        flat(jax.tree.map(lambda a: a[1], together)), flat(alone), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_float32_stays_float32(name, key):
    case = quadratic_case()

    def single(variable):
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), variable)

    problem = b.Problem(lambda x, y, batch: optax.tree.norm(y) ** 2, lambda x, y, batch: _coupled(x, y))
    algorithm = ALGORITHMS[name](problem)
    state = algorithm.init(single(case.x), single(case.y))
    state, metrics = algorithm.step(state, case.data, key)
    for leaf in jax.tree.leaves((state, metrics)):
        assert isinstance(leaf, float) or leaf.dtype in (jnp.float32, jnp.int32)


def _coupled(x, y):
    return optax.tree.norm(optax.tree.add_scale(y, -x["a"][0], optax.tree.ones_like(y)), squared=True)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_constraints_hold_at_every_log_point(name, key):
    case = quadratic_case()
    box = optax.chain(optax.sgd(0.03), b.constrain(lambda x: optax.tree.clip(x, -0.1, 0.1)))
    algorithm = build(name, case, outer_optimizer=box)
    seen = []
    b.run(
        algorithm,
        jax.tree.map(jnp.zeros_like, case.x),
        case.y,
        case.data,
        steps=60,
        key=key,
        log_every=20,
        callback=lambda step, state, metrics: seen.append(np.abs(flat(state.x)).max()),
    )
    # x + (projection - x) may round by one unit in the last place.
    assert max(seen) <= 0.1 + 1e-15 and seen[-1] > 0.05


@pytest.mark.parametrize("name", ALGORITHMS)
def test_simplex_constraint_and_minibatches(name, key):
    task = tasks.quadratic(rows=40, outer_dim=4, inner_dim=6)
    simplex = optax.chain(optax.sgd(0.02), b.constrain(optax.projections.projection_simplex))
    algorithm = ALGORITHMS[name](task.problem, inner_optimizer=0.2, outer_optimizer=simplex)
    x, y = jnp.full(4, 0.25), task.start(key)[1]
    # optax's projection mixes integers and floats.
    with jax.numpy_dtype_promotion("standard"):
        result = b.run(algorithm, x, y, task.data(8), steps=40, key=key)
    assert np.sum(result.state.x) == pytest.approx(1, abs=1e-12) and np.min(result.state.x) >= -1e-15


@pytest.mark.parametrize("name", ALGORITHMS)
def test_budget_calls_per_step_equal_the_declared_cost(name, key):
    problem, counts = counted(quartic_case().problem)
    case = quartic_case()
    algorithm = build(name, case._replace(problem=problem))
    state = algorithm.init(case.x, case.y)
    # Full data hide the cost of linearised products; minibatches show every call.
    batch = b.Batch(b.full(None, None).outer, b.sampling.Stacked(jnp.zeros(algorithm.draws.inner)))
    step = jax.jit(lambda state: algorithm.step(state, batch, key)[0])
    jax.block_until_ready(step(state))
    for kind in counts:
        counts[kind] = 0
    jax.block_until_ready(step(state))
    assert counts == algorithm.cost._asdict()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_docstring_states_cost_family_and_reference(name):
    text = inspect.getdoc(getattr(algorithms, name))
    assert "Cost per step:" in text and "\nFamily: " in text and "\nReference: " in text


# Claims of the papers


def test_aid_with_both_warm_starts_has_no_floor_and_without_has_one(key):
    case = quadratic_case()
    floors = {}
    for warm_y in (True, False):
        for warm_v in (True, False):
            algorithm = b.aid_bio(
                case.problem,
                inner_optimizer=case.step,
                outer_optimizer=0.05,
                inner_steps=3,
                linear_solver=b.cg(2),
                warm_y=warm_y,
                warm_v=warm_v,
            )
            result = b.run(algorithm, case.x, case.y, case.data, steps=3000, key=key, log_every=3000)
            floors[warm_y, warm_v] = stationarity(case, result.state.x)
    assert floors[True, True] < 1e-12
    assert min(floors[True, False], floors[False, True], floors[False, False]) > 1e-3


def test_itd_has_a_floor_that_falls_with_the_inner_steps(key):
    case = quadratic_case()
    floors = []
    for inner_steps in (2, 5, 10, 20):
        algorithm = b.itd_bio(
            case.problem, inner_optimizer=case.step, outer_optimizer=0.05, inner_steps=inner_steps
        )
        result = b.run(algorithm, case.x, case.y, case.data, steps=2000, key=key, log_every=2000)
        floors.append(stationarity(case, result.state.x))
    assert floors[0] > 1e-2 and floors[0] > 3 * floors[1] > 9 * floors[2] > 27 * floors[3]


def test_stocbio_with_many_terms_on_full_data_equals_the_exact_hypergradient():
    case = quartic_case()
    algorithm = b.stocbio(case.problem, inner_optimizer=0.3, outer_optimizer=1.0, inner_steps=300, terms=300)
    state, _ = algorithm.step(algorithm.init(case.x, case.y), case.data, None)
    np.testing.assert_allclose(case.x - state.x, case.exact(case.x)[1], rtol=1e-10)


def test_stocbio_needs_a_rate_when_the_inner_optimiser_is_not_a_step_size():
    with pytest.raises(ValueError, match="rate must be given"):
        b.stocbio(quartic_case().problem, inner_optimizer=optax.adam(0.1))


def path(algorithm, case, steps, data=None):
    state, xs = algorithm.init(case.x, case.y), []
    step = jax.jit(algorithm.step)
    for _ in range(steps):
        state, _ = step(state, case.data if data is None else data, jax.random.key(0))
        xs.append(flat(state.x))
    return np.array(xs)


def gauss_seidel(case, rho, alpha, steps):
    f, g = case.problem
    x, y, v, xs = case.x, case.y, jnp.zeros_like(case.y), []
    for _ in range(steps):
        y = y - rho * jax.grad(g, argnums=1)(x, y, None)
        H = jax.hessian(g, argnums=1)(x, y, None)
        v = v - rho * (H @ v - jax.grad(f, argnums=1)(x, y, None))
        J = jax.jacfwd(jax.grad(g), argnums=1)(x, y, None)
        x = x - alpha * (jax.grad(f)(x, y, None) - J @ v)
        xs.append(np.asarray(x))
    return np.array(xs)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_fsla_on_full_batches_is_the_plain_gauss_seidel_direction_whatever_the_weight(weight):
    case = quartic_case()
    got = path(b.fsla(case.problem, inner_optimizer=0.3, outer_optimizer=0.05, weight=weight), case, 30)
    np.testing.assert_allclose(got, gauss_seidel(case, 0.3, 0.05, 30), atol=1e-13)


def test_fsla_direction_forgets_a_wrong_start_like_the_product_of_one_minus_weight():
    case = quartic_case()
    weights = [0.1 / np.sqrt(k + 1) for k in range(40)]
    algorithm = b.fsla(
        case.problem,
        inner_optimizer=0.3,
        outer_optimizer=0.0,
        weight=lambda count: 0.1 / jnp.sqrt(count.astype(float) + 1),
    )
    right = wrong = algorithm.init(case.x, case.y)
    right, wrong = (algorithm.step(s, case.data, None)[0] for s in (right, wrong))
    wrong = wrong._replace(direction=wrong.direction + 1.0)
    for _ in range(39):
        right, wrong = (algorithm.step(s, case.data, None)[0] for s in (right, wrong))
    np.testing.assert_allclose(
        wrong.direction - right.direction, np.prod(1 - np.array(weights[1:])), rtol=1e-12
    )


def test_fsla_both_points_of_the_momentum_see_the_same_minibatch():
    """S6: at a frozen point the variance of d is weight / (2 - weight); fresh samples give 180 times more."""
    problem = b.Problem(lambda x, y, batch: batch.mean() * x, lambda x, y, batch: 0.5 * y**2)
    algorithm = b.fsla(problem, outer_optimizer=0.0, weight=0.1)
    data = b.minibatches(np.random.default_rng(0).normal(size=4096), np.zeros(4096), batch_size=1)
    seen = []
    b.run(
        algorithm,
        jnp.zeros(()),
        jnp.zeros(()),
        data,
        steps=20_000,
        key=jax.random.key(0),
        log_every=10,
        callback=lambda step, state, metrics: seen.append(float(state.direction)),
    )
    assert np.var(seen[10:]) == pytest.approx(0.0526, rel=0.15)


def test_fsla_with_momentum_on_all_directions_is_soba_on_full_batches():
    case = quartic_case()
    settings = dict(inner_optimizer=0.3, outer_optimizer=0.05)
    got = path(b.fsla(case.problem, momentum="all", weight=0.2, **settings), case, 30)
    np.testing.assert_allclose(got, path(b.soba(case.problem, **settings), case, 30), atol=1e-13)


def test_fsla_refuses_other_momentum_and_weights():
    with pytest.raises(ValueError, match='"outer" or "all", got \'y\''):
        b.fsla(quartic_case().problem, momentum="y")
    with pytest.raises(ValueError, match=r"weight must be in \(0, 1\], got 1.5"):
        b.fsla(quartic_case().problem, weight=1.5)


def test_soba_takes_all_three_directions_at_the_old_point():
    case = quartic_case()
    f, g = case.problem
    x, y, v, xs = case.x, case.y, jnp.zeros_like(case.y), []
    for _ in range(20):
        H = jax.hessian(g, argnums=1)(x, y, None)
        J = jax.jacfwd(jax.grad(g), argnums=1)(x, y, None)
        f_x, f_y = jax.grad(f, argnums=(0, 1))(x, y, None)
        x, y, v = (
            x - 0.05 * (f_x - J @ v),
            y - 0.3 * jax.grad(g, argnums=1)(x, y, None),
            v - 0.3 * (H @ v - f_y),
        )
        xs.append(np.asarray(x))
    got = path(b.soba(case.problem, inner_optimizer=0.3, outer_optimizer=0.05), case, 20)
    np.testing.assert_allclose(got, np.array(xs), atol=1e-13)


def test_pzobo_with_more_directions_is_closer_to_the_unrolled_step(key):
    case = quartic_case()
    exact, _ = b.itd_bio(case.problem, inner_optimizer=0.3, outer_optimizer=1.0).step(
        b.itd_bio(case.problem).init(case.x, case.y), case.data, key
    )
    errors = []
    for directions in (10, 1000):
        algorithm = b.pzobo(case.problem, inner_optimizer=0.3, outer_optimizer=1.0, directions=directions)
        state, _ = algorithm.step(algorithm.init(case.x, case.y), case.data, key)
        errors.append(np.linalg.norm(state.x - exact.x))
    assert errors[1] < errors[0] / 3


def test_integer_variables_are_refused():
    with pytest.raises(ValueError, match=r"x\['rate'\] is int"):
        b.soba(quartic_case().problem).init({"rate": jnp.arange(3)}, jnp.zeros(2))
