"""Every entry: its texts, and in the slow tests its run."""

import json
import re

import jax
import numpy as np
import pytest

from bilevel.algorithms import ALGORITHMS, about
from bilevel.cli import main
from bilevel_claims import get, names, references
from bilevel_claims.page import figure_files
from bilevel_claims.run import run_claims
from bilevel_claims.types import VERDICTS

REFERENCES = {name: value for name, value in vars(references).items() if name.isupper()}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_is_that_of_the_paper_s_algorithms(name):
    assert re.search(r", arXiv:\d{4}\.\d{5}$", REFERENCES[name])
    assert any(REFERENCES[name] in about(factory).reference for factory in ALGORITHMS.values())


@pytest.mark.parametrize("name", names())
def test_every_entry_names_its_paper_and_what_is_known(name):
    claim = get(name)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) and claim.name == name
    assert claim.paper in REFERENCES.values()
    assert re.search(r"\(.+\)", claim.statement), "where the claim stands, or that it is not the paper's word"
    assert 0 < len(claim.title) <= 70 and claim.known and claim.ours


def test_bilevel_list_shows_all_claims(capsys):
    assert main(["list", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["claims"]
    assert [entry["name"] for entry in entries] == names() and all(
        set(e) == {"name", "paper", "title"} for e in entries
    )


@pytest.mark.claim
@pytest.mark.parametrize("name", names())
def test_every_entry_runs_and_reports_words_numbers_and_figures(name, tmp_path):
    # As users run it: the settings of the other tests would refuse what JAX allows.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        (found,) = run_claims([get(name)], tmp_path)
    assert not found.failure, (tmp_path / name / "failure.txt").read_text()
    finding = found.finding
    assert finding is not None
    assert finding.verdict in VERDICTS and finding.words and finding.figures and finding.tables
    assert any(number["holds"] is not None for number in finding.numbers.values())
    assert len(figure_files(found)) == len(finding.figures)
    if name == "aid-itd-warmstart":
        # Computed independently with NumPy, to these tolerances.
        assert finding.numbers["AID, both starts warm: last gradient"]["value"] < 1e-10
        least = finding.numbers["AID, any other choice: least last gradient"]["value"]
        floor = finding.numbers["ITD, warm y, any D: least last gradient"]["value"]
        np.testing.assert_allclose([least, floor], [0.188, 0.000619], rtol=0.05)
