"""Imports run downwards only, without cycles, and `import bilevel` loads no program."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src"
# From bottom to top: a module or package may import what stands before it, and its own files.
LAYERS = [
    "extras",
    "whole_models",
    "types",
    "keys",
    "widening",
    "sparse",
    "environment",
    "text",
    "calculus",
    "feasible",
    "arrays",
    "sampling",
    "safe_derivatives",
    "optimizers",
    "inner",
    "linear",
    "quasi_newton",
    "response",
    "directions",
    "estimators",
    "hypergradient",
    "combinators",
    "newton",
    "many_tasks",
    "checkpoint",
    "divergence",
    "certificates",
    "driver",
    "checking",
    "algorithms",
    "bilevel",  # bilevel/__init__.py
    "testing",
    "datasets",
    "models",
    "cleaning",
    "sklearn",
    "fewshot",
    "tasks",
    "comparison",
    "report",
    "bilevel_claims",
    "catalog",
    "commands",
    "cli",
]


def modules(root):
    """Return the file of every module below `root`, by dotted name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name, path, known):
    """Return `(line, module)` for each import of a known module, those inside functions included."""
    found = []
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.append((node.lineno, whole if whole in known else base))
    return [(line, module) for line, module in found if module in known]


def layer(module):
    """Return the place of a module in `LAYERS`."""
    first, _, rest = module.partition(".")
    name = rest.partition(".")[0] or first if first == "bilevel" else first
    assert name in LAYERS, f"{module} has no layer; enter {name} in LAYERS"
    return LAYERS.index(name)


def upward_imports(root):
    known = modules(root)
    return [
        f"{path.relative_to(root)}:{line}: {name} imports {module}, which is above it"
        for name, path in known.items()
        for line, module in imports(name, path, known)
        if layer(module) > layer(name)
    ]


def cycles(root):
    """Return the chains of imports that end where they begin."""
    known = modules(root)
    edges = {name: {module for _, module in imports(name, path, known)} for name, path in known.items()}
    found, done = [], set()

    def visit(name, chain):
        if name in chain:
            found.append(" -> ".join([*chain[chain.index(name) :], name]))
        elif name not in done:
            for module in sorted(edges[name]):
                visit(module, [*chain, name])
            done.add(name)

    for name in known:
        visit(name, [])
    return found


def test_no_import_runs_upwards():
    assert upward_imports(SOURCES) == []


def test_no_imports_in_a_circle():
    assert cycles(SOURCES) == []


@pytest.mark.parametrize(
    "line",
    [
        "from bilevel.driver import run",
        "from bilevel import driver",
        "import bilevel.driver",
        "import bilevel.driver as names",
        "from . import driver",
        "from .driver import run",
    ],
)
def test_a_planted_import_is_found(line, tmp_path):
    (tmp_path / "bilevel").mkdir()
    (tmp_path / "bilevel" / "__init__.py").touch()
    (tmp_path / "bilevel" / "types.py").write_text(f"def late():\n    {line}\n")
    (tmp_path / "bilevel" / "driver.py").write_text("import bilevel.types\n")
    assert upward_imports(tmp_path) == [
        "bilevel/types.py:2: bilevel.types imports bilevel.driver, which is above it"
    ]
    assert cycles(tmp_path) == ["bilevel.driver -> bilevel.types -> bilevel.driver"]


def test_a_module_without_a_layer_is_found(tmp_path):
    (tmp_path / "bilevel").mkdir()
    (tmp_path / "bilevel" / "__init__.py").write_text("import bilevel.news\n")
    (tmp_path / "bilevel" / "news.py").touch()
    with pytest.raises(AssertionError, match="bilevel.news has no layer; enter news in LAYERS"):
        upward_imports(tmp_path)


def test_importing_the_package_loads_no_program():
    heavy = "bilevel.tasks", "matplotlib", "sklearn", "flax", "jinja2", "polars", "orbax"
    code = f"import sys, bilevel; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
