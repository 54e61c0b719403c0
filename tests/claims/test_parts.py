"""Reproductions: a fair search, runs measured along their path, pages and folders that tell the truth."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from bilevel import Problem, full, itd_bio, run, soba, tasks
from bilevel.cli import main
from bilevel.combinators import NestedState
from bilevel.datasets import Dataset
from bilevel.report import figures as figure_module
from bilevel.report.strict import strict_json
from bilevel_claims import few_shot, get, names, registry
from bilevel_claims.cleaning import cleaning
from bilevel_claims.curves import Setting, cost_table, curve, even_points, log_points, value_table
from bilevel_claims.figures import Line, lines
from bilevel_claims.page import figure_files, finding_record, first_sentence, index_page, run_page
from bilevel_claims.problems import averages, least_squares, logistic_ridge
from bilevel_claims.pzobo import fewshot as pzobo_fewshot
from bilevel_claims.run import run_claims
from bilevel_claims.search import grid, late, tune
from bilevel_claims.types import (
    VERDICTS,
    Claim,
    Finding,
    Picture,
    Run,
    at_least,
    at_most,
    near,
    shown,
    verdict,
)
from cases.problems import logistic_case
from cases.reports import HOSTILE, PIXEL, example_run

# The inner step is exact and the hypergradient is x: x_k = (1 - rate)^k.
FOLLOW = Problem(lambda x, y, batch: 0.5 * y**2, lambda x, y, batch: 0.5 * (y - x) ** 2)
SETTING = Setting(
    full(None, None),
    lambda key: (jnp.ones(()), jnp.zeros(())),
    lambda state, held: {"size": jnp.abs(state.x)},
)


def follow(**rates):
    return itd_bio(FOLLOW, **({"inner_optimizer": 1.0, "inner_steps": 1} | rates))


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(figure_module, "RESOLUTION", 50)


# Search


def test_a_grid_scores_every_trial_and_a_diverged_one_is_infinitely_bad():
    axes = {"outer_optimizer": [0.25, 0.5, 3.0, 1e200]}
    search = grid("follow", follow, axes, SETTING, score="size", steps=5)
    np.testing.assert_allclose(search.scores, [0.75**5, 0.5**5, 2.0**5, np.inf], rtol=1e-12)
    assert search.best == {"outer_optimizer": 0.5} and search.edge == ()
    assert search.budget == "5 steps" and search.score == "size"


def test_the_best_at_the_end_of_an_axis_is_told():
    search = grid("follow", follow, {"outer_optimizer": [0.1, 0.2, 0.3]}, SETTING, score="size", steps=5)
    assert search.best == {"outer_optimizer": 0.3} and search.edge == ("outer_optimizer",)
    assert "The best outer step of soba lies at the end" in run_page(
        example_run(search=search._replace(method="soba"))
    )


def test_whole_numbers_are_an_axis_too_and_axes_keep_their_order():
    axes = {"outer_optimizer": [0.5, 1e200], "inner_steps": (1, 2, 3), "inner_optimizer": [0.5, 1.0]}
    search = grid("follow", follow, axes, SETTING, score="size", steps=1)
    assert search.scores.shape == (2, 3, 2)
    # After d inner steps of 0.5, y = dy/dx = 1 - 0.5^d.
    rest = 1 - 0.5 * (1 - 0.5 ** np.arange(1.0, 4.0)) ** 2
    np.testing.assert_allclose(search.scores[0], np.stack([rest, np.full(3, 0.5)], 1), rtol=1e-12)
    assert set(search.best) == set(axes) and search.best["inner_steps"] in (1, 2, 3)


def test_a_budget_of_calls_gives_cheap_methods_more_steps():
    axes = {"inner_steps": (1, 4), "outer_optimizer": [0.5]}
    search = grid("follow", follow, axes, SETTING, score="size", calls=42)
    # T + 1 gradients and T of each product: 4 calls a step, or 13.
    np.testing.assert_allclose(search.scores[:, 0], [0.5**10, 0.5**3], rtol=1e-12)
    assert search.budget == "42 oracle calls"


def test_a_score_sees_the_path_and_names_itself():
    def area(values):
        """Mean size over the trial."""
        return values["size"].mean()

    search = grid("follow", follow, {"outer_optimizer": [0.5]}, SETTING, score=area, steps=4, points=2)
    np.testing.assert_allclose(search.scores, [(0.25 + 0.0625) / 2], rtol=1e-12)
    assert search.score == "Mean size over the trial"
    second = grid(
        "follow", follow, {"outer_optimizer": [0.5]}, SETTING, score=late("size"), steps=4, points=4
    )
    np.testing.assert_allclose(second.scores, [(0.125 + 0.0625) / 2], rtol=1e-12)


def test_scores_are_means_over_seeds_and_one_lost_seed_loses_the_trial():
    def start(key):
        return jnp.where(jax.random.key_data(key)[-1] == 7, jnp.inf, 1.0), jnp.zeros(())

    setting = SETTING._replace(start=start, seeds=(0, 7))
    with pytest.raises(ArithmeticError, match="no trial of follow ended well"):
        grid("follow", follow, {"outer_optimizer": [0.5]}, setting, score="size", steps=2)
    assert grid(
        "follow", follow, {"outer_optimizer": [0.5]}, setting._replace(seeds=(0, 1)), score="size", steps=2
    )


def test_exactly_one_budget():
    for budget in ({}, {"steps": 1, "calls": 1}):
        with pytest.raises(ValueError, match="exactly one budget"):
            grid("follow", follow, {"outer_optimizer": [0.5]}, SETTING, score="size", **budget)


def test_trials_under_fewer_vmaps_are_the_same():
    axes = {"outer_optimizer": [0.25, 0.5, 0.75]}
    together, alone = (grid("f", follow, axes, SETTING, score="size", steps=5, at_once=n) for n in (None, 1))
    np.testing.assert_array_equal(together.scores, alone.scores)


def test_float32_stays_float32_under_traced_step_sizes():
    start = jnp.ones((), jnp.float32), jnp.zeros((), jnp.float32)
    setting = SETTING._replace(start=lambda key: start)
    search = grid("follow", follow, {"outer_optimizer": [0.25, 0.5]}, setting, score="size", steps=3)
    assert search.scores[1] == 0.125


def test_tuning_gives_every_method_the_same_trials_and_shows_other_seeds():
    setting = SETTING._replace(start=lambda key: (jax.random.normal(key), jnp.zeros(())), seeds=(0, 1))
    axes = {"outer_optimizer": [0.25, 0.5]}
    searches, curves = tune({"one": follow, "two": follow}, axes, setting, score="size", calls=20, shown=5)
    np.testing.assert_array_equal(searches[0].scores, searches[1].scores)
    starts = [abs(jax.random.normal(jax.random.key(seed))) for seed in (100, 101, 102)]
    np.testing.assert_allclose(searches[0].scores, np.mean(starts) * np.array([0.75, 0.5]) ** 5, rtol=1e-12)
    assert [(c.label, c.calls[-1]) for c in curves] == [("one", 20), ("two", 20)]
    starts = [abs(jax.random.normal(jax.random.key(seed))) for seed in (0, 1)]
    np.testing.assert_allclose(curves[0].values["size"][:, 0], starts, rtol=1e-12)


# Curves


def test_a_curve_is_the_path_of_run():
    task = tasks.quadratic(rows=16)
    algorithm = soba(task.problem, inner_optimizer=0.3, outer_optimizer=1e-3)
    x, y = task.start(jax.random.key(0))
    setting = Setting(task.data(4), lambda key: (x, y), lambda state, held: {"x": state.x[0]}, seeds=(3, 5))
    found = curve("soba", algorithm, setting, [0, 1, 7, 20])
    path = {}
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), 1))(jnp.array(setting.seeds))
    run(algorithm, x, y, task.data(4), steps=20, key=keys, log_every=1, progress=False,
        callback=lambda step, state, metrics: path.update({step: state.x[:, 0]}))  # fmt: skip
    # The loop is compiled with the measure inside: the last digits may differ.
    np.testing.assert_allclose(found.values["x"], np.stack([path[k] for k in (0, 1, 7, 20)], 1), rtol=1e-12)
    np.testing.assert_array_equal(found.calls, np.array([0, 1, 7, 20]) * 4)


def test_steps_with_branches_give_the_same_curve():
    algorithm, setting = follow(outer_optimizer=0.5), SETTING._replace(seeds=(0, 1))
    found = curve("one at a time", algorithm._replace(seeds_in_sequence=True), setting, [0, 2])
    np.testing.assert_array_equal(found.values["size"], [[1, 0.25], [1, 0.25]])


def test_tables_of_costs_and_of_values():
    found = curve("follow", follow(outer_optimizer=0.5), SETTING, even_points(8, 4))
    assert [cell.text for cell in cost_table([found]).rows[0]][:6] == ["follow", "2", "1", "1", "8", "32"]
    table = value_table([found], "size", [8, 31, 32], lambda c: c.calls)
    assert [column.title for column in table.columns] == ["method", "8", "31", "32"]
    np.testing.assert_allclose(
        [cell.value for cell in table.rows[0][1:]], [0.5**2, 0.5**6, 0.5**8], rtol=1e-12
    )
    assert found.last("size") == 0.5**8
    np.testing.assert_allclose(found.late("size"), (0.5**4 + 0.5**6 + 0.5**8) / 3, rtol=1e-12)


def test_points_begin_at_zero_and_end_at_the_last_step():
    for points in (log_points(1000, 20), even_points(1000, 20), log_points(3, 60), even_points(3, 60)):
        assert points[0] == 0 and points[-1] in (3, 1000) and (np.diff(points) > 0).all()


# Problems


@pytest.mark.parametrize("direct", [False, True])
def test_the_logistic_problem_is_that_of_the_tests(direct):
    ridge, case = logistic_ridge(direct=0.05 * direct), logistic_case(direct)
    exact = jax.jit(ridge.exact)(case.x, (ridge.train, ridge.valid))
    y, gradient = case.exact(case.x)
    np.testing.assert_allclose(exact.y, y, atol=1e-12)
    np.testing.assert_allclose(exact.gradient, gradient, atol=1e-12)


def test_least_squares_has_the_noted_answers():
    squares = least_squares()
    np.testing.assert_allclose([squares.inner_top, squares.outer_top], [2.588901, 2.31954], rtol=1e-6)
    slope = squares.curvature @ (jnp.ones(5) - squares.best)
    noted = [1.13373010, 1.19158515, 1.18113616, 1.17956635, 1.18730947]
    np.testing.assert_allclose(slope, noted, rtol=1e-6)


def test_the_gradient_of_the_averages_is_that_of_a_long_solve():
    toy = averages()
    x, y = jnp.linspace(-1, 1, 8), jnp.zeros(8)
    algorithm = itd_bio(toy.problem, inner_optimizer=0.9, outer_optimizer=1.0, inner_steps=100)
    moved = jax.jit(lambda state: algorithm.step(state, toy.data(None), None)[0])(algorithm.init(x, y)).x
    np.testing.assert_allclose(x - moved, toy.gradient(x, (toy.outer, toy.inner)), rtol=1e-10)


def test_weights_of_the_cleaning_problem_tell_right_from_wrong_as_scikit_learn_counts():
    random = np.random.default_rng(0)
    images, labels = random.random((300, 4, 4), np.float32), random.integers(0, 3, 300).astype(np.int32)
    source = Dataset("made", images, labels, ["a", "b", "c"], images[:50], labels[:50])
    task = cleaning(source, rows=100, trusted_rows=50, test_rows=40, noise=0.3)
    wrong = np.asarray(task.training["labels"] != labels[:100])
    assert wrong.sum() == 30 and task.trusted["labels"].shape == (50,)
    # Rounded, so that some are equal.
    start = task.start(None)
    state = NestedState(jnp.asarray(random.normal(size=100).round(1)), start[1], (), (), ())
    found = task.measure(state, task.held)
    assert found["AUC"] == pytest.approx(roc_auc_score(~wrong, state.x), rel=1e-12)
    assert found["test loss"] == pytest.approx(np.log(3), rel=1e-12)


def test_heads_of_a_meta_batch_train_as_if_alone():
    drawings = np.random.default_rng(0).integers(0, 5, (9, 20, 196), np.uint8)
    drawn = few_shot.tasks_of(drawings, 3, 0)

    def trained(drawn):
        x, solver = few_shot.two_layers(jax.random.key(0)), pzobo_fewshot.heads()[1]
        return solver.solve(x, pzobo_fewshot.zeros(len(drawn)), full(drawn, drawn))

    # As a user runs it, see below.
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        together, alone = (jax.device_get(trained(jnp.asarray(part))) for part in (drawn, drawn[1:2]))
    assert np.abs(alone["weight"]).max() > 0.01
    for many, one in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(many[1], one[0], rtol=1e-4, atol=1e-6)


# Numbers and verdicts


def test_a_number_that_is_not_finite_never_holds():
    for number in (
        at_most(float("nan"), 1),
        at_least(float("inf"), 1),
        at_most(-float("inf"), 1),
        near(float("nan"), 1, 9),
    ):
        assert number["holds"] is False
    assert (
        near(1.05, 1, 0.1)["holds"] and near(-1.05, -1, 0.1)["holds"] and shown(float("nan"))["holds"] is None
    )


@pytest.mark.parametrize("first, second, expected", [(1, 1, 0), (1, 9, 1), (9, 9, 2)])
def test_verdict(first, second, expected):
    numbers = {"a": at_most(first, 5), "b": at_most(second, 5), "c": shown(100)}
    assert verdict(numbers) == VERDICTS[expected]


def test_first_sentence_ends_at_a_full_stop_and_not_in_a_number():
    assert first_sentence("It is 0.5 at D = 3. Then more.") == "It is 0.5 at D = 3."
    assert first_sentence("All of it") == "All of it"


# Pages and records


def test_the_page_shows_claim_verdict_numbers_settings_trials_and_command():
    page = run_page(example_run())
    texts = ["The first sentence.", "And the rest.", "at most 0.5", "at least 2", "only told", "not finite"]
    texts += ["0.05 (official code)", "searched", "inner step ↓, outer step →", "diverged", "Trials of soba"]
    texts += ["1,234 steps a trial", "bilevel reproduce an-example", "float64"]
    assert [text for text in texts if text not in page] == []
    order = ['<em class="verdict part">holds in part</em>', "what the paper says", "<figure>", "What decides"]
    places = [page.index(text) for text in [*order, "Settings", "How each method"]]
    assert places == sorted(places)
    assert page.count('<td class="number best"') == 1 and page.count("<figure>") == 3


def test_the_page_of_a_claim_without_search_or_figure():
    page = run_page(example_run(figures=(), searches=()))
    assert "Nothing was tuned" in page and "<figure>" not in page


def test_pages_escape_everything():
    hostile = example_run(text=HOSTILE)
    for page in (run_page(hostile), index_page([hostile, hostile._replace(finding=None, failure=HOSTILE)])):
        assert page.count("<script") == 1 and "&lt;script&gt;" in page


def test_the_record_is_strict_json_with_all_that_the_page_shows():
    record = json.loads(strict_json(finding_record(example_run())))
    assert record["verdict"] == "holds in part" and record["failure"] is None and record["seconds"] == 12.3
    assert record["numbers"]["gap"] == {"value": 0.25, "rule": "at most 0.5", "holds": True}
    assert (
        record["searches"][0]["scores"][1][1] is None
        and record["searches"][0]["best"]["outer_optimizer"] == 0.1
    )
    assert record["figures"] == ["first_picture.png", "second_picture.png", "third_picture.png"]
    assert record["tables"]["What it cost"] == [{"method": "soba", "calls": 4}]


def test_the_index_tells_done_failed_and_not_run():
    done, claim = example_run(), example_run().claim
    page = index_page([done, Run(claim, "small", failure="ValueError: no"), Run(claim, "small")])
    assert '<em class="verdict part">1</em> holds in part' in page and "2 of 3 claims were run" in page
    assert 'href="an-example/report.html"' in page and page.count("<a href") == 1
    assert "ValueError: no" in page and ">not run<" in page and ">failed<" in page
    assert "The first sentence." in page and "And the rest." not in page
    assert '<em class="verdict part">2</em> hold in part' in index_page([done, done])
    assert "Nothing has been run yet" in index_page([Run(claim, "small")])


def test_figures_are_named_by_their_titles():
    assert set(figure_files(example_run())) == {
        "first_picture.png",
        "second_picture.png",
        "third_picture.png",
    }


@pytest.mark.parametrize("log", [None, "", "xy"])
def test_lines_draw_bands_guides_marks_and_diverged_runs(log):
    steps = np.array([0, 1, 10, 100])
    broken = np.array([[1.0, 10.0, np.inf, np.nan], [1.0, 20.0, np.nan, np.nan]])
    curves = [
        Line("median of three", steps, np.exp(-steps) * np.arange(1, 4)[:, None]),
        Line("diverged", steps, broken),
        Line("all lost", steps, np.full(4, np.nan)),
        Line("few points", [1, 10], [0.5, 0.25], marked=True, colour=5, dash=1),
        Line("slope", [1, 100], [1, 0.01], guide=True),
    ]
    assert lines("title", "steps", "loss", curves, log=log).startswith(b"\x89PNG")


# The command


def claim_of(name, run):
    return Claim(name, f"Title of {name}", "Nobody, Nothing, ICML 2020, arXiv:0000.00000", "s", {}, {}, run)


def good(size):
    numbers = {"gap": at_most(0.1 if size == "small" else 0.9, 0.5)}
    return Finding(
        verdict(numbers), f"All well. At size {size}.", numbers, [Picture("One", PIXEL, "caption")]
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


def test_all_go_on_after_a_failure_and_the_index_tells_it(claims, capsys, tmp_path):
    code, out, err = command(capsys, "--all", "--out", "out")
    assert code == 1 and err.count("\n") == 1 and "1 of 3 claims failed; the first: bad failed" in err
    assert "good: holds" in out and "bad: failed" in out and "again: holds" in out and "out/index.html" in out
    page = (tmp_path / "out" / "index.html").read_text()
    assert "3 of 3 claims were run" in page and "RuntimeError: it went wrong" in page
    records = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert [record["verdict"] for record in records] == ["holds", "failed", "holds"]
    assert len(json.loads(command(capsys, "--all", "--json", "--out", "out")[1])) == 3


def test_a_success_takes_the_old_failure_away(claims, capsys, tmp_path):
    command(capsys, "bad", "--out", "out")
    claims(bad=good)
    assert command(capsys, "bad", "--out", "out")[0] == 0
    assert not (tmp_path / "out" / "bad" / "failure.txt").exists()


def test_an_interrupted_all_leaves_a_true_index(claims, capsys, tmp_path):
    claims(good=good, stopped=interrupted, never=bad)
    code, _, err = command(capsys, "--all", "--out", "out")
    assert code == 130 and err == "bilevel: interrupted; out/index.html tells what was done\n"
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
        (["good", "--all"], "give a claim or --all, got both 'good' and --all"),
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


# The entries themselves


@pytest.mark.parametrize("name", names())
def test_every_entry_says_whose_claim_it_is_and_what_is_known(name):
    claim = get(name)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) and claim.name == name
    assert re.search(r", arXiv:\d{4}\.\d{5}$", claim.paper), claim.paper
    assert re.search(r"\(.+\)", claim.statement), "where the claim stands, or that it is not the paper's word"
    assert 0 < len(claim.title) <= 70 and claim.known and claim.ours


def test_the_list_has_a_section_of_claims(capsys):
    assert main(["list", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["claims"]
    assert [entry["name"] for entry in entries] == names() and all(
        set(e) == {"name", "paper", "title"} for e in entries
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_every_entry_runs_and_says_so_in_words_numbers_and_figures(name, tmp_path):
    # As a user runs it: the settings of the other tests would refuse what JAX allows.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        (found,) = run_claims([get(name)], tmp_path)
    assert not found.failure, (tmp_path / name / "failure.txt").read_text()
    finding = found.finding
    assert finding.verdict in VERDICTS and finding.words and finding.figures and finding.tables
    assert any(number["holds"] is not None for number in finding.numbers.values())
    assert len(figure_files(found)) == len(finding.figures)
    if name == "aid-itd-warmstart":
        # Tests T3 and T4 of the notes, found with NumPy; the tolerances are theirs.
        assert finding.numbers["AID, both starts warm: last gradient"]["value"] < 1e-10
        least = finding.numbers["AID, any other choice: least last gradient"]["value"]
        floor = finding.numbers["ITD, warm y, any D: least last gradient"]["value"]
        np.testing.assert_allclose([least, floor], [0.188, 0.000619], rtol=0.05)
