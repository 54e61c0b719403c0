"""The command `bilevel reproduce` on made-up claims."""

import json

import jax.numpy as jnp
import pytest

from bilevel.cli import main
from bilevel_claims import registry
from bilevel_claims.run import run_claims
from bilevel_claims.types import (
    Claim,
    Finding,
    Picture,
    at_most,
)
from cases.reports import PIXEL


def claim_of(name, run):
    return Claim(name, f"Title of {name}", "Nobody, Nothing, ICML 2020, arXiv:0000.00000", "s", {}, {}, run)


def good(size):
    numbers = {"gap": at_most(0.1 if size == "small" else 0.9, 0.5)}
    return Finding(
        words=f"All well. At size {size}.", numbers=numbers, figures=[Picture("One", PIXEL, "caption")]
    )


def bad(size):
    raise RuntimeError("it went\nwrong")


def interrupted(size):
    raise KeyboardInterrupt


@pytest.fixture
def claims(monkeypatch, tmp_path):
    """Puts made-up entries into the registry, in a folder of their own."""
    monkeypatch.chdir(tmp_path)

    def put(**runs):
        monkeypatch.setattr(registry, "CLAIMS", {name: claim_of(name, run) for name, run in runs.items()})

    put(good=good, bad=bad, again=good)
    return put


def command(capsys, *arguments):
    """Exit code, output and errors."""
    try:
        code = main(["reproduce", *arguments, "--no-compile-cache"])
    except SystemExit as stop:
        code = stop.code
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_without_a_name_the_claims_are_listed(claims, capsys):
    code, out, _ = command(capsys)
    assert code == 0 and "Title of good" in out and "bilevel reproduce NAME" in out
    assert [entry["name"] for entry in json.loads(command(capsys, "--json")[1])] == ["good", "bad", "again"]


def test_one_claim_leaves_its_folder(claims, capsys, tmp_path):
    code, out, err = command(capsys, "good", "--size", "paper")
    folder = tmp_path / "bilevel-reproduce" / "good"
    assert (
        code == 0
        and err == ""
        and "good: does not hold" in out
        and "open bilevel-reproduce/good/report.html" in out
    )
    assert {path.name for path in folder.iterdir()} == {"report.html", "finding.json", "one.png"}
    record = json.loads((folder / "finding.json").read_text())
    assert record["size"] == "paper" and record["command"] == "bilevel reproduce good --size paper"
    assert record["environment"]["float"] == "float64" and record["seconds"] > 0
    assert not (tmp_path / "bilevel-reproduce" / "index.html").exists()


def test_json_and_quiet(claims, capsys):
    assert json.loads(command(capsys, "good", "--json")[1])["verdict"] == "holds"
    assert command(capsys, "good", "--quiet")[1:] == ("", "")


def test_a_claim_that_fails_is_one_line(claims, capsys, tmp_path):
    code, out, err = command(capsys, "bad", "--out", "out")
    assert (
        code == 1 and out == "" and err.count("\n") == 1 and "bad failed: RuntimeError: it went wrong" in err
    )
    assert "Traceback" in (tmp_path / "out" / "bad" / "failure.txt").read_text()


def test_all_continues_after_a_failure_and_the_index_shows_it(claims, capsys, tmp_path):
    code, out, err = command(capsys, "--all", "--out", "out")
    assert code == 1 and err.count("\n") == 1 and "1 of 3 claims failed; the first: bad failed" in err
    assert "good: holds" in out and "bad: failed" in out and "again: holds" in out and "out/index.html" in out
    page = (tmp_path / "out" / "index.html").read_text()
    assert "3 of 3 claims were run" in page and "RuntimeError: it went wrong" in page
    records = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert [record["verdict"] for record in records] == ["holds", "failed", "holds"]
    assert len(json.loads(command(capsys, "--all", "--json", "--out", "out")[1])) == 3


def test_a_success_removes_the_old_failure(claims, capsys, tmp_path):
    command(capsys, "bad", "--out", "out")
    claims(bad=good)
    assert command(capsys, "bad", "--out", "out")[0] == 0
    assert not (tmp_path / "out" / "bad" / "failure.txt").exists()


def test_an_interrupted_all_leaves_a_true_index(claims, capsys, tmp_path):
    claims(good=good, stopped=interrupted, never=bad)
    code, _, err = command(capsys, "--all", "--out", "out")
    assert code == 130 and err == "bilevel: interrupted; out/index.html lists what was done\n"
    records = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert [record["verdict"] for record in records] == ["holds", "not run", "not run"]
    assert "1 of 3 claims were run" in (tmp_path / "out" / "index.html").read_text()
    assert (tmp_path / "out" / "good" / "report.html").exists() and not (
        tmp_path / "out" / "stopped"
    ).exists()


def test_an_interrupted_claim_says_that_nothing_was_written(claims, capsys, tmp_path):
    claims(stopped=interrupted)
    assert command(capsys, "stopped")[::2] == (130, "bilevel: interrupted; nothing was written\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["god"], "unknown claim 'god'; did you mean 'good'?"),
        (["good", "--all"], "give either a claim or --all, got 'good' and --all"),
        (["good", "--size", "huge"], "unknown size 'huge'; known: small, paper"),
        (["good", "--out", "taken"], "taken"),
    ],
)
def test_bad_input_is_one_line(claims, capsys, tmp_path, arguments, words):
    (tmp_path / "taken").write_text("in the way")
    code, out, err = command(capsys, *arguments)
    assert code == 2 and out == "" and err.count("\n") == 1 and words in err
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_precision_is_the_claim_s_own(tmp_path):
    seen = []

    def look(size):
        seen.append(jnp.zeros(()).dtype.name)
        return good(size)

    one = claim_of("one", look)
    runs = run_claims([one, one._replace(float64=False)], tmp_path)
    assert seen == ["float64", "float32"] and runs[1].environment["float"] == "float32"
