"""Few-shot training, the learner's file, and the command with its errors."""

import json
import math
import sys
from types import SimpleNamespace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pooch
import pytest

from bilevel import DivergedError, datasets
from bilevel.checkpoint import PointLog
from bilevel.cli import main
from bilevel.datasets import omniglot
from bilevel.datasets.known import _CLASS_LOADERS
from bilevel.fewshot import METHODS, as_episode, learn, learning, load_learner, recipe
from bilevel.fewshot.episodes import Shape
from bilevel.fewshot.judge import Judge
from bilevel.fewshot.plan import plan_run
from bilevel.fewshot.published import PUBLISHED
from bilevel.models import from_module
from bilevel.report import figures
from cases.fewshot import noisy_prototypes, plain_network

CHANGES = {"inner_step": 0.01, "outer_step": 0.001, "tasks": 4}
BUDGET = "give either steps or seconds, as a positive finite number, got"
IMAGES = "shots + queries must be at most 20, the number of images of a training class"
COMMAND = ["fewshot", "--algorithm", "itd_bio", "--network", "lenet", "--steps", "60", "--quiet"]
COMMAND += [f"--set={name}={value}" for name, value in CHANGES.items()]


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    """Use float32 and promotion as users do, and fewer episodes, which compile once."""
    for name in ("VALIDATION_EPISODES", "TEST_EPISODES", "WAYS_EPISODES"):
        monkeypatch.setattr(learning, name, 60)
    monkeypatch.setattr(learning, "LOG_POINTS", 4)
    monkeypatch.setattr(learning, "TEST_WAYS", (2, 5, 10))
    monkeypatch.setattr(figures, "RESOLUTION", 50)
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def data():
    return noisy_prototypes("omniglot", sizes=(40, 8, 8), noise=90.0)


@pytest.fixture
def stand_in(data, monkeypatch):
    """Make the command read the small classes instead of Omniglot."""
    monkeypatch.setitem(_CLASS_LOADERS, "omniglot", lambda **options: data)
    return data


@pytest.fixture(scope="module")
def learnt(data):
    """Return the result of a run of 60 steps, made by the first test that needs it."""
    made = []

    def once():
        if not made:
            made.append(learn(data, "itd_bio", steps=60, network="lenet", changes=CHANGES, progress=False))
        return made[0]

    return once


def arrays_of(file):
    with np.load(file) as saved:
        return {name: saved[name] for name in saved.files}


# learn


@pytest.mark.slow
def test_learning_raises_the_accuracy_far_above_chance(learnt):
    result = learnt()
    summary, history = result.summary, result.history
    start, best = history["validation_accuracy"][0], summary["validation_accuracy"]
    assert best == max(history["validation_accuracy"])
    # Chance is 0.2; untrained features are better than that.
    assert best > start + 0.1 and best > 0.5
    # Test and validation have different classes; add half of both 95 % intervals.
    width = summary["test_interval"] + summary["validation_interval"]
    assert abs(summary["test_accuracy"] - best) < 0.1 + width
    assert summary["best_step"] == history["step"][np.argmax(history["validation_accuracy"])]
    assert history["outer_loss"][-1] < history["outer_loss"][0]


def test_summary_and_history_are_complete_and_ready_for_json(learnt):
    result = learnt()
    summary, history = json.loads(json.dumps([result.summary, result.history], allow_nan=False))
    assert set(summary) == {
        "dataset", "algorithm", "ways", "shots", "queries", "network", "parameters", "batch_tasks",
        "settings", "steps", "seconds", "compile_seconds", "seconds_per_step", "peak_mib", "best_step",
        "validation_accuracy", "validation_interval", "test_accuracy", "test_interval", "test_episodes",
        "chance", "accuracy_by_ways", "seed", "stopped", "diverged", "environment",
    }  # fmt: skip
    expected = {
        "dataset": "omniglot", "algorithm": "itd_bio", "ways": 5, "shots": 1, "queries": 15,
        "network": "lenet", "batch_tasks": 4, "steps": 60, "test_episodes": 60, "chance": 0.2, "seed": 0,
        "stopped": None, "diverged": False,
    }  # fmt: skip
    assert {name: summary[name] for name in expected} == expected
    assert summary["settings"] == {
        "inner_step": 0.01, "inner_steps": 10, "test_steps": 20, "momentum": 0.0, "penalty": 0.0,
        "recompute": 0, "transductive": True, "vectorize": True,
        "outer_step": 0.001, "train_ways": 5, "train_queries": 5,
    }  # fmt: skip
    # Two 5x5 convolutions with 6 and 16 filters, then dense layers from 2x2x16 to 120 and to 84, with biases.
    assert summary["parameters"] == 25 * 6 + 6 + 25 * 6 * 16 + 16 + 64 * 120 + 120 + 120 * 84 + 84
    assert [row["ways"] for row in summary["accuracy_by_ways"]] == [2, 5]
    assert summary["accuracy_by_ways"][0]["accuracy"] > summary["accuracy_by_ways"][1]["accuracy"]
    assert set(history) == {"step", "seconds", "outer_loss", "validation_accuracy", "validation_interval"}
    assert history["step"] == [0, 15, 30, 45, 60]
    assert {len(values) for values in history.values()} == {5}
    assert summary["seconds_per_step"] == pytest.approx(history["seconds"][-1] / 60)
    # A mean over 60 episodes, whose accuracies deviate by at most 1/2 each.
    assert all(0 < width < 1.96 * 0.5 / math.sqrt(60) for width in history["validation_interval"])


def test_examples_hold_the_answers_of_the_learner(learnt, data):
    result = learnt()
    for example in result.examples:
        assert example.support.shape == (5, 1, 16, 16, 1) and example.support.dtype == np.uint8
        assert example.query.shape == (75, 16, 16, 1)
        np.testing.assert_array_equal(example.labels, np.repeat(np.arange(5), 15))
        episode = as_episode(example.support, example.query.reshape(5, 15, 16, 16, 1), data.mean, data.std)
        chances = jax.nn.softmax(result.learner.answer(result.x, episode, 5))
        # Two programs round float32 differently, so either of two equally likely classes may win.
        np.testing.assert_allclose(example.confidence, chances.max(1), atol=1e-4)
        assert np.mean(example.predictions == chances.argmax(1)) > 0.98
        assert np.mean(example.predictions == example.labels) > 0.4


@pytest.fixture
def interrupting(monkeypatch, learnt):
    """Press Ctrl-C at step 30, once, and not in the run to compare with."""
    learnt()
    add, waiting = PointLog.add, [True]

    def interrupt(self, step, x=None, **values):
        if step == 30 and waiting:
            waiting.clear()
            raise KeyboardInterrupt
        add(self, step, x, **values)

    monkeypatch.setattr(PointLog, "add", interrupt)


@pytest.mark.slow
def test_a_resumed_command_ends_with_the_same_learner(
    learnt, stand_in, interrupting, tmp_path, monkeypatch, capsys
):
    whole = learnt()
    monkeypatch.chdir(tmp_path)
    command = [*COMMAND, "--out", "out"]
    assert main(command) == 130
    error = capsys.readouterr().err
    shown = " ".join(["bilevel", *command])
    assert error.startswith("bilevel: interrupted") and error.endswith(f": {shown} --resume\n")
    assert not list((tmp_path / "out").glob("[!.]*"))

    best = tmp_path / "out" / ".bilevel-checkpoint.points.npz"
    whole_file = best.read_bytes()
    for content in (b"", whole_file[:100], whole_file[:-100]):
        best.write_bytes(content)
        assert "points.npz is damaged" in fails(capsys, *command, "--resume")
    best.write_bytes(whole_file)

    # A run with another network or seed does not resume.
    for change, saved in ((["--network", "conv4-32"], "network=lenet"), (["--seed", "1"], "seed=0")):
        error = fails(capsys, *command, *change, "--resume")
        assert "another run" in error and saved in error

    assert main([*command, "--resume"]) == 0
    figures = ("curves", "ways", "episode_1", "episode_2", "episode_3")
    names = {"summary.json", "report.html", "learner.npz"}
    names |= {f"{name}.{kind}" for name in figures for kind in ("png", "pdf")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["command"] == f"{shown} --resume"
    assert fails(capsys, *command, "--resume").startswith("the run in out is complete")
    for name in ("test_accuracy", "validation_accuracy", "best_step", "accuracy_by_ways", "settings"):
        assert summary[name] == whole.summary[name]
    history = summary["history"]
    for name in ("step", "outer_loss", "validation_accuracy", "validation_interval"):
        assert history[name] == whole.history[name]
    (tmp_path / "whole.npz").write_bytes(whole.file)
    found, wanted = (arrays_of(tmp_path / name) for name in ("out/learner.npz", "whole.npz"))
    assert list(found) == list(wanted)
    for name in found:
        np.testing.assert_array_equal(found[name], wanted[name])


class Cubic(nn.Module):
    """Cubes of a linear layer of width 4, which overflow for large weights."""

    @nn.compact
    def __call__(self, images, first=None):
        return nn.Dense(4)(images.reshape(len(images), -1)) ** 3


def cubic_network():
    return from_module("cubic", Cubic(), (16, 16, 1))


@pytest.mark.slow
def test_a_run_that_diverges_returns_the_best_step_before(data):
    # Adam's first step is as long as its step size: the next gradient overflows.
    changes = {"outer_step": 1e30, "train_ways": 5, "tasks": 4}
    result = learn(data, "protonet", steps=4, network=cubic_network(), changes=changes, progress=False)
    summary = result.summary
    assert summary["diverged"] and "protonet diverged at step 1" in summary["stopped"]
    assert summary["best_step"] == 0 and summary["steps"] == 0 and result.history["step"] == [0]
    # The untrained features are a little better than chance. NaNs would give chance, 0.2.
    assert summary["test_accuracy"] > 0.21 and summary["seconds_per_step"] is None
    x, _ = result.learner.start(jax.random.split(jax.random.key(0))[0])
    for got, want in zip(jax.tree.leaves(result.x), jax.tree.leaves(x), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.slow
def test_a_start_without_a_finite_gradient_is_an_error(data):
    with pytest.raises(DivergedError, match="fomaml diverged at step 0"):
        changes = {"inner_step": 1e30, "inner_steps": 1}
        learn(data, "fomaml", steps=4, network=cubic_network(), changes=changes, progress=False)


def test_methods_have_the_hyperparameters_of_their_published_runs():
    for (_, method), run in PUBLISHED.items():
        found = recipe(method, run.changes)
        values = found.hyperparameters | found.training._asdict()
        assert {name: values[name] for name in run.changes} == run.changes


@pytest.mark.parametrize("method", METHODS)
def test_every_default_obeys_the_rules_of_its_hyperparameter(method):
    defaults = recipe(method)
    values = defaults.hyperparameters | defaults.training._asdict()
    del values["optimizer"]
    assert recipe(method, values) == defaults._replace(changed=frozenset(values))


def test_a_default_is_reduced_to_fit_the_data_and_a_value_of_the_user_is_not(data):
    def plan(changes, shots):
        return plan_run(data, recipe("reptile", changes), plain_network(16), 5, shots)

    # The default of reptile is 10 query images per class, and a class has 20 images.
    for shots, queries in ((1, 10), (10, 10), (11, 9), (19, 1)):
        assert plan({}, shots).train_shape == (5, shots, queries)
    assert plan({"train_queries": 9}, 11).train_shape.queries == 9
    message = "shots \\+ queries must be at most 20, the number of images of a training class, got "
    with pytest.raises(ValueError, match=f"^{message}11 \\+ 10$"):
        plan({"train_queries": 10}, 11)
    with pytest.raises(ValueError, match=f"^{message}20 \\+ 1$"):
        plan({}, 20)
    # The default of protonet is 40 ways in training.
    few = data._replace(train=data.train[:12])
    assert plan_run(few, recipe("protonet"), plain_network(16), 5, 1).train_shape.ways == 12


def test_peak_memory_is_none_where_the_platform_does_not_report_it(monkeypatch):
    peak = learning._peak_mib()
    assert peak is not None and peak > 10
    monkeypatch.setitem(sys.modules, "resource", None)
    assert learning._peak_mib() is None


# The file of a learner


def test_the_file_of_a_learner_gives_the_same_answers(learnt, data, tmp_path):
    result = learnt()
    (tmp_path / "learner.npz").write_bytes(result.file)
    learner, x, about = load_learner(tmp_path / "learner.npz")
    assert about["changes"] == CHANGES and about["network"] == "lenet" and learner.fresh_head
    # Images of numpy and of JAX; the ways of the training and others.
    for ways, kind in ((5, np.asarray), (3, jnp.asarray)):
        images = kind(data.test[:ways])
        episode = as_episode(images[:, :2], images[:, 2:6], about["mean"], about["std"])
        got, want = (
            one.answer(values, episode, ways) for one, values in ((learner, x), (result.learner, result.x))
        )
        assert got.shape == (4 * ways, ways) and got.dtype == np.float32
        np.testing.assert_array_equal(got, want)


def changed(path, **changes):
    """Change arrays of a learner's file; None removes one."""
    arrays = {name: array for name, array in (arrays_of(path) | changes).items() if array is not None}
    np.savez(path, **arrays)


def test_a_file_that_is_not_a_learner_gives_a_one_line_error(learnt, tmp_path):
    path = tmp_path / "learner.npz"
    with pytest.raises(datasets.DataNotFoundError) as caught:
        load_learner(path)
    assert (
        str(caught.value) == f"no such file: {str(path)!r}; give the learner.npz that bilevel fewshot wrote"
    )
    whole = learnt().file
    message = "must be a learner.npz that bilevel fewshot wrote, got other content; give such a file$"
    for content in (b"", b"some text", whole[:100], whole[:-100]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"^learner.npz {message}"):
            load_learner(path)
    np.savez(path, about=np.array("{}"))
    with pytest.raises(ValueError, match=f"^learner.npz {message}"):
        load_learner(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(ValueError, match=f"^array.npy {message}"):
        load_learner(tmp_path / "array.npy")


@pytest.mark.parametrize(
    "about, arrays, message",
    [
        ({"network": "conv4-32"}, {}, r"of itd_bio on conv4-32, where .* it belongs to another network"),
        (
            {"image_shape": [28, 28, 1]},
            {},
            r"\['Dense_0'\]\['kernel'\] has shape \(400, 120\), got \(64, 120\)",
        ),
        ({"algorithm": "anil"}, {}, r"of anil on lenet, where \['head'\]\['(bias|kernel)'\] has .*got None"),
        ({}, {"more": np.zeros(2)}, r"where more has shape None, got \(2,\)"),
        ({"network": "small"}, {}, "network must be one of conv4-32, .*, got 'small'"),
        ({"algorithm": "mamal"}, {}, "algorithm must be one of maml, .*, got 'mamal'"),
    ],
)
def test_parameters_of_another_network_give_a_one_line_error(learnt, tmp_path, about, arrays, message):
    path = tmp_path / "learner.npz"
    path.write_bytes(learnt().file)
    about = json.loads(str(arrays_of(path)["about"])) | about
    changed(path, about=np.array(json.dumps(about)), **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        load_learner(path)
    assert "\n" not in str(caught.value)


# Bad input of the command


def fails(capsys, *arguments):
    """Run a command that fails, and return its one line without the beginning."""
    code = main(list(arguments))
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and error.startswith("bilevel: error: ")
    return error.removeprefix("bilevel: error: ").removesuffix("\n")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--ways", "1"], "ways must be at least 2, got 1"),
        (["--ways", "41"], "ways must be at most 40, the number of training classes, got 41"),
        (["--ways", "9"], "ways must be at most 8, the number of validation classes, got 9"),
        (["--shots", "0"], "shots must be at least 1, got 0"),
        (["--shots", "20"], f"{IMAGES}, got 20 + 1"),
        (["--shots", "16", "--set", "train_queries=5"], f"{IMAGES}, got 16 + 5"),
        (["--shots", "20", "--set", "train_queries=0"], "queries must be at least 1, got 0"),
        (["--dataset", "omniglott"], "unknown data set of images by class 'omniglott'; did you mean "),
        (["--dataset", "mnist"], "unknown data set of images by class 'mnist'; "),
        (["--algorithm", "reptil"], "unknown algorithm 'reptil'; did you mean 'reptile'? known: maml, "),
        (["--network", "conv4"], "network must be one of conv4-32, conv4-64, conv4-64-stride, "),
        (["--size", "papers"], "unknown size 'papers'; did you mean 'paper'? known: paper"),
        (
            ["--size", "paper", "--algorithm", "reptile"],
            "published settings on omniglot are known only for maml, protonet, pzobo, ufo_blo, got reptile",
        ),
        (
            ["--dataset", "miniimagenet", "--split", "alphabets"],
            "--split can be used with omniglot only, got the data set 'miniimagenet'; leave it out",
        ),
        (["--steps", "5", "--seconds", "1"], f"{BUDGET} steps 5 and seconds 1.0"),
        (["--steps", "0"], f"{BUDGET} steps 0 and seconds None"),
        (["--seconds", "-1"], f"{BUDGET} steps None and seconds -1.0"),
        (["--seconds", "nan"], f"{BUDGET} steps None and seconds nan"),
        (["--seconds", "inf"], f"{BUDGET} steps None and seconds inf"),
        (["--set", "inner_steps"], "--set must have the form NAME=VALUE, got 'inner_steps'"),
        (["--set", "speed=1"], "itd_bio has no hyper-parameter 'speed'; give one of inner_step, "),
        (["--set", "inner_steps=2.5"], "inner_steps must be a whole number, such as "),
        (["--set", "inner_step=fast"], "inner_step must be a number, such as "),
        (["--set", "transductive=1"], "transductive must be True or False, such as True, got 1"),
        (["--set", "train_ways=many"], "train_ways must be a whole number or None, got 'many'"),
        (["--set", "train_ways=41"], "ways must be at most 40, the number of training classes, got 41"),
        (
            ["--set", "train_ways=6", "--algorithm", "maml"],
            "train_ways must be 5, the ways of the test, because all tasks of maml share one head, got 6",
        ),
        (["--set", "tasks=0"], "tasks must be at least 1, got 0"),
        (["--set", "inner_steps=-1", "--algorithm", "anil"], "inner_steps must be at least 0, got -1"),
        (["--set", "recompute=-1", "--algorithm", "itd_bio"], "recompute must be at least 0, got -1"),
        (["--set", "probability=2.0", "--algorithm", "ufo_blo"], "probability must be in (0, 1], got 2.0"),
        (["--set", "pull=0.0", "--algorithm", "imaml"], "pull must be positive and finite, got 0.0"),
        (["--set", "damping=-1", "--algorithm", "imaml"], "damping must be at least 0 and finite, got -1"),
        (["--set", "inner_step=-1"], "inner_step must be positive and finite, got -1"),
        (["--set", "outer_step=1e999"], "outer_step must be positive and finite, got inf"),
        (["--set", "momentum=1.0"], "momentum must be in [0, 1), got 1.0"),
        (["--set", "directions=5"], "itd_bio has no hyper-parameter 'directions'; give one of inner_step, "),
        (["--set", "directions=0", "--algorithm", "pzobo"], "directions must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_bad_input_gives_a_one_line_error(arguments, message, stand_in, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = fails(capsys, "fewshot", "--algorithm", "itd_bio", *arguments)
    assert line == message if not message.endswith((" ", ", ")) else line.startswith(message)
    assert not list(tmp_path.iterdir())


def test_small_images_and_classes_of_few_images_give_a_one_line_error(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for data, message in (
        (noisy_prototypes(side=8), "images must be at least 16x16 pixels, got 8x8"),
        (noisy_prototypes(each=1), f"{IMAGES.replace('20', '1')}, got 1 + 1"),
    ):
        monkeypatch.setitem(_CLASS_LOADERS, "omniglot", lambda data=data: data)
        assert fails(capsys, "fewshot", "--algorithm", "itd_bio") == message


def test_an_unknown_split_and_missing_data_give_a_one_line_error(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path))
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache")
    # Without its log of downloads, which would come before the line.
    monkeypatch.setattr(pooch.get_logger(), "disabled", True)
    # Nothing listens on port 9.
    source = omniglot.OMNIGLOT._replace(homes=("http://127.0.0.1:9/{file}",))
    monkeypatch.setattr(omniglot, "OMNIGLOT", source)
    monkeypatch.chdir(tmp_path)
    message = "unknown split 'letters' of omniglot; did you mean "
    assert fails(capsys, "fewshot", "--split", "letters", "--no-compile-cache").startswith(message)
    line = fails(capsys, "fewshot", "--no-compile-cache")
    assert line.startswith("omniglot: cannot ") and "images_background.zip" in line
    message = "miniimagenet: there is no miniimagenet.npz ("
    assert fails(capsys, "fewshot", "--dataset", "miniimagenet", "--no-compile-cache").startswith(message)


def test_the_help_names_every_algorithm(capsys):
    with pytest.raises(SystemExit):
        main(["fewshot", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert all(name in shown for name in METHODS)


def test_answers_that_are_not_finite_count_as_wrong(data):
    def answer(x, episode, ways):
        # Class 0 would be the largest of outputs that are NaN, and right for one query in `ways`.
        return jnp.where(x > 0, jax.nn.one_hot(episode.query.labels, ways), jnp.nan)

    learner: Any = SimpleNamespace(answer=answer, shares_features=True)
    judge = Judge(learner, data.test, (0.0, 1.0), seed=0)
    assert judge.accuracy(jnp.ones(()), Shape(4, 1, 3), 2)[0] == 1
    assert judge.accuracy(jnp.zeros(()), Shape(4, 1, 3), 2)[0] == 0
