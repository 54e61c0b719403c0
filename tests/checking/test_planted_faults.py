"""Each planted fault is found, with its own sentence, and none is found on a healthy problem."""

import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

import bilevel as b
from cases.faults import FAULTS, HEALTHY, NO_ROWS, RIDGE, Case, findings, ridge


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
