"""Product tests: every algorithm on every shared problem.

Most of the time goes into compiling. So the tests of one algorithm share a `Programs`, which compiles each
program once, and run in sequence on one worker. `make test` runs every test for the algorithms
of `SAMPLE`, and for the others those that one program and shapes can answer; `make test-slow` runs the rest.
"""

import inspect
from dataclasses import replace
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import bilevel as b
from bilevel import algorithms, tasks
from bilevel.driver import make_plan
from bilevel.testing import count_calls
from cases.algorithms import ALGORITHMS, META
from cases.problems import boxed_case, flat, inner_box, quadratic_case, quartic_case

KEY = jax.random.key(0)
METRICS = {"outer_loss", "inner_loss", "inner_residual", "linear_residual", "gradient_norm"}
# Factor of the outer step size, half width of the box that holds x, and of the box of two entries of y.
LANES = [(1.0, np.inf, np.inf), (0.5, np.inf, np.inf), (1.0, 0.1, np.inf), (1.0, np.inf, 0.1)]
FREE, HALVED, BOXED, Y_BOXED = range(4)
# A finite sum in minibatches of 8, the last one ragged.
TASK = tasks.quadratic(rows=50, outer_dim=4, inner_dim=6)
DATA = TASK.minibatches(8)
# One of each kind: double and single loop, tables, refreshes, a coin, Newton steps, stored pairs.
SAMPLE = ("aid_bio", "soba", "saba", "srba", "ufo_blo", "nbo", "shine")
START = jnp.full(4, 0.25), TASK.start(jax.random.key(1))[1]


class Programs:
    """The compiled programs of one algorithm; every step size is a factor times the listed one."""

    def __init__(self, name):
        self.name, self.entry = name, ALGORITHMS[name]

    def build(self, case, factor=1.0, bound=None, inner_bound=None):
        """Return the algorithm with x and y in boxes of these half widths."""
        outer = self.entry.outer

        def scheduled(count):
            return factor * outer(count)

        descent = optax.sgd(scheduled if callable(outer) else factor * outer)
        inner_bound = None if self.entry.refuses_inner_projection else inner_bound
        problem = in_boxes(case.problem, bound, inner_bound)
        return self.entry.factory(problem, inner_optimizer=case.step, outer_optimizer=descent)

    def path(self, case, count, factor=1.0, bound=np.inf, inner_bound=None):
        """Return the state after `count` steps and the metrics of the last step; x starts in the box."""
        algorithm = self.build(case, factor, bound, inner_bound)
        state = algorithm.init(optax.tree.clip(case.x, -bound, bound), case.y)
        metrics = jax.eval_shape(algorithm.step, state, case.data, KEY)[1]

        def body(i, carry):
            return algorithm.step(carry[0], case.data, jax.random.fold_in(KEY, i))

        zeros = jax.tree.map(lambda m: jnp.zeros((), jnp.result_type(m)), metrics)
        return jax.lax.fori_loop(0, count, body, (state, zeros))

    @cached_property
    def quadratic_paths(self):
        """`count -> (states, metrics)` on the quadratic case for each of `LANES`, by `vmap`."""
        case = quadratic_case()
        lanes = jax.vmap(lambda lane, count: self.path(case, count, *lane), in_axes=(0, None))
        return jax.jit(lambda count: lanes(jnp.array(LANES), count))

    @cached_property
    def quartic_path(self):
        case = quartic_case()
        return jax.jit(lambda count: self.path(case, count))

    @cached_property
    def step(self):
        """`(factor, state, key) -> (state, metrics)` on the quadratic case."""
        case = quadratic_case()
        return jax.jit(lambda factor, state, key: self.build(case, factor).step(state, case.data, key))


def in_boxes(problem, bound, inner_bound):
    """Return the problem with x, and two entries of y, in boxes of these half widths; None means no box."""
    outer = None if bound is None else lambda x: optax.tree.clip(x, -bound, bound)
    inner = None if inner_bound is None else inner_box(inner_bound)
    return replace(problem, outer_projection=outer, inner_projection=inner)


def projected_to_simplex(x):
    # optax's projection mixes integers and floats.
    with jax.numpy_dtype_promotion("standard"):
        return optax.projections.projection_simplex(x)


@pytest.fixture(scope="module")
def programs(request):
    return Programs(request.param)


def for_algorithms(thorough=False):
    """Parametrise a test over all algorithms; with `thorough`, those outside `SAMPLE` are slow tests."""

    names = [
        name if name in SAMPLE or not thorough else pytest.param(name, marks=pytest.mark.slow)
        for name in ALGORITHMS
    ]
    return pytest.mark.parametrize("programs", names, indirect=True, scope="module")


def assert_close(got, want, **tolerances):
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, **tolerances)


def lane(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def test_the_list_of_algorithms_is_complete():
    assert sorted([*ALGORITHMS, *META]) == sorted(algorithms.ALGORITHMS)


def assert_converged(case, entry, state, metrics):
    def stationarity(x):
        return np.linalg.norm(case.exact(x)[1])

    assert stationarity(state.x) < entry.shrink * stationarity(case.x)
    assert metrics["inner_residual"] < entry.shrink


@for_algorithms()
def test_converges_to_a_stationary_point_of_a_quadratic(programs):
    entry = programs.entry
    assert_converged(quadratic_case(), entry, *lane(programs.quadratic_paths(entry.steps), FREE))


@for_algorithms()
def test_converges_with_active_constraints_on_y_or_refuses_them(programs):
    case, entry = boxed_case(LANES[Y_BOXED][2]), programs.entry
    if entry.refuses_inner_projection:
        with pytest.raises(ValueError, match=f"{programs.name}.* cannot keep y in a feasible set"):
            entry.factory(case.problem)
        return
    state, metrics = lane(programs.quadratic_paths(entry.steps), Y_BOXED)
    y, _ = case.exact(state.x)
    assert np.sum(np.abs(y) == LANES[Y_BOXED][2]) == 2  # both constraints are active
    assert_converged(case, entry, state, metrics)


@for_algorithms()
def test_metrics_are_the_losses_where_the_algorithm_measures(programs):
    """At the x of the hypergradient and the y before or after its move, which the third step tells apart."""
    case = quadratic_case()
    before, _ = lane(programs.quadratic_paths(2), FREE)
    after, metrics = lane(programs.quadratic_paths(3), FREE)
    x = before.x
    if programs.name == "accbio":
        x = before.ahead
    if programs.name == "accbio_bg":
        # s = (2 outer_condition)^(-1/2), at the default condition number of 10.
        s = 20**-0.5
        x = optax.tree.add_scale(x, s / (s + 2), optax.tree.sub(before.slow, x))

    def losses(y):
        g_y = jax.grad(case.problem.inner, argnums=1)(x, y, None)
        return case.problem.outer(x, y, None), case.problem.inner(x, y, None), optax.tree.norm(g_y)

    found = [metrics[name] for name in ("outer_loss", "inner_loss", "inner_residual")]
    assert any(np.allclose(found, losses(y), rtol=1e-9, atol=1e-12) for y in (before.y, after.y))


@for_algorithms(thorough=True)
def test_converges_to_a_stationary_point_of_a_quartic(programs):
    entry = programs.entry
    assert_converged(quartic_case(), entry, *programs.quartic_path(entry.steps))


@for_algorithms(thorough=True)
def test_step_is_the_same_under_jit(programs):
    case = quadratic_case()
    algorithm = programs.build(case)
    state = algorithm.init(case.x, case.y)
    plain, _ = algorithm.step(state, case.data, KEY)
    compiled, _ = programs.step(1.0, state, KEY)
    # Fused arithmetic rounds differently, and PZOBO divides differences by its smoothing of 1e-4.
    assert_close(plain, compiled, rtol=1e-7, atol=1e-10)


@for_algorithms(thorough=True)
def test_vmap_over_step_sizes_equals_one_run_each(programs):
    case = quadratic_case()
    together, _ = programs.quadratic_paths(3)
    alone = programs.build(case).init(case.x, case.y)
    for i in range(3):
        alone, _ = programs.step(0.5, alone, jax.random.fold_in(KEY, i))
    assert_close(lane(together, HALVED).x, alone.x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@for_algorithms()
def test_a_precision_is_kept_and_metrics_are_scalars_with_constant_keys(programs, dtype):
    case = quadratic_case()

    def converted(variable):
        return jax.tree.map(lambda leaf: leaf.astype(dtype), variable)

    problem = b.Problem(lambda x, y, batch: optax.tree.norm(y) ** 2, lambda x, y, batch: _coupled(x, y))
    algorithm = programs.entry.factory(problem)
    state = algorithm.init(converted(case.x), converted(case.y))
    # Lowering also finds operations that have no implementation in this precision.
    after, metrics = jax.jit(algorithm.step).lower(state, case.data, KEY).out_info
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for before, leaf in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        # Counters are integers, and running means of a coin are at least float32.
        assert before.shape == leaf.shape and before.dtype == leaf.dtype
        assert leaf.dtype in (dtype, jnp.float32, jnp.int32)
    assert {leaf.dtype for leaf in jax.tree.leaves((after.x, after.y))} == {jnp.dtype(dtype)}
    _, again = jax.eval_shape(algorithm.step, after, case.data, KEY)
    assert metrics.keys() == again.keys() and metrics.keys() >= METRICS
    assert all(value.dtype == dtype and value.shape == () for value in metrics.values())


@pytest.mark.parametrize(
    "factory", [b.lancbio, partial(b.stable, convexity=0.1), b.stable], ids=["lancbio", "capped", "stable"]
)
def test_methods_with_a_dense_solve_converge_in_bfloat16(factory):
    def inner(x, y, batch):
        return 0.5 * jnp.sum(jnp.array([0.5, 1, 1.5, 2], y.dtype) * y**2) - x @ y

    problem = b.Problem(lambda x, y, batch: 0.5 * jnp.sum((y - 1) ** 2), inner)
    algorithm = factory(problem, inner_optimizer=0.3, outer_optimizer=0.3)
    state = algorithm.init(jnp.zeros(4, jnp.bfloat16), jnp.zeros(4, jnp.bfloat16))
    step = jax.jit(algorithm.step)
    for _ in range(100):
        state, _ = step(state, b.full(None, None), None)
    assert state.x.dtype == state.y.dtype == jnp.bfloat16
    # The solution is y = 1. In bfloat16, moves below 1 / 256 of a value are lost.
    np.testing.assert_allclose(state.y.astype(float), 1, atol=0.1)


def _coupled(x, y):
    return optax.tree.norm(optax.tree.add_scale(y, -x["a"][0], optax.tree.ones_like(y)), squared=True)


@for_algorithms()
def test_x_stays_in_its_box_and_reaches_the_edge(programs):
    for count in (20, 60):
        x = np.abs(flat(lane(programs.quadratic_paths(count)[0], BOXED).x))
        assert np.max(x) <= 0.1 and np.max(x) > 0.05


@for_algorithms(thorough=True)
def test_resumes_bit_for_bit_for_every_chunk_length_and_stays_on_the_simplex(programs):
    problem = replace(TASK.problem, outer_projection=projected_to_simplex)
    algorithm = programs.entry.factory(problem, inner_optimizer=0.2, outer_optimizer=0.02)
    seen = []
    whole = b.run(
        algorithm,
        *START,
        DATA,
        steps=20,
        key=KEY,
        log_every=10,
        callback=lambda step, state, metrics: seen.append(state.x),
    )
    half = b.run(algorithm, *START, DATA, steps=5, key=KEY, log_every=2)
    # Chunks of at most ten steps again: the program of the first run serves.
    rest = b.run(algorithm, *START, DATA, steps=20, key=KEY, log_every=10, state=half.state, start=5)
    assert_close(whole.state, rest.state, rtol=0, atol=0)
    for x in seen:
        assert np.sum(x) == pytest.approx(1, abs=1e-12) and np.min(x) >= 0
    # f of this task reads y only, so x has no direct term.
    assert np.abs(seen[-1] - seen[0]).max() > 1e-4 or programs.name in ("fo_blo", "fo_itd_bio")


@for_algorithms(thorough=True)
def test_budget_calls_per_step_equal_the_declared_cost(programs):
    problem, counts = count_calls(quartic_case().problem)
    case = quartic_case()
    # Full data hide the cost of linearised products; minibatches show every call.
    data = b.minibatches(np.zeros(4), np.zeros(4), batch_size=2)
    algorithm = programs.entry.factory(problem, inner_optimizer=case.step, outer_optimizer=0.02)
    state = b.initial_state(algorithm, case.x, case.y, data)
    batch, key = make_plan(algorithm.draws, data, KEY, 0, 1).read(data, 0)
    step = jax.jit(lambda state: algorithm.step(state, batch, key)[0])
    # A first step may refresh. The declared cost is the cost of the later steps.
    state = jax.block_until_ready(step(state))
    for kind in counts:
        counts[kind] = 0
    jax.block_until_ready(step(state))
    assert counts == algorithm.cost._asdict()


@pytest.mark.parametrize("name", [*ALGORITHMS, *META])
def test_docstring_states_the_cost_and_the_record_the_facts(name):
    factory = algorithms.ALGORITHMS[name]
    assert "Cost per step:" in str(inspect.getdoc(factory))
    about = algorithms.about(factory)
    assert about.family and about.reference and about.learns_start == (name in META)
    assert set(about.problem_facts) <= set(algorithms.hyperparameters(factory))
    cost = factory(quartic_case().problem).cost
    # The cost of STABLE grows with y: one entry is its default.
    assert about.cheap == (cost.total <= 8) or name == "stable"


def test_integer_variables_are_refused():
    with pytest.raises(ValueError, match=r"x\['rate'\] is int"):
        b.soba(quartic_case().problem).init({"rate": jnp.arange(3)}, jnp.zeros(2))
