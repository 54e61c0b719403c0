"""Every example runs in a process of its own, and imports public names alone."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PRIVATE = re.compile(
    r"^(?:from|import) bilevel\.(?!testing|datasets|fewshot|cleaning|comparison|models)", re.MULTILINE
)
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path):
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_imports_public_names_alone(path):
    assert not PRIVATE.search(path.read_text())
