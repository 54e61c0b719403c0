"""The command line: its outputs, and one clear line for every bad input."""

import json
import subprocess
import sys
from argparse import Namespace

import numpy as np
import pytest

from bilevel import tasks
from bilevel.cli import main
from bilevel.commands.common import resumable
from bilevel.comparison import Budget, compare


def fails(capsys, *arguments):
    """Run a command that fails, and return its one line of error."""
    try:
        code = main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and "Traceback" not in error
    return error


def test_list_names_every_algorithm_with_paper_and_cost(capsys):
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    soba = next(entry for entry in found["algorithms"] if entry["name"] == "soba")
    assert (
        soba["hessian_products"] == 1 and "NeurIPS 2022" in soba["paper"] and "single loop" in soba["family"]
    )
    assert all("arXiv:" in entry["paper"] for entry in found["algorithms"])
    assert {entry["name"] for entry in found["tasks"]} == {
        "quadratic",
        "few_shot",
        "hyperclean",
        "regularization",
        "worst_case",
    }
    assert {"digits", "mnist", "newsgroups"} <= {entry["name"] for entry in found["datasets"]}
    assert not any("Differs" in entry["paper"] for entry in found["algorithms"])
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    # Of the reference, the terminal shows the venue and the arXiv number of the method's own paper.
    for name, paper in (
        ("f2sa", "ICML 2023, arXiv:2301.10945"),
        ("ufo_blo", "ICML 2021, arXiv:2106.02487"),
    ):
        (line,) = [line for line in shown.splitlines() if line.split()[:1] == [name]]
        assert line.endswith(f"  {paper}")


def test_compare_writes_one_record_per_run(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["compare", "quadratic", "--algorithms", "soba,aid_bio", "--seeds", "2", "--steps", "40"]
    assert main([*command, "--set", "aid_bio.inner_steps=3", "--out", str(out)]) == 0
    assert "soba" in capsys.readouterr().out
    records = json.loads((out / "results.json").read_text())
    assert [(record["algorithm"], record["seed"]) for record in records] == [
        ("soba", 0), ("soba", 1), ("aid_bio", 0), ("aid_bio", 1)
    ]  # fmt: skip
    history = records[2]["history"]
    assert records[2]["hyperparameters"]["inner_steps"] == 3
    assert history["step"][-1] == 40 and history["gradients"][-1] == 40 * 4
    assert history["hessian_products"][-1] == 40 * 11 and history["cross_products"][-1] == 40
    assert history["stationarity"][-1] < history["stationarity"][0]
    assert records[0]["history"]["outer_loss"] != records[1]["history"]["outer_loss"]
    assert (out / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("budget, calls", [({"oracle_calls": 100}, 100), ({"seconds": 0.3}, None)])
def test_compare_keeps_to_its_budget(budget, calls):
    (record,) = compare(tasks.quadratic(), ["soba"], Budget(**budget), progress=False)
    history = record["history"]
    spent = sum(history[kind][-1] for kind in ("gradients", "hessian_products", "cross_products"))
    assert spent == calls if calls else history["seconds"][-1] >= 0.3


def test_compare_reports_a_diverged_run(tmp_path, capsys):
    command = ["compare", "quadratic", "--algorithms", "soba", "--steps", "500", "--inner-step", "1e3"]
    assert main([*command, "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert "1 diverged" in shown.out and "warning: soba, seed 0:" in shown.out
    assert shown.err.count("\n") == 1 and "every run diverged; the first was soba: " in shown.err
    (record,) = json.loads((tmp_path / "results.json").read_text())
    assert "is not finite at step" in record["diverged"]
    # JSON has no infinity.
    final = record["final"]
    assert final["outer_loss"] is None and final["suboptimality"] is None and final["step"] >= 0


def test_recorded_hyperparameters_are_the_same_text_in_every_run():
    settings = {"ufo_blo": {"probability": None}}
    records = compare(
        tasks.quadratic(), ["pzobo", "ufo_blo", "stable"], Budget(steps=2), settings=settings, progress=False
    )
    pzobo, ufo_blo, stable = records
    assert pzobo["hyperparameters"]["law"] == "gaussian"
    assert ufo_blo["hyperparameters"]["probability"] is None
    # Its cost depends on the y of the task, which has 20 entries.
    assert stable["history"]["hessian_products"] == [0, 40, 80]


@pytest.mark.parametrize("make", [lambda: tasks.hyperclean(rows=200), tasks.regularization])
def test_compare_runs_on_the_embedded_sets(make):
    (record,) = compare(make(), ["soba"], Budget(steps=50), progress=False)
    assert record["final"]["outer_loss"] < record["history"]["outer_loss"][0]
    assert 0 < record["final"]["test_accuracy"] <= 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["clena"], "invalid choice: 'clena'"),
        (["clean", "mnits"], "did you mean 'mnist'?"),
        (["clean", "--model", "tree"], "model must be one of linear, forest, boosting, mlp for these rows"),
        (["clean", "--cost", "0"], "cost must be positive, got 0"),
        (["clean", "--to-check", "0"], "to_check must be at least 1, got 0"),
        (["clean", "--to-check", "many"], "invalid int value: 'many'"),
        (["clean", "--resume"], "--resume"),
        (["clean", "--rows", "99999"], "change --rows or --trusted-rows"),
        (["clean", "missing.csv", "--label", "a", "--trusted", "b.csv"], "missing.csv"),
        (
            ["clean", "missing.npz", "--noise", "0.5"],
            "--noise can be used with public data sets only, got the file missing.npz",
        ),
        (["clean", "wine", "--label", "kind"], "unknown data set 'wine'"),
        (
            ["compare", "quadratic", "--algorithms", "soba,soba"],
            "each algorithm must be named only once, got soba,soba",
        ),
        (["clean", "digits", "--label", "a"], "got the public data set 'digits'"),
        (["compare", "quadratics"], "unknown task 'quadratics'; did you mean 'quadratic'?"),
        (["compare", "quadratic", "--algorithms", "soba,fslaa"], "did you mean 'fsla'?"),
        (["compare", "quadratic", "--steps", "5", "--seconds", "1"], "exactly one positive budget"),
        (["compare", "quadratic", "--steps", "-5"], "exactly one positive budget"),
        (["compare", "quadratic", "--seeds", "0"], "seeds must be at least 1"),
        (
            ["compare", "quadratic", "--set", "soba.speed=1"],
            "soba has no hyper-parameter 'speed'; it has inner",
        ),
        (["compare", "quadratic", "--set", "soba.inner_optimizer=fast"], "must be float, got 'fast'"),
        (["compare", "quadratic", "--set", "aid_bio.inner_steps=2.5"], "must be int, got 2.5"),
        (
            ["compare", "quadratic", "--set", "aid_bio.linear_solver=5"],
            "cannot be set in a comparison, got 5",
        ),
        (["compare", "quadratic", "--set", "aid_bio.inner_steps=None"], "must be int, got None"),
        (
            ["compare", "quadratic", "--algorithms", "pzobo", "--set", "pzobo.law=sphere"],
            "pzobo.law cannot be set in a comparison, got 'sphere'",
        ),
        (
            ["compare", "quadratic", "--set", "speed=1"],
            "--set must have the form ALGORITHM.NAME=VALUE, got 'speed=1'",
        ),
        (["compare", "quadratic", "--dataset", "mnist"], "quadratic makes its own data, got --dataset mnist"),
        (
            ["compare", "quadratic", "--oracle-calls", "3"],
            "oracle calls, the cost of one step, got 3; raise it",
        ),
    ],
)
def test_bad_input_is_a_one_line_error(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in fails(capsys, *arguments)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_an_output_folder_that_cannot_be_written_is_a_one_line_error(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "file" in fails(capsys, "clean", "--out", str(tmp_path / "file"))


def write_npz(path, **changes):
    random = np.random.default_rng(0)
    centres = 3 * random.normal(size=(3, 6))
    truth = random.integers(0, 3, 240)
    features = centres[truth] + random.normal(size=(240, 6))
    labels = truth.copy()
    wrong = random.random(200) < 0.3
    labels[:200][wrong] = (labels[:200][wrong] + 1) % 3
    arrays = {
        "features": features[:200], "labels": labels[:200],
        "trusted_features": features[200:], "trusted_labels": truth[200:],
    }  # fmt: skip
    np.savez(path, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return wrong


def test_clean_of_a_user_file_finds_the_wrong_labels(tmp_path, capsys):
    wrong = write_npz(tmp_path / "mine.npz")
    out = tmp_path / "out"
    assert main(["clean", str(tmp_path / "mine.npz"), "--out", str(out)]) == 0
    lines = (out / "labels.csv").read_text().splitlines()
    place = lines[0].split(",").index("flagged")
    flagged = np.array([line.split(",")[place] == "true" for line in lines[1:]])
    assert (flagged == wrong).mean() > 0.9
    summary = json.loads((out / "summary.json").read_text())
    assert summary["rows"] == 200 and summary["trusted"] == 40 and summary["flagged"] == flagged.sum()
    assert (out / "report.html").exists() and not (out / "checkpoint").exists()
    assert "labels look wrong" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"trusted_labels": None}, "trusted_labels"),
        ({"trusted_features": np.zeros((0, 6)), "trusted_labels": np.zeros(0, int)}, "trusted"),
        ({"trusted_labels": np.zeros(40, int)}, "class"),
        ({"features": np.full((200, 6), np.nan)}, "features"),
        ({"labels": np.zeros(7, int)}, "labels"),
        ({"trusted_labels": np.arange(40) % 5}, "class"),
    ],
)
def test_clean_of_a_bad_file_is_one_line_and_writes_nothing(changes, words, tmp_path, capsys):
    write_npz(tmp_path / "mine.npz", **changes)
    assert words in fails(capsys, "clean", str(tmp_path / "mine.npz"), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_clean_without_trusted_rows_and_again_with_the_checked_ones(tmp_path, capsys):
    random = np.random.default_rng(0)
    truth = np.array(["cat", "dog"])[random.integers(0, 2, 300)]
    wrong = random.random(300) < 0.15
    given = np.where(wrong, np.where(truth == "cat", "dog", "cat"), truth)
    values = (truth == "cat")[:, None] + 0.3 * random.normal(size=(300, 3))
    lines = ["name;a;b;c;kind"]
    lines += [f"pet-{n};" + ";".join(f"{v:.3f}".replace(".", ",") for v in row) + f";{label} "
              for n, (row, label) in enumerate(zip(values, given, strict=True))]  # fmt: skip
    data, out = tmp_path / "pets.csv", tmp_path / "out"
    data.write_text("\n".join(lines), encoding="cp1252")
    command = ["clean", str(data), "--label", "kind", "--model", "linear", "--out", str(out)]
    assert main([*command, "--to-check", "40"]) == 0
    printed = capsys.readouterr().out
    assert "note: the separator ';' was detected" in printed and "to_check.csv" in printed
    table = [line.split(",") for line in (out / "to_check.csv").read_text().splitlines()]
    assert len(table) == 41 and table[0][0] == "row" and table[0][-1] == "checked_label"
    checked = tmp_path / "checked.csv"
    rows = [f"{line[0]},{truth[int(line[0])]}" for line in table[1:]]
    checked.write_text("\n".join(["row,checked_label", *rows]))
    assert main([*command, "--trusted", str(checked), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["trusted"] == 40 and summary["rows"] == 300
    lines = [line.split(",") for line in (out / "labels.csv").read_text().splitlines()]
    assert [line[lines[0].index("name")] for line in lines[1:3]] == ["pet-0", "pet-1"]
    flagged = np.array([line[lines[0].index("flagged")] == "true" for line in lines[1:]])
    assert (flagged == wrong).mean() > 0.95


def test_an_interrupted_clean_is_one_line(tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bilevel.cleaning.clean_dataset", interrupt)
    assert main(["clean", "--rows", "300", "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_an_interrupted_run_says_how_to_resume_it(tmp_path):
    options = Namespace(resume=False, quiet=True, command_line="bilevel fewshot --out here")
    with pytest.raises(KeyboardInterrupt, match="resume with: bilevel fewshot --out here --resume$"):
        with resumable(options, tmp_path, "one") as checkpoint:
            checkpoint.folder.mkdir()
            checkpoint.resume = True  # as after the first save
            raise KeyboardInterrupt


def test_a_complete_run_cannot_be_resumed(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    options = Namespace(resume=True, quiet=True, command_line="bilevel fewshot")
    with (
        pytest.raises(ValueError, match="is complete and cannot be resumed"),
        resumable(options, tmp_path, "one"),
    ):
        pass


def test_a_closed_pipe_is_not_an_error(tmp_path):
    command = [sys.executable, "-m", "bilevel.cli", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
