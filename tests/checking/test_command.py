"""`bilevel check`: its outputs and exit codes, and one clear line for every bad input."""

import json
from textwrap import dedent

import pytest

from bilevel.cli import main

FILE = """
import jax.numpy as jnp
import bilevel

problem = bilevel.Problem(
    outer=lambda x, y, batch: jnp.sum((y - 1.0) ** 2),
    inner=lambda x, y, batch: jnp.sum((y - 2.0) ** 2 + jnp.exp(x) * y**2),
)
task = bilevel.Task(problem=problem, data=bilevel.full(None, None), x=jnp.zeros(3), y=jnp.zeros(3))
broken = task._replace(problem=bilevel.Problem(problem.outer, lambda x, y, batch: jnp.sum(y - jnp.ones(7))))
number = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    return tmp_path / "mine.py"


def test_a_healthy_task_ends_with_code_0_and_advice(file, tmp_path, capsys):
    assert main(["check", "mine.py:task", "--advise", "--out", "out"]) == 0
    shown = capsys.readouterr()
    assert shown.err == "" and "No fault found." in shown.out and shown.out.startswith("Use ")
    assert "open out/report.html" in shown.out
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())
    assert numbers["ok"] and numbers["environment"]["command"].startswith("bilevel check mine.py:task")
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!doctype html>")


def test_a_fault_ends_with_code_1_and_is_in_the_json(file, capsys):
    arguments = ["check", "mine.py:task", "--inner-step", "0.01", "--inner-steps", "3", "--json"]
    assert main(arguments) == 1
    shown = capsys.readouterr()
    (finding,) = json.loads(shown.out)["findings"]
    assert finding.startswith("The inner problem is not solved")
    assert shown.err.startswith("bilevel: error: 1 fault found; see bilevel-check-task")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    "place, words",
    [
        ("mine.py", "the task must have the form FILE.py:NAME, got 'mine.py'"),
        ("other.py:task", "there is no file other.py; give FILE.py:NAME"),
        ("mine.py:taks", "mine.py has no 'taks'; did you mean 'task'?"),
        ("mine.py:number", "number in mine.py must be a bilevel.Task, got int"),
        ("raises.py:task", "raises.py fails at line 3: ZeroDivisionError: division by zero"),
        ("syntax.py:task", "syntax.py fails at line 1: SyntaxError"),
        ("leaves.py:task", "leaves.py fails at line 1: SystemExit: 3"),
        ("empty.py:task", "empty.py has no 'task'; it has no task"),
        ("mine.py:broken", "the inner loss fails at x, y and its first minibatch: TypeError"),
    ],
)
def test_bad_input_is_a_one_line_error(place, words, file, tmp_path, capsys):
    (tmp_path / "raises.py").write_text(
        dedent("""\
        import bilevel

        1 / 0
        """)
    )
    (tmp_path / "syntax.py").write_text("task = (\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "empty.py").write_text("")
    files = set(tmp_path.rglob("*"))
    assert main(["check", place, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "Traceback" not in error
    assert set(tmp_path.rglob("*")) - files <= {tmp_path / "__pycache__"}


def test_a_file_may_import_its_neighbours(file, tmp_path):
    (tmp_path / "neighbour.py").write_text("from mine import task\n")
    assert main(["check", "neighbour.py:task", "--quiet", "--out", "out"]) == 0


@pytest.mark.parametrize(
    "option, value", [("--inner-step", "0"), ("--tolerance", "-1"), ("--inner-steps", "0")]
)
def test_bad_numbers_are_one_line_errors(option, value, file, capsys):
    assert main(["check", "mine.py:task", option, value]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "must be" in error and value in error
