"""The command line: its outputs, and one clear line for every bad input."""

import io
import json
import shutil
import subprocess
import sys
from contextlib import redirect_stderr

import numpy as np
import pytest

from bilevel import tasks
from bilevel.cleaning import weighting
from bilevel.cli import main
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
        (["clean", "--algorithm", "sobba"], "unknown algorithm 'sobba'; did you mean 'soba'?"),
        (["clean", "--model", "tree"], "model must be one of linear, mlp, got 'tree'"),
        (["clean", "--weights", "rows"], "weights must be one of per-row, shared, got 'rows'"),
        (["clean", "--steps", "0"], "steps must be at least 1, got 0"),
        (["clean", "--steps", "many"], "invalid int value: 'many'"),
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
    assert main(["clean", str(tmp_path / "mine.npz"), "--out", str(out), "--steps", "300"]) == 0
    lines = (out / "labels.csv").read_text().splitlines()
    flagged = np.array([line.split(",")[3] for line in lines[1:]])
    flagged = np.isin(flagged, ["1", "True", "true", "yes"])
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


CLEAN = ["clean", "--rows", "300", "--steps", "150", "--quiet", "--out"]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Return folder, exit code and error line of a `clean` that Ctrl-C ends at step 80."""
    folder, run = tmp_path_factory.mktemp("runs") / "one", weighting.run
    folder.mkdir()
    (folder / "mine.txt").write_text("stays")

    def run_to_80(*arguments, callback, **options):
        def press(step, state, metrics):
            callback(step, state, metrics)
            if step == 80:
                raise KeyboardInterrupt

        return run(*arguments, callback=press, **options)

    with pytest.MonkeyPatch.context() as patch, redirect_stderr(io.StringIO()) as error:
        patch.setattr(weighting, "run", run_to_80)
        code = main([*CLEAN, str(folder)])
    return folder, code, error.getvalue()


def test_an_interrupted_clean_resumes_to_the_same_weights(interrupted, tmp_path):
    stopped, code, line = interrupted
    assert code == 130 and line.count("\n") == 1
    assert "resume with: bilevel clean" in line and line.endswith("--resume\n")
    one, two = tmp_path / "one", tmp_path / "two"
    shutil.copytree(stopped, one)
    assert main([*CLEAN, str(one), "--resume"]) == 0
    # Without a checkpoint, `--resume` starts a new run.
    assert main([*CLEAN, str(two), "--resume"]) == 0
    assert (one / "labels.csv").read_text() == (two / "labels.csv").read_text()
    assert (one / "mine.txt").read_text() == "stays"
    assert not list(one.glob(".bilevel*"))


def test_a_checkpoint_of_other_options_is_refused(interrupted, capsys):
    stopped, _, _ = interrupted
    line = fails(capsys, *CLEAN, str(stopped), "--resume", "--seed", "1")
    assert "belongs to another run: its identity" in line


def test_a_closed_pipe_is_not_an_error(tmp_path):
    command = [sys.executable, "-m", "bilevel.cli", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
