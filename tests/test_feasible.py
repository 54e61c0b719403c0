"""Tests of feasible sets: hypergradients with active constraints against finite differences."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as b
from bilevel.feasible import face, projected_gradient
from cases.feasible import SETS, C, case, quadratic
from cases.problems import central_difference

NOTHING = b.full(None, None)

LINEAR = {
    "cg": b.cg(3),
    "richardson": b.richardson(800, 0.3),
    "neumann": b.neumann(800, 0.3),
    # The curvature of the ball adds to the Hessian.
    "heavy ball": b.heavy_ball(600, 5.0, 0.05),
    "nesterov": b.nesterov(800, 0.2, 0.7),
}


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
@pytest.mark.parametrize("name", SETS)
def test_implicit_gradient_with_constraints_is_the_finite_difference_at_any_scale_of_g(name, scale):
    problem, x, solver = case(name, scale)
    response = b.implicit(problem, solver, b.cg(3))
    gradient, y, info = jax.jit(lambda x: b.hypergradient(problem, response, x, jnp.zeros(3), NOTHING))(x)

    @jax.jit
    def phi(x):
        return problem.outer(x, solver.solve(x, jnp.zeros(3), NOTHING), None)

    np.testing.assert_allclose(gradient, central_difference(phi, x), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(y, SETS[name][0](y), atol=1e-15)
    assert info.inner_residual < 1e-9 * max(scale, 1) and info.linear_residual < 1e-9 and info.error < 1e-7


@pytest.mark.parametrize("solver", LINEAR)
@pytest.mark.parametrize("name", ["orthant", "simplex", "ball"])
def test_every_linear_solver_works_on_the_free_directions(name, solver):
    problem, x, descent = case(name)
    want = b.hypergradient(problem, b.unrolled(descent), x, jnp.zeros(3), NOTHING, diagnose=False)[0]
    response = b.implicit(problem, descent, LINEAR[solver])
    got = jax.jit(lambda x: b.hypergradient(problem, response, x, jnp.zeros(3), NOTHING)[0])(x)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


def test_a_blocked_and_a_free_coordinate_have_the_values_of_the_closed_form():
    def inner(x, y, batch):
        return 0.5 * y @ C @ y - (jnp.array([1, 0.2, 0.6]) * x) @ y + 0.05 * jnp.sum(y**2)

    problem = b.Problem(lambda x, y, batch: jnp.sum(y), inner, inner_projection=lambda y: jnp.maximum(y, 0))
    response = b.implicit(problem, b.descend(problem, 0.5, 300), b.cg(3))
    gradient, *_ = b.hypergradient(problem, response, jnp.ones(3), jnp.zeros(3), NOTHING)
    np.testing.assert_allclose(gradient, [1 / 1.1, 0, 0.6 / 1.1], atol=1e-12)


@pytest.mark.parametrize("name", SETS)
def test_second_derivative_of_a_constrained_solution_is_the_finite_difference(name):
    problem, x, solver = case(name)
    fit = b.solution(b.implicit(problem, solver, b.cg(3), warm=False))

    def phi(x):
        return problem.outer(x, fit(x, jnp.zeros(3), NOTHING), None)

    slope = jax.jit(jax.grad(phi))
    hessian = jax.jit(jax.jacrev(jax.grad(phi)))(x)
    steps = 1e-5 * jnp.eye(3)
    want = np.stack([(slope(x + step) - slope(x - step)) / 2e-5 for step in steps], axis=1)
    np.testing.assert_allclose(hessian, want, atol=1e-5)


def test_projection_of_y_does_not_move_the_adjoint():
    def inner(x, y, batch):
        return 0.5 * (y - 2 - x) ** 2

    def outer(x, y, batch):
        return 0.5 * (y - 3) ** 2 + 0.05 * x**2

    problem = b.Problem(outer, inner, inner_projection=lambda y: jnp.clip(y, 0, 10))
    state = b.run(b.soba(problem), 0.0, 0.0, NOTHING, steps=2000, key=jax.random.key(0), log_every=2000).state
    assert float(state.x) == pytest.approx(1 / 1.1, abs=1e-9)  # v = -1 / 11 lies outside of the box
    assert float(state.v) == pytest.approx(1 / 1.1 - 1, abs=1e-9)


@pytest.mark.parametrize("name", ["aid_bio", "hoag", "stocbio", "soba", "itd_bio", "f2sa"])
def test_an_x_without_influence_on_the_blocked_solution_follows_f_x_alone(name):
    def inner(x, y, batch):
        return 0.5 * (y - x) ** 2

    def outer(x, y, batch):
        return 0.5 * (y - 3) ** 2 + 0.05 * (x - 4) ** 2

    problem = b.Problem(outer, inner, inner_projection=lambda y: jnp.clip(y, 0, 1))
    algorithm = getattr(b, name)(problem)
    result = b.run(algorithm, 2.0, 0.0, NOTHING, steps=2000, key=jax.random.key(0), log_every=2000)
    assert float(result.state.x) == pytest.approx(4, abs=1e-6) and float(result.state.y) == 1
    assert result.history["inner_residual"][-1] == 0 and result.history["gradient_norm"][-1] < 1e-7


def test_a_projected_value_arrives_exactly():
    """x + (projection - x) would round: from 1, pushed onto the bound 1e-8, it gives 0."""
    problem = b.Problem(lambda x, y, batch: 1e3 * x, lambda x, y, batch: 0.5 * (y - 5) ** 2)
    bounded = replace(
        problem,
        outer_projection=lambda x: jnp.maximum(x, 1e-8),
        inner_projection=lambda y: jnp.minimum(y, 1e-8),
    )
    algorithm = b.aid_bio(bounded)
    state, metrics = algorithm.step(algorithm.init(jnp.float32(1), jnp.float32(-1)), NOTHING, None)
    assert float(state.x) == float(np.float32(1e-8)) == float(state.y)
    state, metrics = algorithm.step(state, NOTHING, None)
    assert metrics["gradient_norm"] == metrics["inner_residual"] == 0


def test_without_a_projection_the_face_is_everything():
    problem = quadratic(1.0)
    everywhere = face(problem, jnp.ones(3), jnp.ones(3), None)
    w = jnp.arange(3.0)
    assert everywhere.project(w) is w and projected_gradient(None, w, w) is w


def test_prox_and_projection_of_x_exclude_each_other():
    problem = b.Problem(
        lambda x, y, batch: x, lambda x, y, batch: y**2, outer_projection=lambda x: jnp.clip(x, 0, 1)
    )
    with pytest.raises(ValueError, match="prox must be None when the problem has an outer_projection"):
        b.prox_aid(problem, prox=lambda x: x)


@pytest.mark.parametrize("curvature", [0.0, 1e-4, 0.01, 10.0])
@pytest.mark.parametrize("multiplier", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("steps", [10, 60])
def test_a_blocked_entry_with_any_multiplier_and_curvature_leaves_the_free_entries_free(
    curvature, multiplier, steps
):
    """y1 rests at its bound 0; its multiplier says nothing on the scale of y0."""

    def inner(x, y, batch):
        return 0.5 * (y[0] - x) ** 2 + 0.5 * curvature * y[1] ** 2 + multiplier * y[1]

    problem = b.Problem(
        lambda x, y, batch: 0.5 * (y[0] - 3) ** 2, inner, inner_projection=lambda y: jnp.clip(y, 0, 1)
    )
    response = b.implicit(problem, b.descend(problem, 0.1, steps), b.cg(5))
    gradient, y, _ = b.hypergradient(problem, response, 0.6, jnp.array([0.5, 0.0]), NOTHING)
    assert y[1] == 0 and float(gradient) == pytest.approx(float(y[0]) - 3, rel=1e-9)


def test_certificate_and_runs_at_a_large_multiplier():
    def inner(x, y, batch):
        return 0.35 * (y[0] - x) ** 2 + y[1] + 0.3 * (y[2] - 1.1 * x) ** 2

    def outer(x, y, batch):
        return 0.5 * jnp.sum((y - 3) ** 2) + 0.05 * (x - 0.2) ** 2

    problem = b.Problem(outer, inner, inner_projection=lambda y: jnp.clip(y, 0, 1))
    x, y = 0.61, jnp.full(3, 0.5)
    found = b.certificate(problem, x, y, NOTHING)
    assert float(found.gradient_norm) == pytest.approx(2.39 + 1.1 * (3 - 1.1 * x) - 0.1 * (x - 0.2), rel=1e-9)
    for factory in (b.aid_bio, b.soba, b.itd_bio):
        algorithm = factory(problem, inner_optimizer=0.5, outer_optimizer=0.02)
        state = b.run(algorithm, x, y, NOTHING, steps=20, key=jax.random.key(0), log_every=20).state
        assert state.x > 0.85  # every step moves x by about 0.02 times 2 to 5
