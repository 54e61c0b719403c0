"""Numbers, verdicts, figures and pages of the claims."""

import json

import numpy as np
import pytest

from bilevel.report.strict import strict_json
from bilevel.types import Cost
from bilevel_claims import figures as claim_figures
from bilevel_claims.experiment import CALLS, Trajectory
from bilevel_claims.figures import Line, picture, picture_of
from bilevel_claims.page import figure_files, finding_record, first_sentence, index_page, run_page
from bilevel_claims.types import (
    VERDICTS,
    Run,
    at_least,
    at_most,
    near,
    shown,
    verdict,
)
from cases.reports import HOSTILE, example_run


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


def test_the_page_shows_claim_verdict_numbers_settings_trials_and_command():
    page = run_page(example_run())
    texts = ["The first sentence.", "And the rest.", "at most 0.5", "at least 2", "shown only", "not finite"]
    texts += ["0.05 (official code)", "searched", "inner step ↓, outer step →", "diverged", "Trials of soba"]
    texts += ["1,234 steps a trial", "bilevel reproduce an-example", "float64"]
    assert [text for text in texts if text not in page] == []
    order = [
        '<em class="verdict part">holds in part</em>',
        "what the paper says",
        "<figure>",
        "Numbers that decide",
    ]
    places = [page.index(text) for text in [*order, "Numbers that decide", "Settings", "How each method"]]
    assert places == sorted(places)
    assert page.count('<td class="number best"') == 1 and page.count("<figure>") == 3


def test_the_page_of_a_claim_without_search_or_figure():
    page = run_page(example_run(figures=(), searches=()))
    assert "Nothing was tuned" in page and "<figure>" not in page


def test_pages_escape_everything():
    hostile = example_run(text=HOSTILE)
    for page in (run_page(hostile), index_page([hostile, hostile._replace(finding=None, failure=HOSTILE)])):
        assert page.count("<script") == 1 and "&lt;script&gt;" in page


def test_the_record_is_strict_json_with_all_facts_of_the_page():
    record = json.loads(strict_json(finding_record(example_run())))
    assert record["verdict"] == "holds in part" and record["failure"] is None and record["seconds"] == 12.3
    assert record["numbers"]["gap"] == {"value": 0.25, "rule": "at most 0.5", "holds": True}
    assert (
        record["searches"][0]["scores"][1][1] is None
        and record["searches"][0]["best"]["outer_optimizer"] == 0.1
    )
    assert record["figures"] == ["first_picture.png", "second_picture.png", "third_picture.png"]
    assert record["tables"]["What it cost"] == [{"method": "soba", "calls": 4}]


def test_the_index_shows_done_failed_and_not_run():
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
    assert picture("title", "steps", "loss", curves, "caption", log=log).png.startswith(b"\x89PNG")


def test_a_picture_of_trajectories_has_one_line_a_method(monkeypatch):
    seen = []
    monkeypatch.setattr(claim_figures, "picture", lambda *given, **looks: seen.append(given))
    run = Trajectory("soba", np.array([0, 10]), {"error": np.array([[1.0, 0.25]])}, Cost(gradients=2), 1.0)
    looks = {"value": lambda error: 1 - error, "styles": {"soba": {"dash": 1}}, "y": "accuracy", "log": ""}
    picture_of("Title", [run], "error", CALLS, "caption", more=[Line("bound", [0], [1])], **looks)
    title, x, y, (line, more), caption = seen[0]
    assert (title, x, y, caption) == ("Title", "oracle calls", "accuracy", "caption")
    assert (line.label, line.dash, more.label) == ("soba", 1, "bound")
    np.testing.assert_array_equal(line.x, [0, 20])
    np.testing.assert_array_equal(line.y, [[0, 0.75]])
