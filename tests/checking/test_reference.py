"""The reference hypergradient and the edges of the spectrum, against closed forms."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as b
from bilevel.checking import reference as module
from bilevel.checking.flat import flatten
from bilevel.checking.lanczos import spectrum_edges
from bilevel.checking.reference import active_constraints, inner_spectrum, solve_reference
from cases.problems import CASES, logistic_case


class Projected(NamedTuple):
    """A problem with an inner set."""

    outer: Any
    inner: Any
    inner_projection: Any
    outer_projection: Any = None


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
    problem = Projected(
        lambda x, y, batch: jnp.sum(y),
        lambda x, y, batch: 0.5 * y @ C @ y - (q * x) @ y + 0.05 * jnp.sum(y**2),
        lambda y: jnp.maximum(y, 0),
    )
    flat = flatten(problem, jnp.ones(3), jnp.zeros(3), None, None)  # pyright: ignore[reportArgumentType]
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
