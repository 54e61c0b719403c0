"""The public names, the reference and the docstrings agree."""

import re
from importlib import import_module
from pathlib import Path

import pytest

import bilevel
import bilevel_claims

REFERENCE = Path(__file__).parents[1] / "docs" / "api.md"
LISTED = re.findall(r"^::: bilevel\.([\w.]+)$", REFERENCE.read_text(), re.MULTILINE)


def test_reference_lists_the_public_names():
    assert sorted(name for name in LISTED if "." not in name) == sorted(bilevel.__all__)
    assert len(LISTED) == len(set(LISTED))


@pytest.mark.parametrize("name", LISTED)
def test_docstring(name):
    module, _, last = f"bilevel.{name}".rpartition(".")
    thing = getattr(import_module(module), last)
    first_line = (thing.__doc__ or "").partition("\n")[0]
    assert 10 < len(first_line) <= 80 and first_line.endswith((".", ":", "?"))


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
