"""The repository as a whole: its texts run, and nothing in it belongs to one machine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Written so that this file does not match itself.
REGISTRIES = re.compile(r"pypi[.]org|pythonhosted[.]org|npmjs[.]org|deb[.]debian[.]org|file:/{3}")
MACHINE_PATHS = re.compile(r"(?<![\w.}>/-])/(?:root|home|Users|work|opt)/\w")


def tracked():
    """Files that git tracks, as they are now."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("pattern", [REGISTRIES, MACHINE_PATHS], ids=["registry", "machine"])
def test_nothing_belongs_to_one_machine(pattern):
    found = []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content:  # a text
            found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(content.decode())]
    assert not found


def test_no_large_files():
    assert [str(path) for path in tracked() if path.stat().st_size > 2_000_000] == []


def test_no_source_file_is_long():
    sources = [path for path in tracked() if path.suffix == ".py" and "src" in path.parts]
    assert [str(path) for path in sources if len(path.read_text().splitlines()) > 300] == []


def code_blocks(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


TEXTS = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if code_blocks(path)]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_code_of_the_texts_runs(path, tmp_path):
    """The blocks of a page, one after the other, as its reader would run them: no test settings."""
    script = tmp_path / "blocks.py"
    script.write_text("\n".join(code_blocks(path)))
    run = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
