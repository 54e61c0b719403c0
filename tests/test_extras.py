"""Optional packages: without them the core works, and one line names the extra that installs them."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bilevel import datasets
from bilevel.cleaning.scoring import detection
from bilevel.extras import PACKAGES, explain, extra

CORE_ALONE = """
import contextlib, io, json, sys
from bilevel.extras import PACKAGES
# JAX itself needs SciPy.
for module in set(PACKAGES) - {"scipy"}:
    sys.modules[module] = None
import jax
import bilevel
from bilevel import cli, tasks
task = tasks.quadratic(rows=8)
x, y = task.start(jax.random.key(0))
result = bilevel.run(bilevel.soba(task.problem), x, y, task.data, steps=2, key=jax.random.key(0))
errors = {}
for arguments in (["clean"], ["compare", "quadratic"], ["fewshot"], ["list"]):
    with contextlib.redirect_stderr(io.StringIO()) as error:
        code = cli.main(arguments)
    errors[arguments[0]] = [code, error.getvalue()]
for module in ("report", "fewshot"):
    try:
        __import__(f"bilevel.{module}")
    except ModuleNotFoundError as error:
        errors[f"import {module}"] = str(error)
print(json.dumps({"steps": int(result.history["step"][-1]), **errors}))
"""


@pytest.fixture(scope="module")
def alone():
    """Return the output of a process that can import no optional package."""
    process = subprocess.run([sys.executable, "-c", CORE_ALONE], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_algorithms_and_tasks_run_without_optional_packages(alone):
    assert alone["steps"] == 2


@pytest.mark.parametrize(
    "command, extra", [("clean", "clean"), ("compare", "report"), ("fewshot", "fewshot"), ("list", "all")]
)
def test_a_command_without_its_packages_fails_with_a_line_that_names_the_extra(alone, command, extra):
    code, line = alone[command]
    assert code == 2 and line.count("\n") == 1
    assert line.startswith(f"bilevel: error: bilevel {command} needs ")
    assert line.endswith(f", which is not installed; install it with: pip install 'bilevel[{extra}]'\n")


@pytest.mark.parametrize("package", ["report", "fewshot"])
def test_an_import_without_its_packages_names_the_extra(alone, package):
    assert alone[f"import {package}"].endswith(f"pip install 'bilevel[{package}]'")


@pytest.mark.parametrize(
    "missing, job, extra",
    [
        ("sklearn.datasets", lambda: datasets.load("digits"), "clean"),
        ("sklearn.metrics", lambda: detection(*3 * [__import__("numpy").array([True, False])]), "clean"),
    ],
)
def test_a_function_without_its_package_names_the_extra(monkeypatch, missing, job, extra):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=rf"needs scikit-learn, .*'bilevel\[{extra}\]'"):
        job()


def test_the_named_extra_installs_the_package():
    assert "'bilevel[clean]'" in str(explain(ModuleNotFoundError(name="polars"), "it", "report"))
    assert "'bilevel[report]'" in str(explain(ModuleNotFoundError(name="jinja2"), "it", "report"))
    assert "'bilevel[all]'" in str(explain(ModuleNotFoundError(name="flax.linen"), "it", "all"))


def test_other_missing_modules_stay_as_they_are():
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_module'"), extra("clean"):
        import no_such_module  # noqa: F401  # pyright: ignore[reportMissingImports]


def test_the_table_of_packages_agrees_with_the_project_file():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for name, requirements in project["optional-dependencies"].items():
        listed = {requirement.partition(">")[0] for requirement in requirements}
        known = {package for package, extras in PACKAGES.values() if name in extras or name == "all"}
        assert listed == known, name
