"""The repository as a whole: its documentation runs, and its files suit any machine and reader."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# The brackets keep this file from matching itself.
UNWANTED = {
    "address of a registry": r"pypi[.]org|pythonhosted[.]org|npmjs[.]org|deb[.]debian[.]org|file:/{3}",
    "path of one machine": r"(?<![\w.}>/-])/(?:root|home|Users|work|opt)/\w",
    "private notes": r"shared[/]papers|\b(?:the|papers?'s?)\s+[n]otes\b|\b[n]otes'\s|def test_[nprst]\d+_",
}


def tracked():
    """Return the files that git tracks, except deleted ones."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("kind", UNWANTED)
def test_no_file_contains(kind):
    pattern, found = re.compile(UNWANTED[kind]), []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content:  # not a binary file
            found += [
                f"{path.relative_to(ROOT)}: {match[0]!r}" for match in pattern.finditer(content.decode())
            ]
    assert not found, "\n".join(found)


def test_no_file_is_large():
    assert [str(path) for path in tracked() if path.stat().st_size > 2_000_000] == []


def test_no_test_file_imports_another():
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module or ''}.{name.name}" for name in node.names]
            if any(
                part.startswith("test_") or part == "conftest" for name in names for part in name.split(".")
            ):
                found.append(f"{path.relative_to(ROOT)}: {', '.join(names)}; move shared code to tests/cases")
    assert not found, "\n".join(found)


def test_citation_agrees_with_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = dict(re.findall(r"^([\w-]+): *(.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    assert citation["version"].strip("\"'") == project["version"]
    assert citation["license"] == project["license"]
    assert citation["title"].split(":")[0].strip("\"'") == project["name"]


def code_blocks(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


TEXTS = [
    path for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))) if code_blocks(path)
]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_code_of_the_documentation_runs(path, tmp_path):
    """Run all Python blocks of a page in one process, without the settings of the tests."""
    script = tmp_path / "blocks.py"
    script.write_text("\n".join(code_blocks(path)))
    run = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
