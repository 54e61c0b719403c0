"""The public names, the reference, the docstrings and the annotations agree."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

import bilevel
import bilevel_claims

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
REFERENCE = ROOT / "docs" / "api.md"
LISTED = re.findall(r"^::: bilevel\.([\w.]+)$", REFERENCE.read_text(), re.MULTILINE)
# Parameters without annotation are left here.
UNANNOTATED = ("bilevel_claims/",)
PACKAGES = ["cleaning", "comparison", "datasets", "fewshot", "models", "sklearn", "tasks", "testing"]


def test_reference_lists_the_public_names():
    assert sorted(name for name in LISTED if "." not in name) == sorted(bilevel.__all__)
    assert len(LISTED) == len(set(LISTED))


@pytest.mark.parametrize("package", PACKAGES)
def test_reference_lists_the_members_of_each_package(package):
    listed = [name.partition(".")[2] for name in LISTED if name.startswith(package + ".")]
    assert sorted(listed) == sorted(import_module(f"bilevel.{package}").__all__)


def docstring(thing, name):
    """Return the docstring of a function or class, or the string below the assignment of another value."""
    if isinstance(thing, type) or hasattr(thing, "__code__"):
        return thing.__doc__ or ""
    for path in SOURCES:
        body = ast.parse(path.read_text()).body
        for statement, below in zip(body, body[1:], strict=False):
            targets = getattr(statement, "targets", [getattr(statement, "target", None)])
            named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
            if named and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                return str(below.value.value)
    return ""


@pytest.mark.parametrize("name", LISTED)
def test_docstring(name):
    module, _, last = f"bilevel.{name}".rpartition(".")
    first_line = docstring(getattr(import_module(module), last), last).partition("\n")[0]
    assert 10 < len(first_line) <= 80 and first_line.endswith(".")
    assert not first_line.startswith(("What ", "All that ", "How ", "Whether "))


def parameters_without_annotation(tree):
    """Return `function(parameter)` for each public function and method of a module."""
    found = []

    def visit(body, path, inside_class):
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                visit(node.body, [*path, node.name], True)
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                a = node.args
                static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
                named = [*a.posonlyargs, *a.args][inside_class and not static :] + a.kwonlyargs
                for argument in [*named, *(extra for extra in (a.vararg, a.kwarg) if extra)]:
                    if argument.annotation is None:
                        found.append(".".join([*path, node.name]) + f"({argument.arg})")

    visit(tree.body, [], False)
    return found


def test_every_public_parameter_is_annotated():
    found = {}
    for path in SOURCES:
        name = path.relative_to(ROOT / "src").as_posix()
        private = any(part.startswith("_") and part != "__init__.py" for part in name.split("/"))
        missing = [] if private else parameters_without_annotation(ast.parse(path.read_text()))
        if missing and not name.startswith(UNANNOTATED):
            found[name] = missing
    assert found == {}


def test_a_missing_annotation_is_found():
    code = "class A:\n    def f(self, x, *, y: int, **z): pass\ndef g(*x): pass\ndef _h(x): pass\n"
    assert parameters_without_annotation(ast.parse(code)) == ["A.f(x)", "A.f(z)", "g(x)"]


def test_table_of_claims_has_a_row_for_each():
    table = (REFERENCE.parent / "reproduce.md").read_text()
    assert re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE) == bilevel_claims.names()


def test_table_of_algorithms_has_a_row_for_each():
    table = (REFERENCE.parent / "algorithms.md").read_text()
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(bilevel.algorithms.ALGORITHMS)


def test_table_of_algorithms_cites_the_paper_of_each():
    table = (REFERENCE.parent / "algorithms.md").read_text()
    for name, paper in re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", table, re.MULTILINE):
        authors, _, venue = paper.rpartition(", ")
        reference = bilevel.algorithms.about(bilevel.algorithms.ALGORITHMS[name]).reference
        assert authors.removesuffix(" et al.") in reference and venue in reference
