"""The reference hypergradient and the edges of the spectrum, against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as b
from bilevel.checking import reference as module
from bilevel.checking.flat import flatten
from bilevel.checking.lanczos import spectrum_edges
from bilevel.checking.reference import active_constraints, free_spectrum, inner_spectrum, solve_reference
from cases.feasible import SETS
from cases.feasible import case as feasible_case
from cases.problems import CASES, logistic_case


@pytest.fixture(params=["dense", "conjugate gradients"])
def method(request, monkeypatch):
    """Both methods of the reference; the second is for a large y."""
    if request.param != "dense":
        monkeypatch.setattr(module, "DENSE", 0)
    return request.param


@pytest.mark.parametrize("name", [*CASES, "logistic"])
def test_reference_is_the_closed_form(name, method):
    case = (CASES | {"logistic": logistic_case})[name]()
    flat = flatten(case.problem, case.x, case.y, case.data.outer[0], case.data.inner[0])
    found = solve_reference(flat, flat.y)
    y, gradient = case.exact(flat.x)
    assert found.solved and found.method == method and found.control < 1e-6
    np.testing.assert_allclose(found.y, y, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(found.gradient, gradient, rtol=1e-6, atol=1e-9)


def test_reference_with_active_constraints_agrees_with_differences(method):
    C, q = jnp.array([[1, 0.9, 0], [0.9, 1, 0.5], [0, 0.5, 1]]), jnp.array([1, 0.2, 0.6])
    problem = b.Problem(
        lambda x, y, batch: jnp.sum(y),
        lambda x, y, batch: 0.5 * y @ C @ y - (q * x) @ y + 0.05 * jnp.sum(y**2),
        inner_projection=lambda y: jnp.maximum(y, 0),
    )
    flat = flatten(problem, jnp.ones(3), jnp.zeros(3), None, None)
    found = solve_reference(flat, flat.y)
    np.testing.assert_allclose(found.gradient, [1 / 1.1, 0, 0.6 / 1.1], atol=1e-8)
    assert found.solved and found.control < 1e-6
    assert active_constraints(flat, flat.x, found.y) == 1


def test_reference_does_not_leave_a_saddle_and_its_spectrum_says_so(method):
    problem = b.Problem(
        lambda x, y, batch: jnp.sum(y**2), lambda x, y, batch: 0.5 * (y[0] ** 2 - 0.6 * y[1] ** 2) * x
    )
    flat = flatten(problem, jnp.array(1.0), jnp.zeros(2), None, None)
    spectrum = inner_spectrum(flat, flat.x, solve_reference(flat, flat.y).y)
    assert spectrum.indefinite and spectrum.smallest == pytest.approx(-0.6)
    assert spectrum.largest == pytest.approx(1)


@pytest.mark.parametrize("steps", [60, 300])
def test_lanczos_finds_the_edges_of_a_known_spectrum(steps):
    values = np.concatenate([[-0.6], np.linspace(0.1, 1, 298), [4.0]])
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(300, 300)))[0]
    smallest, largest = spectrum_edges(lambda w: basis @ (values * (basis.T @ w)), 300, steps=steps)
    assert (smallest, largest) == pytest.approx((-0.6, 4.0), rel=1e-6)


@pytest.mark.parametrize("name", SETS)
def test_reference_on_a_set_agrees_with_differences(name, method):
    problem, x, _ = feasible_case(name)
    flat = flatten(problem, x, jnp.zeros(3), None, None)
    found = solve_reference(flat, flat.y)
    assert found.solved and found.control < 1e-5 and found.linear_residual < 1e-8


def test_a_right_response_on_a_ball_has_no_fault():
    problem, x, solver = feasible_case("ball")
    responses = {"implicit": b.implicit(problem, solver, b.cg(6)), "unrolled": b.unrolled(solver)}
    report = b.check(problem, x, jnp.zeros(3), b.full(None, None), responses=responses, curves=False)
    assert report.ok and max(row.relative_error for row in report.rows) < 1e-5
    assert "Active constraints of the inner set: 1." in " ".join(report.notes)


def test_responses_are_not_judged_where_differences_disagree_with_the_reference():
    # The inner solution max(x, 0) has no derivative at x = 0.
    problem = b.Problem(
        lambda x, y, d: (y - 1) ** 2,
        lambda x, y, d: 0.5 * (y - x) ** 2,
        inner_projection=lambda y: jnp.where(y > 0, y, 0.0),
    )
    responses = {"none": b.first_order(b.descend(problem, 0.5, 60))}
    report = b.check(problem, 0.0, jnp.array(0.0), b.full(None, None), responses=responses, curves=False)
    assert len(report.findings) == 1 and report.findings[0].startswith("The reference is uncertain")
    assert any("central differences differ by" in note for note in report.notes)


@pytest.mark.parametrize("bound", [10.0, 0.0])
def test_the_spectrum_on_an_inner_set_is_that_of_the_free_directions(method, bound):
    """At y = 0 the Hessian is diag(1, -1); at the bound 0 the second entry is blocked."""
    problem = b.Problem(
        lambda x, y, batch: jnp.sum((y - 2) ** 2),
        lambda x, y, batch: 0.5 * y[0] ** 2 - 0.5 * y[1] ** 2 + (1 if bound == 0 else 0) * y[1] + x * y[0],
        inner_projection=lambda y: jnp.clip(y, jnp.array([-10, -bound]), 10.0),
    )
    flat = flatten(problem, jnp.array(0.0), jnp.zeros(2), None, None)
    spectrum = free_spectrum(flat, flat.x, flat.y)
    assert spectrum.smallest == pytest.approx(-1 if bound else 1) and spectrum.largest == pytest.approx(1)


def test_a_saddle_inside_an_inner_set_is_a_finding():
    problem = b.Problem(
        lambda x, y, batch: jnp.sum((y - 2) ** 2),
        lambda x, y, batch: 0.25 * jnp.sum(y**4) - 0.5 * jnp.sum(y**2) + x * y[0] * y[1],
        inner_projection=lambda y: jnp.clip(y, -10, 10),
    )
    report = b.check(problem, jnp.array(0.5), jnp.zeros(2), b.full(None, None), curves=False)
    assert any("saddle of g" in finding for finding in report.findings)
