"""Certificates: the true gradient of Phi at any y, to the stated accuracy, and along a run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import bilevel as b
from bilevel import tasks
from bilevel.certificates import Certificate, judge
from cases.feasible import SETS, case
from cases.problems import central_difference

NOTHING = b.full(None, None)
GOAL = jnp.array([1.0, 2.0])
# y* = GOAL / (1 + e^x), and the gradient of Phi at .3 is -.306936.
SHRINK = b.Problem(
    lambda x, y, batch: jnp.sum((y - 0.5) ** 2),
    lambda x, y, batch: 0.5 * jnp.sum((y - GOAL) ** 2) + 0.5 * jnp.exp(x) * jnp.sum(y**2),
)
TASK = tasks.quadratic(rows=50, outer_dim=4, inner_dim=6)


def phi_gradient(x):
    """Return the gradient of Phi of SHRINK in closed form."""
    y = GOAL / (1 + jnp.exp(x))
    return jnp.sum(2 * (y - 0.5) * -GOAL * jnp.exp(x) / (1 + jnp.exp(x)) ** 2)


@pytest.mark.parametrize("dtype, error", [(jnp.float64, 1e-12), (jnp.float32, 2e-6)])
def test_the_gradient_is_the_closed_form_wherever_y_starts(dtype, error):
    problem = b.Problem(
        SHRINK.outer,
        lambda x, y, batch: 0.5 * jnp.sum((y - GOAL.astype(y.dtype)) ** 2) + 0.5 * jnp.exp(x) * jnp.sum(y**2),
    )
    x = jnp.asarray(0.3, dtype)
    for y in (jnp.zeros(2, dtype), jnp.array([100.0, -3.0], dtype)):
        found = b.certificate(problem, x, y, NOTHING)
        assert found.accurate and found.gradient_norm.dtype == dtype
        np.testing.assert_allclose(found.gradient_norm, 0.306936, atol=1e-6)
        np.testing.assert_allclose(found.gradient_norm, abs(phi_gradient(0.3)), rtol=error)
        assert found.error <= error and found.scale == pytest.approx(found.gradient_norm)
    # What implicit differentiation gives at y = 0: v = f_y / (1 + e^x) = -1 / (1 + e^x), J v = e^x y v = 0.
    np.testing.assert_allclose(
        b.certificate(problem, x, jnp.zeros(2, dtype), NOTHING).bias, 0.306936, atol=1e-6
    )


def test_a_problem_that_is_not_quadratic_agrees_with_finite_differences():
    def inner(x, y, batch):
        """A narrow curved valley: 10 (b - a^2)^2 + (1 - a)^2, pulled towards x."""
        return (
            10 * (y["b"] - y["a"] ** 2) ** 2
            + (1 - y["a"]) ** 2
            + 0.05 * ((y["a"] - x) ** 2 + (y["b"] - x) ** 2)
        )

    def outer(x, y, batch):
        return (y["a"] - 0.5) ** 2 + jnp.sin(y["b"])

    def phi(x):
        y = {"a": jnp.array(-1.2), "b": jnp.array(1.0)}
        flat, tree = ravel_pytree(y)
        for _ in range(60):
            g, H = (d(lambda z: inner(x, tree(z), None))(flat) for d in (jax.grad, jax.hessian))
            flat = flat - jnp.linalg.solve(H + 0.01 * jnp.linalg.norm(g) * jnp.eye(2), g)
        return outer(x, tree(flat), None)

    start = {"a": jnp.array(-1.2), "b": jnp.array(1.0)}
    found = b.certificate(b.Problem(outer, inner), 1.5, start, NOTHING)
    difference = (phi(1.5 + 1e-5) - phi(1.5 - 1e-5)) / 2e-5
    np.testing.assert_allclose(found.gradient_norm, abs(difference), rtol=1e-7)
    assert found.accurate and found.inner_residual < 1e-10


def test_minibatch_data_are_read_whole(key):
    x, y = TASK.start(key)
    found = b.certificate(TASK.problem, x, y, TASK.minibatches(8))
    want = jax.grad(lambda x: TASK.metrics(x, y, TASK.held)["outer_loss"])(x)
    np.testing.assert_allclose(found.gradient_norm, jnp.linalg.norm(want), rtol=1e-10)


def saddle(x, y, batch):
    return 0.5 * y[0] ** 2 - 0.5 * y[1] ** 2 + 0.25 * y[1] ** 4 + x * y[0]


def singular(x, y, batch):
    return 0.5 * (y[0] - x) ** 2


def flat(x, y, batch):
    """No minimum: g falls for ever."""
    return jnp.exp(-y[0]) + 0.5 * (y[1] - x) ** 2


@pytest.mark.parametrize("inner", [saddle, singular, flat])
def test_where_phi_has_no_known_gradient_the_certificate_says_so(inner):
    problem = b.Problem(lambda x, y, batch: jnp.sum((y - x) ** 2), inner)
    found = b.certificate(problem, 1.0, jnp.zeros(2), NOTHING, inner_steps=10)
    assert not found.accurate
    (rule,) = judge(found, {})
    assert "the gradient of Phi is not known" in rule and "add an L2 term to g" in rule


def certify(problem, algorithm, x, y, data=NOTHING, **options):
    settings: Any = {"steps": 200, "log_every": 10} | options
    return b.run(algorithm, x, y, data, key=jax.random.key(0), **settings)


def test_a_certified_run_records_the_gradient_and_stops_at_the_tolerance():
    algorithm = b.soba(SHRINK, inner_optimizer=0.2, outer_optimizer=0.2)
    result = certify(
        SHRINK, algorithm, 0.3, jnp.zeros(2), certify=b.Certify(SHRINK, every=20), tolerance=1e-3, steps=1000
    )
    history = result.history
    measured = np.isfinite(history["certified_gradient_norm"])
    np.testing.assert_array_equal(measured, history["step"] % 20 == 0)
    np.testing.assert_allclose(history["certified_gradient_norm"][0], 0.306936, atol=1e-6)
    *before, last = history["certified_gradient_norm"][measured]
    assert last <= 1e-3 < min(before) and history["step"][-1] < 1000
    np.testing.assert_allclose(last, abs(phi_gradient(result.state.x)), rtol=1e-6)
    assert result.solved and result.certificate.accurate
    assert history["certified_linear_residual"][-1] < 1e-8 and history["certified_inner_residual"][-1] < 1e-8
    plain = certify(SHRINK, algorithm, 0.3, jnp.zeros(2), steps=int(history["step"][-1]))
    assert plain.state.x == result.state.x and plain.solved is None and plain.certificate is None


def test_several_seeds_stop_when_the_last_one_has_arrived():
    algorithm = b.soba(SHRINK, inner_optimizer=0.2, outer_optimizer=0.2)
    state = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), algorithm.init(0.0, jnp.zeros(2)))
    # The second seed starts further away.
    state = state._replace(x=jnp.array([0.5, -3.0]))
    keys = jax.random.split(jax.random.key(0))
    result = b.run(
        algorithm, 0.0, jnp.zeros(2), NOTHING, steps=2000, key=keys, log_every=10, state=state,
        certify=b.Certify(SHRINK, every=10), tolerance=1e-3,
    )  # fmt: skip
    norms = result.history["certified_gradient_norm"]
    np.testing.assert_allclose(norms[-1], np.abs(jax.vmap(phi_gradient)(result.state.x)), rtol=1e-5)
    assert norms.shape[1] == 2 and (norms[-1] <= 1e-3).all() and not (norms[-2] <= 1e-3).all()


def test_a_run_warns_once_if_the_inner_problem_is_not_solved():
    algorithm = b.aid_bio(SHRINK, inner_optimizer=0.01, outer_optimizer=0.01, inner_steps=1)
    with pytest.warns(
        RuntimeWarning, match="aid_bio: y does not solve the inner problem: .* raise the inner"
    ) as seen:
        result = certify(SHRINK, algorithm, 0.3, jnp.zeros(2), steps=10, certify=b.Certify(SHRINK, every=10))
    assert len(seen) == 1 and result.solved is False


def test_a_run_warns_if_the_adjoint_system_is_not_solved():
    algorithm = b.soba(SHRINK, inner_optimizer=0.4, outer_optimizer=0.0, adjoint_optimizer=1e-4)
    with pytest.warns(
        RuntimeWarning, match="soba: v does not solve the adjoint system: its linear residual is"
    ):
        result = certify(SHRINK, algorithm, 0.3, jnp.zeros(2), certify=b.Certify(SHRINK, every=200))
    assert result.solved is False


def test_a_gradient_that_is_zero_to_the_accuracy_needs_no_small_residuals():
    found = Certificate(*map(np.asarray, (1e-12, 1e-12, 1e-12, 1e-12, 1.0, 1e-9, True)))
    assert judge(found, {"linear_residual": np.asarray(1.0)}) == []


def test_requests_that_do_not_fit_are_refused(key):
    algorithm = b.soba(SHRINK)
    with pytest.raises(ValueError, match=r"every must be a multiple of log_every \(10\), .* got 15"):
        certify(SHRINK, algorithm, 0.3, jnp.zeros(2), certify=b.Certify(SHRINK, every=15))
    with pytest.raises(ValueError, match=r"tolerance needs certify=Certify\(problem, every=...\), got 0.1"):
        certify(SHRINK, algorithm, 0.3, jnp.zeros(2), tolerance=0.1)
    settings: Any = (
        ({"accuracy": -1.0}, "accuracy must be positive, got -1.0"),
        ({"inner_steps": 0}, "inner_steps must be at least 1, got 0"),
        ({"linear_steps": 0}, "linear_steps must be at least 1, got 0"),
    )
    for setting, rule in settings:
        with pytest.raises(ValueError, match=rule):
            b.certificate(SHRINK, 0.3, jnp.zeros(2), NOTHING, **setting)
        with pytest.raises(ValueError, match=rule):
            certify(SHRINK, algorithm, 0.3, jnp.zeros(2), certify=b.Certify(SHRINK, every=10, **setting))
    with pytest.raises(ValueError, match=r"tolerance must be positive, got -1.0"):
        certify(SHRINK, algorithm, 0.3, jnp.zeros(2), certify=b.Certify(SHRINK, every=10), tolerance=-1.0)
    with pytest.raises(ValueError, match=r"certify must be a Certify\(problem, every=...\), got True"):
        certify(SHRINK, algorithm, 0.3, jnp.zeros(2), certify=True)
    host = b.Batch(NOTHING.outer, b.Host(lambda i: np.zeros(1)))
    for call in (
        lambda: certify(SHRINK, algorithm, 0.3, jnp.zeros(2), host, certify=b.Certify(SHRINK, every=10)),
        lambda: b.certificate(SHRINK, 0.3, jnp.zeros(2), host),
    ):
        with pytest.raises(ValueError, match="a certificate needs the whole data, and data.inner is a Host"):
            call()


def test_a_certified_run_resumes_with_its_history(tmp_path):
    algorithm = b.soba(SHRINK, inner_optimizer=0.4, outer_optimizer=0.001)
    whole = certify(SHRINK, algorithm, 0.3, jnp.zeros(2), steps=40, certify=b.Certify(SHRINK, every=20))
    for steps in (20, 40):
        parts = certify(
            SHRINK, algorithm, 0.3, jnp.zeros(2), steps=steps, certify=b.Certify(SHRINK, every=20),
            checkpoint=tmp_path,
        )  # fmt: skip
    for name in ("step", "certified_gradient_norm"):
        np.testing.assert_array_equal(parts.history[name], whole.history[name])


@pytest.mark.parametrize("name", SETS)
def test_certificate_on_a_feasible_set_is_the_finite_difference(name):
    problem, x, solver = case(name)

    @jax.jit
    def phi(x):
        return problem.outer(x, solver.solve(x, jnp.zeros(3), NOTHING), None)

    found = b.certificate(problem, x, jnp.array([0.3, 0.2, 0.1]), NOTHING)
    assert found.accurate and found.inner_residual < 1e-12
    assert found.gradient_norm == pytest.approx(np.linalg.norm(central_difference(phi, x)), rel=1e-6)


def test_a_run_that_misses_its_tolerance_warns_and_is_not_solved():
    algorithm = b.soba(SHRINK, inner_optimizer=0.4, outer_optimizer=0.01)
    with pytest.warns(
        RuntimeWarning,
        match=r"^soba: the run ended at a gradient norm of 0\.\d+, above the tolerance 1e-09; make more",
    ) as seen:
        result = certify(
            SHRINK,
            algorithm,
            0.3,
            jnp.zeros(2),
            certify=b.Certify(SHRINK, every=20),
            tolerance=1e-9,
            steps=40,
        )
    assert len(seen) == 1 and result.solved is False and result.certificate.accurate
    # The same run without a tolerance is judged by its residuals alone.
    plain = certify(SHRINK, algorithm, 0.3, jnp.zeros(2), certify=b.Certify(SHRINK, every=20), steps=40)
    assert plain.solved is True and plain.diverged is None


def test_a_tolerance_reached_with_a_wrong_y_is_not_solved():
    found = Certificate(*map(np.asarray, (5e-4, 1e-12, 1e-12, 1e-12, 1.0, 0.3, True)))
    (rule,) = judge(found, {"linear_residual": np.asarray(1.0)}, 1e-3)
    assert rule.startswith("y does not solve the inner problem")
    assert judge(found._replace(bias=np.asarray(9e-4)), {}, 1e-3) == []


def test_the_last_step_has_a_certificate_even_if_a_callback_ends_the_run():
    algorithm = b.soba(SHRINK, inner_optimizer=0.4, outer_optimizer=0.001)
    result = certify(
        SHRINK, algorithm, 0.3, jnp.zeros(2), certify=b.Certify(SHRINK, every=100),
        callback=lambda step, state, metrics: step == 130,
    )  # fmt: skip
    norms = result.history["certified_gradient_norm"]
    assert list(result.history["step"][np.isfinite(norms)]) == [0, 100, 130]
    np.testing.assert_allclose(norms[-1], abs(phi_gradient(result.state.x)), rtol=1e-6)
    assert result.certificate.gradient_norm == norms[-1]


def growing(factor=1.0):
    """Return an algorithm whose y grows tenfold at each step, or shrinks for a factor below 1."""
    algorithm = b.soba(SHRINK)

    def step(state, batch, key):
        new = state._replace(y=state.y * (10.0 if factor == 1.0 else 0.99))
        return new, {"outer_loss": jnp.sum(new.y)}

    return algorithm._replace(step=step)


def test_a_restored_run_is_not_solved_and_carries_its_error():
    with pytest.warns(RuntimeWarning, match="the run ends with the state of step 300") as seen:
        result = certify(
            SHRINK, growing(), 0.3, jnp.ones(2), steps=400, certify=b.Certify(SHRINK, every=200),
            on_divergence="restore", tolerance=1e-9,
        )  # fmt: skip
    # The certificate at the restored state would ask for other remedies.
    assert len(seen) == 1 and result.solved is False
    assert isinstance(result.diverged, b.DivergedError) and result.diverged.steps == (300, 310)
    norms = result.history["certified_gradient_norm"]
    assert list(result.history["step"][np.isfinite(norms)]) == [0, 200, 300]


def test_a_halved_run_carries_its_error_and_no_warning_of_its_certificate():
    with pytest.warns(RuntimeWarning) as seen:
        result = certify(
            SHRINK, growing, 0.3, jnp.ones(2), steps=400, log_every=400,
            certify=b.Certify(SHRINK, every=400), on_divergence="halve",
        )  # fmt: skip
    assert len(seen) == 1 and "step sizes times 0.5" in str(seen[0].message)
    assert result.solved is False and isinstance(result.diverged, b.DivergedError)
