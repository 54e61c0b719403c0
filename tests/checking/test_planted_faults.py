"""Each planted fault is found, with its own sentence, and none is found on a healthy problem."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bilevel as b
from bilevel.checking.projections import of_projections
from cases.faults import FAULTS, HEALTHY, NO_ROWS, RIDGE, Case, cut, findings, quadratic, ridge, solved
from cases.feasible import SETS


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name):
    make, sentence = FAULTS[name]
    found = findings(make())
    assert any(sentence.rstrip(".") in text for text in found), found
    # One fault, one finding.
    assert len(found) == 1, found


def test_the_number_of_inner_steps_that_are_enough_is_measured():
    def best(steps):
        case = ridge(mine=b.implicit(RIDGE, b.descend(RIDGE, 0.01, steps), b.cg(4)))
        return b.check(case.problem, case.x, case.y, case.batch, **case.arguments, curves=False)

    few = ridge()._replace(arguments={"inner_optimizer": 0.01, "inner_steps": 5})
    (found,) = findings(few)
    enough = int(re.search(r"about (\d+) reach an error of 0.01", found)[1])  # pyright: ignore[reportOptionalSubscript]
    assert best(enough).ok and not best(int(0.8 * enough)).ok


def test_a_g_without_a_minimum_is_a_finding():
    problem = b.Problem(lambda x, y, d: jnp.sum(y**2), lambda x, y, d: jnp.sum(jnp.exp(x) * y))
    (found,) = findings(Case(problem, jnp.array(0.0), jnp.zeros(2), arguments=NO_ROWS))
    assert found.startswith("No minimum of g was found from this y")


@pytest.mark.parametrize("name", HEALTHY)
def test_no_fault_is_found_on_a_healthy_problem(name):
    assert findings(HEALTHY[name]()) == ()


IN_FLOAT32 = """
from cases.faults import FAULTS, HEALTHY, findings

for name, (make, sentence) in FAULTS.items():
    found = findings(make())
    assert len(found) == 1 and sentence.rstrip(".") in found[0], (name, found)
for name, make in HEALTHY.items():
    assert findings(make()) == (), name
"""


@pytest.mark.slow
def test_the_same_faults_are_found_in_float32():
    """The other tests compute in float64, as the reference does."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IN_FLOAT32],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


PROJECTIONS = {
    "shape": (lambda x: x[:2], "changes the structure, the shapes or the dtypes of its variable"),
    "round": (jnp.round, "is not the projection onto a convex set: its derivative is zero"),
    "stop_gradient": (lambda x: jax.lax.stop_gradient(jnp.clip(x, -1, 1)), "its derivative is zero"),
    "double": (lambda x: 2 * x, "is not idempotent"),
    "nothing": (lambda x: None, "returns nothing"),
    "integers": (lambda x: x.astype(int), "changes the structure, the shapes or the dtypes"),
}


@pytest.mark.parametrize("level", ["outer_projection", "inner_projection"])
@pytest.mark.parametrize("name", PROJECTIONS)
def test_a_faulty_projection_is_one_finding(level, name):
    project, words = PROJECTIONS[name]
    case = ridge()
    (found,) = findings(case._replace(problem=replace(case.problem, **{level: project})))
    assert found.startswith(f"The {level} ") and words in found


@pytest.mark.parametrize("name", SETS)
def test_a_projection_onto_a_convex_set_has_no_fault(name):
    on_x = replace(RIDGE, outer_projection=SETS[name][0])
    assert of_projections(on_x, jnp.zeros(3), jnp.zeros(3)) == []


def test_the_unit_sphere_is_no_fault():
    sphere = replace(RIDGE, inner_projection=lambda y: y / jnp.linalg.norm(y))
    assert of_projections(sphere, jnp.zeros(3), jnp.zeros(3)) == []


def test_an_unbounded_g_whose_solver_diverges_is_one_finding():
    case = quadratic(np.diag([1.0, 0.5, -0.6]), inner_optimizer=1.0, inner_steps=2000)
    (found,) = findings(case)
    assert found.startswith("No minimum of g was found from this y")


def test_an_indefinite_hessian_at_the_start_is_no_fault_if_the_solution_is_a_minimum():
    problem = b.Problem(
        lambda x, y, d: jnp.sum((y - 2) ** 2),
        lambda x, y, d: jnp.sum((y**2 - 1) ** 2) / 4 + 0.1 * jnp.sum(jnp.exp(x) * y),
    )
    case = Case(problem, jnp.array(0.0), jnp.full(2, 0.05))
    assert findings(case._replace(arguments={"inner_optimizer": 0.3})) == ()
    (found,) = findings(case._replace(arguments={"inner_optimizer": 0.01, "inner_steps": 5}))
    assert found.startswith("The inner problem is not solved")


def test_a_stop_gradient_voids_the_table():
    case = cut("x and g")
    response = solved(case.problem)
    report = b.check(case.problem, case.x, case.y, case.batch, responses={"mine": response}, curves=False)
    assert "The reference has the same fault: the errors of the table mean nothing." in report.notes
    assert not any("mean nothing" in note for note in b.check(*ridge()[:4], responses={}, curves=False).notes)


def test_responses_must_be_a_mapping():
    case = ridge()
    with pytest.raises(ValueError, match="responses must be a mapping of names to responses.*got list"):
        b.check(*case[:4], responses=[solved(RIDGE)])  # pyright: ignore[reportArgumentType]


def test_a_response_without_a_linear_solve_has_no_linear_residual():
    case = ridge(implicit=solved(RIDGE), unrolled=b.unrolled(b.descend(RIDGE, 0.2, 120)))
    report = b.check(case.problem, case.x, case.y, case.batch, **case.arguments, curves=False)
    implicit, unrolled = report.rows
    assert implicit.linear_residual is not None and unrolled.linear_residual is None
