"""Tests of `solution` and of `Info`: what they report where an answer would be wrong without a word."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as b
from bilevel.response import stepwise
from cases.problems import unread

NOTHING = b.full(None, None)
GOAL = jnp.array([1.0, 2.0])


def inner(x, y, batch):
    return 0.5 * jnp.sum((y - GOAL) ** 2) + 0.5 * jnp.exp(x) * jnp.sum(y**2)


SHRINK = b.Problem(lambda x, y, batch: jnp.sum((y - 0.5) ** 2), inner)
# y* = GOAL / (1 + e^x), and the gradient of Phi at .3:
TRUTH = -0.306936


def three_steps():
    return b.descend(SHRINK, 0.05, 3)


RESPONSES = {
    "implicit": lambda: b.implicit(SHRINK, three_steps(), b.cg(2)),
    "neumann": lambda: b.implicit(SHRINK, three_steps(), b.neumann(30, 0.2), warm=False),
    "unrolled": lambda: b.unrolled(three_steps()),
    "first_order": lambda: b.first_order(three_steps()),
    "zeroth_order": lambda: b.zeroth_order(three_steps(), 200, smoothing=1e-6),
    "unbiased": lambda: b.unbiased(b.first_order(three_steps()), b.unrolled(three_steps()), 0.9),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_info_knows_the_residual_and_the_error_of_an_unconverged_hypergradient(name, key):
    evaluate = jax.jit(lambda x: b.hypergradient(SHRINK, RESPONSES[name](), x, jnp.zeros(2), NOTHING, key))
    gradient, y, info = evaluate(0.3)
    assert info.inner_residual == pytest.approx(np.linalg.norm(jax.grad(inner, argnums=1)(0.3, y, None)))
    assert info.error == pytest.approx(abs(float(gradient) - TRUTH), rel=1e-5)


def test_the_wrong_sign_of_an_unconverged_implicit_gradient_shows_in_its_error():
    gradient, _, info = b.hypergradient(SHRINK, RESPONSES["implicit"](), 0.3, jnp.zeros(2), NOTHING)
    assert float(gradient) == pytest.approx(0.1276, abs=1e-4) and info.error > abs(gradient)


def test_without_diagnose_info_holds_no_diagnostics():
    info = b.hypergradient(SHRINK, RESPONSES["implicit"](), 0.3, jnp.zeros(2), NOTHING, diagnose=False)[2]
    assert info.inner_residual is None and info.error is None


@pytest.mark.parametrize("name", RESPONSES)
def test_solution_reports_the_inner_residual(name, key):
    fit = b.solution(RESPONSES[name](), has_info=True)
    y, info = fit(0.3, jnp.zeros(2), NOTHING, key)
    assert info.inner_residual == pytest.approx(np.linalg.norm(jax.grad(inner, argnums=1)(0.3, y, None)))


def test_solution_reports_nan_for_a_solver_that_does_not_know_its_residual():
    own = three_steps()._replace(residual=None)
    assert np.isnan(b.solution(b.unrolled(own), has_info=True)(0.3, jnp.zeros(2), NOTHING)[1].inner_residual)


def slope_of(fit):
    return jax.jit(jax.grad(lambda x: fit(x, jnp.zeros(2), NOTHING).sum()))


def test_solution_warns_once_of_an_unconverged_inner_solve_and_of_an_unsolved_system():
    response = b.implicit(SHRINK, three_steps(), b.neumann(1, 0.01), warm=False)
    slope = slope_of(b.solution(response, tolerance=1e-3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for x in (0.3, 0.4):
            jax.block_until_ready(slope(x))
        jax.effects_barrier()
    messages = sorted(str(warning.message) for warning in caught)
    assert len(messages) == 2
    assert messages[0].startswith("the adjoint system is not solved: its relative residual is 0.9")
    assert messages[1].startswith("the inner problem is not solved: |g_y| is 1.5, above the tolerance 0.001")


def test_solution_below_its_tolerance_and_without_one_says_nothing():
    solved = b.implicit(SHRINK, b.descend(SHRINK, 0.3, 100), b.cg(2))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for fit in (b.solution(solved, tolerance=1e-6), b.solution(RESPONSES["implicit"]())):
            jax.block_until_ready(slope_of(fit)(0.3))
        jax.effects_barrier()
    assert caught == []


def test_solution_warns_at_a_saddle():
    """At y = 0 of -y^2 / 2 + x y conjugate gradients meet negative curvature and stop at v = 0."""
    saddle = b.Problem(unread, lambda x, y, batch: -0.5 * y**2 + x * y)
    fit = b.solution(b.implicit(saddle, b.descend(saddle, 0.1, 0), b.cg(3)), tolerance=1e-3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jax.block_until_ready(jax.grad(lambda x: fit(x, jnp.zeros(()), NOTHING))(0.0))
        jax.effects_barrier()
    message = str(caught[-1].message)
    assert "its relative residual is 1, above" in message and "damping" in message


NO_START = [name for name in RESPONSES if name != "unrolled"] + ["stepwise"]


@pytest.mark.parametrize("name", NO_START)
def test_the_derivative_with_respect_to_the_start_is_refused_and_not_zero(name, key):
    response = stepwise(SHRINK, 0.05, 3) if name == "stepwise" else RESPONSES[name]()
    fit = b.solution(response)

    def loss(y0):
        return fit(y0[0], y0, NOTHING, key).sum()

    for transform in (jax.grad(loss), jax.jit(jax.grad(loss))):
        with pytest.raises(ValueError, match=r"no derivative with respect to the start y0; use unrolled"):
            transform(jnp.zeros(2))

    def stopped(y0):
        return fit(y0[0], jax.lax.stop_gradient(y0), NOTHING, key).sum()

    assert np.isfinite(jax.jit(jax.grad(stopped))(jnp.zeros(2))).all()


def test_unrolled_has_the_derivative_with_respect_to_the_start():
    fit = b.solution(RESPONSES["unrolled"]())
    slope = jax.grad(lambda y0: fit(0.3, y0, NOTHING).sum())(jnp.zeros(2))
    np.testing.assert_allclose(slope, (1 - 0.05 * (1 + np.exp(0.3))) ** 3, rtol=1e-12)


@pytest.mark.parametrize("factory", [b.shine, b.qnbo])
def test_the_solution_of_a_quasi_newton_response_is_not_a_constant(factory, monkeypatch):
    """`jax.grad` sees through it, as through any other response."""
    seen = []
    module = __import__(f"bilevel.algorithms.{factory.__name__}", fromlist=["nested"])
    monkeypatch.setattr(module, "nested", lambda problem, response, *args, **options: seen.append(response))
    factory(SHRINK, inner_optimizer=0.3, inner_steps=6)
    slope = jax.grad(lambda x: b.solution(seen[0])(x, jnp.zeros(2), NOTHING).sum())(0.3)
    assert float(slope) == pytest.approx(-3 * np.exp(0.3) / (1 + np.exp(0.3)) ** 2, rel=1e-5)


@pytest.mark.parametrize("name", ["implicit", "unbiased"])
def test_every_response_with_a_linear_solve_warns_of_its_residual(name, key):
    exact = b.implicit(SHRINK, b.descend(SHRINK, 0.3, 100), b.neumann(1, 0.01), warm=False)
    cheap = b.first_order(b.descend(SHRINK, 0.3, 100))
    response = exact if name == "implicit" else b.unbiased(cheap, exact, 1.0)
    fit = b.solution(response, tolerance=1e-3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jax.block_until_ready(jax.grad(lambda x: fit(x, jnp.zeros(2), NOTHING, key).sum())(0.3))
        jax.effects_barrier()
    assert [str(warning.message).startswith("the adjoint system is not solved") for warning in caught] == [
        True
    ]


def test_second_derivatives_of_differences_work_under_a_vmap_that_the_loss_closes_over(key):
    def total(x):
        def square(a):
            problem = b.Problem(unread, lambda x, y, batch: 0.5 * jnp.sum((y - a * x) ** 2))
            response = b.zeroth_order(b.descend(problem, 1.0, 1), 400, smoothing=1e-4)
            return jnp.sum(b.solution(response)(x, jnp.zeros(2), NOTHING, key) ** 2)

        return jnp.sum(jax.vmap(square)(jnp.array([1.0, 2.0])))

    hessian = jax.jacrev(jax.grad(total))(jnp.array([0.3, 0.4]))
    np.testing.assert_allclose(hessian, 10 * np.eye(2), atol=3)  # 400 random directions
