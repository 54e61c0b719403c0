"""Multi-step MAML and ANIL: smoothness, exact gradients, bias of resampling, adaptive steps."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import bilevel as b
from bilevel.algorithms.maml import smoothness_terms
from bilevel.many_tasks import drawn_by, nested_over_tasks
from bilevel.sampling import Full, Stacked
from cases.problems import few_tasks_case, flat


def step_of(algorithm, x, data, key=None, y=None):
    """Return the direction of the first step of an algorithm whose outer step size is 1."""
    state = algorithm.init(x, x if y is None else y)
    state, _ = jax.jit(algorithm.step)(state, data, key)
    return jax.tree.map(lambda old, new: old - new, x, state.x)


# Smoothness


@pytest.mark.parametrize(
    "alpha, growths, constants",
    [
        (None, (1.266, 1.274, 1.280, 1.282, 1.283, 1.284), (0.141, 0.155, 0.164, 0.167, 0.169, 0.170)),
        (0.1, (1.21, 1.46, 2.59, 6.73, 45.3, 1.38e4), (0.11, 0.28, 1.44, 9.75, 236, 1.46e6)),
    ],
)
def test_smoothness_is_bounded_for_inner_steps_of_order_one_over_n_and_grows_for_fixed_ones(
    alpha, growths, constants
):
    for steps, growth, constant in zip((1, 2, 5, 10, 20, 50), growths, constants, strict=True):
        base, slope = smoothness_terms(alpha or 1 / (8 * steps), steps, 1.0, 1.0)
        # The expected values are rounded to the digits shown.
        assert base == pytest.approx(growth, rel=4e-3, abs=6e-4)
        assert slope == pytest.approx(constant, rel=4e-3, abs=6e-3 if alpha else 6e-4)
        assert alpha or base < np.exp(0.25)
    # L and rho apart: L scales the base, rho the slope.
    assert smoothness_terms(0.05, 3, 2.0, 3.0) == pytest.approx(
        (2 * smoothness_terms(0.1, 3, 1.0, 1.0)[0], 1.5 * smoothness_terms(0.1, 3, 1.0, 1.0)[1])
    )


def cosine_tasks():
    """Return 50 tasks whose Hessians have norm and Lipschitz constant at most 1; queries shift supports."""
    rng = np.random.default_rng(0)
    c, e = rng.normal(size=(50, 20)), rng.normal(size=(50, 20))
    return {"support": jnp.asarray(c), "query": jnp.asarray(c + 0.3 * e)}


COSINES = b.Problem(
    lambda x, y, task: jnp.sum(jnp.cos(y + task["query"])),
    lambda x, y, task: jnp.sum(jnp.cos(y + task["support"])),
)


@pytest.mark.parametrize(
    "steps, alpha, want", [(1, 1 / 8, 0.532), (10, 1 / 80, 0.560), (1, 0.2, 0.573), (10, 0.2, 2.51)]
)
def test_meta_gradient_of_cosines_changes_faster_with_n_at_a_fixed_inner_step(steps, alpha, want):
    algorithm = b.maml(COSINES, inner_optimizer=alpha, outer_optimizer=1.0, inner_steps=steps)
    data = b.full(cosine_tasks(), None)

    def meta_gradient(w):
        return w - algorithm.step(algorithm.init(w, w), data, None)[0].x

    @jax.jit
    @jax.vmap
    def change(key):
        place, along = jax.random.split(key)
        w = jax.random.uniform(place, (20,), minval=-3.0, maxval=3.0)
        v = jax.random.normal(along, (20,))
        v = 1e-4 * v / jnp.linalg.norm(v)
        return jnp.linalg.norm(meta_gradient(w + v) - meta_gradient(w - v)) / 2e-4

    largest = float(jnp.max(change(jax.random.split(jax.random.key(0), 200))))
    # A maximum over 200 random points: other points give 0.53 to 0.59 and 2.3 to 3.0.
    assert largest == pytest.approx(want, rel=0.25 if want > 1 else 0.12)


# Exact gradients


def anil_toy():
    rng = np.random.default_rng(1)
    A, B, c = rng.uniform(0.5, 1.5, 4), rng.normal(size=(3, 4)), rng.normal(size=4)
    D, w, p = rng.normal(size=(3, 4)), rng.normal(size=4), rng.normal(size=3)

    def inner(x, y, batch):
        return 0.5 * A @ y**2 + 0.025 * jnp.sum(y**4) + jnp.sin(x["features"]) @ B @ y

    def outer(x, y, batch):
        shared = x["features"]
        return 0.5 * jnp.sum((y - c) ** 2) + shared @ D @ y + 0.5 * jnp.sum(shared**2)

    return b.Problem(outer, inner), w, p, (A, B, c, D)


@pytest.fixture(scope="module")
def anil_gradients():
    """Return `steps -> (head, features)`, the two blocks of the gradient at the start of the toy."""
    problem, w, p, _ = anil_toy()
    x = {"head": jnp.asarray(w), "features": jnp.asarray(p)}

    def gradients(steps):
        algorithm = b.anil(problem, inner_optimizer=0.2, outer_optimizer=1.0, inner_steps=steps)
        step = step_of(algorithm, x, b.full(None, None), y=x["head"])
        return np.asarray(step["head"]), np.asarray(step["features"])

    return gradients


def test_anil_gradients_equal_those_of_the_trained_loss_and_the_papers_backward_pass(anil_gradients):
    _, w, p, (A, B, c, D) = anil_toy()

    def path(w, p):
        heads = [w]
        for _ in range(6):
            heads.append(heads[-1] - 0.2 * (A * heads[-1] + 0.1 * heads[-1] ** 3 + np.sin(p) @ B))
        return heads

    def objective(w, p):
        y = path(w, p)[-1]
        return 0.5 * np.sum((y - c) ** 2) + p @ D @ y + 0.5 * p @ p

    def slopes(function, at):
        moves = 1e-6 * np.eye(len(at))
        return np.array([(function(at + move) - function(at - move)) / 2e-6 for move in moves])

    head, features = anil_gradients(6)
    # Central differences of step 1e-6: rounding / step.
    np.testing.assert_allclose(head, slopes(lambda w: objective(w, p), w), atol=1e-8)
    np.testing.assert_allclose(features, slopes(lambda p: objective(w, p), p), atol=1e-8)
    heads = path(w, p)
    u, total = heads[-1] - c + p @ D, 0
    direct = D @ heads[-1] + p
    for y in reversed(heads[:-1]):
        total, u = total + np.cos(p) * (B @ u), u - 0.2 * (A + 0.3 * y**2) * u
    np.testing.assert_allclose(head, u, rtol=1e-12)
    np.testing.assert_allclose(features, direct - 0.2 * total, rtol=1e-12)


def test_gradient_of_the_head_decays_with_n_where_the_inner_loss_is_strongly_convex(anil_gradients):
    norms = [np.linalg.norm(anil_gradients(steps)[0]) for steps in (1, 5, 10, 20, 40)]
    np.testing.assert_allclose(norms, [4.30, 1.66, 0.487, 0.0438, 0.0018], rtol=1e-2)
    bounds = (1 - 0.2 * np.min(anil_toy()[3][0])) ** np.array([1, 5, 10, 20, 40])
    np.testing.assert_allclose(bounds, [0.871, 0.502, 0.252, 0.0634, 0.0040], rtol=1e-2)
    ratio = norms / bounds
    assert ratio.max() == ratio[0]


def test_factors_of_the_meta_gradient_have_the_papers_order():
    """The Hessians of these quartic tasks do not commute: the reversed product is another vector."""
    rng = np.random.default_rng(2)
    M, c, alpha, steps = rng.normal(size=(3, 3)), rng.normal(size=3), 0.05, 4

    def inner(x, y, batch):
        return jnp.sum((M @ y) ** 4) / 4 + 0.5 * y @ y

    problem = b.Problem(lambda x, y, batch: 0.5 * jnp.sum((y - c) ** 2), inner)
    w = 1.5 * rng.normal(size=3)
    path, factors = [w], []
    for _ in range(steps):
        y = path[-1]
        factors.append(np.eye(3) - alpha * (3 * (M.T * (M @ y) ** 2) @ M + np.eye(3)))
        path.append(y - alpha * (M.T @ (M @ y) ** 3 + y))
    algorithm = b.maml(problem, inner_optimizer=alpha, outer_optimizer=1.0, inner_steps=steps)
    got = step_of(algorithm, jnp.asarray(w), b.full(None, None))
    # prod_j of the paper: the last factor meets the gradient first.
    np.testing.assert_allclose(got, np.linalg.multi_dot(factors) @ (path[-1] - c), rtol=1e-12)
    reverse = np.linalg.multi_dot(factors[::-1]) @ (path[-1] - c)
    assert np.linalg.norm(got - reverse) > 5e-4 * np.linalg.norm(got)


@pytest.mark.parametrize("resample", [None, lambda task, key: task])
@pytest.mark.parametrize("steps, alpha", [(0, 0.3), (5, 0.0)])
def test_without_inner_steps_the_meta_gradient_is_the_plain_one(steps, alpha, resample):
    case = few_tasks_case()
    algorithm = b.maml(
        case.problem, inner_optimizer=alpha, outer_optimizer=1.0, inner_steps=steps, resample=resample
    )
    got = step_of(algorithm, case.x, case.data, jax.random.key(0))

    def plain(y):
        tasks = case.data.outer.arrays
        losses = jax.vmap(lambda task: case.problem.outer(None, y, task))(tasks)
        return jnp.mean(losses)

    np.testing.assert_allclose(flat(got), flat(jax.grad(plain)(case.x)), rtol=1e-13)


# Resampling


def test_resampling_the_whole_task_is_the_finite_sum():
    case = few_tasks_case()
    chosen: dict[str, Any] = dict(inner_optimizer=case.step, outer_optimizer=1.0)
    drawn = b.maml(case.problem, resample=lambda task, key: task, **chosen)
    got = step_of(drawn, case.x, case.data, jax.random.key(0))
    np.testing.assert_allclose(flat(got), case.exact(case.x)[1], rtol=1e-12)
    assert drawn.cost == b.maml(case.problem, **chosen).cost


def cosine_draws(size):
    def inner(x, y, noise):
        return jnp.mean(jnp.cos(y + 0.7 + 0.8 * noise))

    def resample(task, key):
        return jax.random.normal(key, (size,))

    return b.Problem(inner, inner), resample


def drawn_directions(algorithm, draws):
    x = jnp.asarray(0.4)
    state, data = algorithm.init(x, x), b.full(None, None)

    @jax.jit
    @jax.vmap
    def draw(key):
        return x - algorithm.step(state, data, key)[0].x

    got = np.asarray(draw(jax.random.split(jax.random.key(0), draws)))
    return np.mean(got), np.std(got) / np.sqrt(draws)


@pytest.mark.parametrize(
    "size, draws, bias", [(1, 200_000, -0.063), (4, 200_000, -0.014), (16, 100_000, -0.0029)]
)
def test_resampling_is_biased_by_the_noise_of_the_path_which_falls_with_the_sample(size, draws, bias):
    shrink, w = np.exp(-0.32), 0.4
    factors = 1.0
    for _ in range(5):
        factors *= 1 + 0.5 * shrink * np.cos(w + 0.7)
        w += 0.5 * shrink * np.sin(w + 0.7)
    exact = -factors * shrink * np.sin(w + 0.7)
    assert exact == pytest.approx(-0.21411, abs=5e-6)
    problem, resample = cosine_draws(size)
    algorithm = b.maml(problem, inner_optimizer=0.5, outer_optimizer=1.0, inner_steps=5, resample=resample)
    mean, error = drawn_directions(algorithm, draws)
    # Three standard errors, and the error of the expected value, which is an average over draws too.
    assert mean - exact == pytest.approx(bias, abs=3 * error + 3e-4)


def test_resampling_quadratics_is_unbiased_only_with_independent_hessians():
    def loss(x, y, draw):
        return 0.5 * (1 + 0.5 * draw[0]) * y**2 - (0.5 + 0.3 * draw[1]) * y

    def resample(task, key):
        return jax.random.normal(key, (2,))

    problem, w = b.Problem(loss, loss), 0.4
    for _ in range(5):
        w -= 0.3 * (w - 0.5)
    exact = 0.7**5 * (w - 0.5)
    assert exact == pytest.approx(-0.0028248, abs=5e-8)
    chosen: dict[str, Any] = dict(inner_optimizer=0.3, outer_optimizer=1.0, inner_steps=5)
    mean, error = drawn_directions(b.maml(problem, resample=resample, **chosen), 1_000_000)
    assert error < 1e-4 and abs(mean - exact) < 3 * error
    shared = nested_over_tasks(
        problem,
        b.unrolled(b.descend(problem, 0.3, 5), start=lambda x: x),
        1.0,
        source=drawn_by(resample),
    )
    mean, error = drawn_directions(shared, 400_000)
    assert mean - exact == pytest.approx(0.0073, abs=3 * error + 1e-4)


@pytest.mark.parametrize("vectorize", [True, False])
def test_every_draw_of_a_task_is_independent(vectorize):
    """Two steps agree with numpy on the draws that the keys determine."""
    steps, alpha = 3, 0.2

    def loss(x, y, draw):
        return 0.5 * y @ draw["H"] @ y + draw["c"] @ y

    def resample(task, key):
        noise = jax.random.normal(key, (3, 3))
        return {"H": task["H"] + 0.1 * (noise + noise.T), "c": task["c"] + jax.random.normal(key, (3,))}

    rng = np.random.default_rng(0)
    tasks = {
        "H": jnp.asarray(np.stack([np.eye(3), 2 * np.eye(3)])),
        "c": jnp.asarray(rng.normal(size=(2, 3))),
    }
    algorithm = b.maml(
        b.Problem(loss, loss),
        inner_optimizer=alpha,
        outer_optimizer=0.5,
        inner_steps=steps,
        resample=resample,
        vectorize=vectorize,
    )
    x = rng.normal(size=3)
    state = algorithm.init(jnp.asarray(x), jnp.asarray(x))
    seen = []
    for seed in range(2):
        key = jax.random.key(seed)
        state, _ = jax.jit(algorithm.step)(state, b.full(tasks, None), key)
        directions = []
        for i, task_key in enumerate(jax.random.split(key, 2)):
            outer_key, inner_key = jax.random.split(jax.random.split(task_key)[0])
            keys = [jax.random.fold_in(inner_key, j) for j in range(2 * steps)]
            keys.append(jax.random.fold_in(outer_key, 0))
            task = jax.tree.map(lambda a, i=i: a[i], tasks)
            draws = [jax.tree.map(np.asarray, resample(task, key)) for key in keys]
            seen += [draw["c"][0] for draw in draws]
            path = [x]
            for j in range(steps):
                path.append(path[-1] - alpha * (draws[j]["H"] @ path[-1] + draws[j]["c"]))
            r = draws[-1]["H"] @ path[-1] + draws[-1]["c"]
            for j in reversed(range(steps)):
                r = r - alpha * draws[steps + j]["H"] @ r
            directions.append(r)
        x = x - 0.5 * np.mean(directions, 0)
        np.testing.assert_allclose(state.x, x, rtol=1e-11)
    assert len(set(seen)) == len(seen)


# The adaptive outer step


@pytest.mark.parametrize("vectorize, resample", [(True, None), (False, None), (True, lambda task, key: task)])
def test_adaptive_step_is_one_over_the_local_smoothness_of_a_second_minibatch_of_tasks(vectorize, resample):
    tasks = cosine_tasks()
    chosen: dict[str, Any] = dict(inner_optimizer=0.2, outer_optimizer=1.0, inner_steps=3)
    algorithm = b.maml(
        COSINES,
        smoothness=1.5,
        hessian_smoothness=2.0,
        caution=3.0,
        vectorize=vectorize,
        resample=resample,
        **chosen,
    )
    assert algorithm.draws.outer == 2 and algorithm.cost == b.Cost(5, 3, 0)
    first, second = (
        jax.tree.map(lambda a, part=part: a[part], tasks) for part in (slice(0, 10), slice(10, 20))
    )
    data = b.Batch(Stacked(jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)), Full(None))
    x = jnp.asarray(np.random.default_rng(0).uniform(-3, 3, 20))
    got = step_of(algorithm, x, data, jax.random.key(0))
    plain = step_of(b.maml(COSINES, **chosen), x, b.full(first, None))
    norm = np.mean(np.linalg.norm(np.sin(np.asarray(x) + np.asarray(second["support"])), axis=1))
    C = (1.3**2 * 0.2 * 2 + 2 / 1.5 * 1.3**3 * (1.3**2 - 1)) * 1.3**3
    np.testing.assert_allclose(got, plain / (3 * (1.5 * 1.3**6 + C * norm)), rtol=1e-12)


@pytest.mark.parametrize(
    "steps, alpha, average, final, rate",
    [(1, 1 / 8, 0.318, 0.032, 0.149), (10, 1 / 80, 0.333, 0.030, 0.141), (1, 0.2, 0.386, 0.022, 0.117)],
)
def test_adaptive_steps_train_at_a_rate_that_does_not_depend_on_n_for_inner_steps_of_one_over_n(
    steps, alpha, average, final, rate
):
    got = adaptive_runs(steps, alpha)
    # The expected values are means over five other seeds. The last gradient is mostly noise: from one five
    # seeds to the next it varies from 0.017 to 0.04.
    assert got[0] == pytest.approx(average, rel=0.12) and got[2] == pytest.approx(rate, rel=0.03)
    assert final / 2.5 < got[1] < 2.5 * final


def test_adaptive_steps_collapse_with_n_at_a_fixed_inner_step():
    average, final, rate = adaptive_runs(10, 0.2)
    assert average > 0.5 and final > 0.5
    assert rate == pytest.approx(4e-4, rel=0.3)


def adaptive_runs(steps, alpha):
    """Return the mean of |grad L|^2 over 300 steps, its last value and the mean step, over five seeds."""
    tasks = cosine_tasks()
    algorithm = b.maml(COSINES, inner_optimizer=alpha, outer_optimizer=1.0, inner_steps=steps, smoothness=1.0)
    plain = b.maml(COSINES, inner_optimizer=alpha, outer_optimizer=1.0, inner_steps=steps)

    def square(x):
        return plain.step(plain.init(x, x), b.full(tasks, None), None)[1]["gradient_norm"] ** 2

    @jax.jit
    @jax.vmap
    def run(key):
        start, key = jax.random.split(key)
        x = jax.random.uniform(start, (20,), minval=-3.0, maxval=3.0)

        def step(state, key):
            picks = jax.random.randint(key, (2, 10), 0, 50)
            data = b.Batch(Stacked(jax.tree.map(lambda a: a[picks], tasks)), Full(None))
            new, metrics = algorithm.step(state, data, None)
            rate = jnp.linalg.norm(new.x - state.x) / metrics["gradient_norm"]
            return new, (square(state.x), rate)

        state, (squares, rates) = lax.scan(step, algorithm.init(x, x), jax.random.split(key, 300))
        return squares.mean(), square(state.x), rates.mean()

    return tuple(float(np.mean(values)) for values in run(jax.random.split(jax.random.key(0), 5)))


def test_adaptive_steps_need_an_inner_step_size_and_constants_of_the_right_sign():
    with pytest.raises(ValueError, match="must be a step size when smoothness is given"):
        b.maml(COSINES, inner_optimizer=lambda count: 0.1, smoothness=1.0)
    refused: list[tuple[dict[str, Any], str]] = [
        (dict(smoothness=0.0), "smoothness must be positive, got 0.0"),
        (dict(hessian_smoothness=-1.0), "hessian_smoothness must not be negative, got -1.0"),
        (dict(caution=0), "caution must be positive, got 0"),
    ]
    for chosen, rule in refused:
        with pytest.raises(ValueError, match=rule):
            b.maml(COSINES, **chosen)
