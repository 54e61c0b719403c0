"""The page, figures and table of a few-shot run."""

import json

import numpy as np
import pytest

from bilevel.report import fewshot_table, write_fewshot
from bilevel.report import figures as figure_module
from bilevel.report.fewshot import fewshot_page, fewshot_warnings
from bilevel.report.fewshot_figures import (
    drawn,
    episode_picture,
    fewshot_figures,
    learning_curves,
    ways_chart,
)
from bilevel.report.figures import image_files, png, pngs
from bilevel.report.page import png_size
from cases.reports import HOSTILE, PIXEL, example_episode, example_fewshot

UNDRAWN: dict[str, bytes] = dict.fromkeys(("curves", "ways", "episode_1", "episode_2"), PIXEL)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Draw figures in low resolution, which takes less time."""
    monkeypatch.setattr(figure_module, "RESOLUTION", 50)


def figures_of(result):
    return fewshot_figures(result.summary, result.history, result.examples)


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def headline(page):
    return page.partition("<h1>")[2].partition("</h1>")[0].replace("\N{NO-BREAK SPACE}", " ")


# Files


def test_the_folder_holds_every_file(tmp_path):
    result = example_fewshot(history={"outer_loss": [2.0] * 10 + [float("nan")]}, peak_mib=float("nan"))
    paths = write_fewshot(result, tmp_path)
    names = ["summary.json", "report.html", "learner.npz"]
    figures = ("curves", "ways", "episode_1", "episode_2")
    names += [f"{name}.png" for name in figures] + [f"{name}.pdf" for name in figures]
    assert [path.name for path in paths] == names

    def refuse(token):
        raise AssertionError(token)

    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert summary["history"]["outer_loss"][-1] is None and summary["peak_mib"] is None
    assert set(summary) == {*result.summary, "history"}
    # A page from the file looks the same; None stands for a number that was not finite.
    history = summary.pop("history")
    again = example_fewshot(history=history)
    again.summary = summary
    assert fewshot_page(again) == (tmp_path / "report.html").read_text(encoding="utf-8")
    assert fewshot_table(again) == fewshot_table(result)


# Page and table


def test_headline_gives_accuracy_interval_episodes_and_chance():
    page = fewshot_page(example_fewshot(), UNDRAWN)
    assert headline(page) == (
        "<em>97.1 % ± 0.3 %</em> of query images right, on 600 episodes of characters never seen in "
        "training; chance is 20 %"
    )
    assert "of classes never seen" in headline(fewshot_page(example_fewshot(dataset="mini"), UNDRAWN))
    assert "chance is 33.3 %" in headline(fewshot_page(example_fewshot(chance=1 / 3), UNDRAWN))


def test_terminal_and_page_show_the_same_numbers():
    result = example_fewshot()
    for text in (fewshot_table(result), fewshot_page(result, UNDRAWN).replace("\N{NO-BREAK SPACE}", " ")):
        for number in ("omniglot", "97.1 % ± 0.3 %", "96.9 % ± 0.4 %", "20 %", "3,000", "8 min 2 s"):
            assert number in text
    assert "160.8" in fewshot_table(result) and "161 ms" in fewshot_page(result, UNDRAWN)


def test_page_describes_the_run():
    page = fewshot_page(example_fewshot(), UNDRAWN)
    assert "3,000 steps of 16 tasks" in page and "learn 5 classes from 1 image of each" in page
    assert "111,936 parameters" in page and "<dt>inner step size</dt><dd>0.4</dd>" in page
    assert "812 MiB" in page and "<code>bilevel fewshot omniglot --ways 5 plain</code>" in page


def test_accuracy_by_ways_is_in_order_with_the_trained_ways_marked():
    page = fewshot_page(example_fewshot(), UNDRAWN)
    rows = page.partition('aria-label="Accuracy by ways"')[2].partition("</table>")[0].split("<tr")[2:]
    ways = [row.partition('data-value="')[2].partition('"')[0] for row in rows]
    assert ways == ["2", "5", "10", "20"]
    assert ["chosen" in row for row in rows] == [False, True, False, False]
    assert "97.0 % ± 0.4 %" in rows[1] and "3.0 %" in rows[1]


def test_an_unknown_peak_of_memory_is_a_dash():
    page = fewshot_page(example_fewshot(peak_mib=None), UNDRAWN)
    assert "<dt>peak memory</dt><dd>–</dd>" in page


def test_page_escapes_names_from_users():
    page = fewshot_page(example_fewshot(text=HOSTILE, dataset=HOSTILE, stopped=HOSTILE))
    assert page.count("<script") == 1 and page.count("</script") == 1
    assert "&lt;script&gt;" in page


# Warnings


def test_a_good_run_has_no_warning():
    stopped = "the 60 seconds were over"
    result = example_fewshot(stopped=stopped)
    assert fewshot_warnings(result) == []
    page = fewshot_page(result, UNDRAWN)
    assert 'class="warning"' not in page and f"Stopped early: {stopped}." in page
    assert f"stopped: {stopped}" in fewshot_table(result)


def test_divergence_is_a_warning():
    stopped = "maml blew up between steps 200 and 300"
    result = example_fewshot(stopped=stopped, diverged=True)
    assert fewshot_warnings(result) == [f"The run ended early: {stopped}"]
    page = fewshot_page(result, UNDRAWN)
    assert page.count(stopped) == 1 and page.index(stopped) < page.index("<main>")
    assert fewshot_table(result).count(stopped) == 1


@pytest.mark.parametrize(("accuracy", "warned"), [(0.204, False), (0.203, True), (0.2, True), (0.1, True)])
def test_an_interval_that_includes_chance_is_a_warning(accuracy, warned):
    result = example_fewshot(test_accuracy=accuracy, test_interval=0.0035)
    assert [("no better than chance" in text) for text in fewshot_warnings(result)] == [True] * warned


@pytest.mark.parametrize(("last", "warned"), [(0.94, False), (0.939, True), (None, True)])
def test_a_fall_of_more_than_three_points_is_a_warning(last, warned):
    accuracy = [0.2] * 8 + [0.97, 0.93, last]
    found = fewshot_warnings(example_fewshot(history={"validation_accuracy": accuracy}))
    assert len(found) == warned
    # If the last was not measured, the one before it counts.
    fall = "93.0 % at step 2,700" if last is None else "93.9 % at step 3,000"
    assert all(f"from 97.0 % at step 2,400 to {fall}" in text for text in found)


# Figures


def test_curves_show_the_band_chance_and_the_best_checkpoint():
    result = example_fewshot()
    figure = learning_curves(result.history, 2700, 0.2)
    above, below = figure.axes
    curve, star, chance = above.lines
    np.testing.assert_allclose(np.asarray(curve.get_ydata()), result.history["validation_accuracy"])
    assert np.asarray(star.get_xdata())[0] == pytest.approx(0.1608 * 2700)
    assert np.asarray(star.get_ydata())[0] == result.history["validation_accuracy"][9]
    assert set(np.asarray(chance.get_ydata())) == {0.2}
    band = np.asarray(above.collections[0].get_paths()[0].vertices)
    assert band[:, 1].max() == pytest.approx(
        (np.add(result.history["validation_accuracy"], result.history["validation_interval"])).max()
    )
    np.testing.assert_allclose(np.asarray(below.lines[0].get_ydata()), result.history["outer_loss"])


def test_curves_skip_missing_points_and_a_cross_marks_the_last_finite_loss():
    result = example_fewshot()
    accuracy = [None, 0.5, float("nan"), *result.history["validation_accuracy"][3:]]
    loss = result.history["outer_loss"][:6] + [None] * 5
    figure = learning_curves(result.history | {"validation_accuracy": accuracy, "outer_loss": loss}, 600, 0.2)
    above, below = figure.axes
    # The curve and chance; the star of step 600 has no accuracy.
    assert len(above.lines) == 2 and len(np.asarray(above.lines[0].get_xdata())) == 9
    assert below.lines[1].get_marker() == "x"
    assert np.asarray(below.lines[1].get_xdata()) == result.history["seconds"][5]


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("known", [True, False])
def test_curves_of_few_points_draw(length, known):
    history = {
        name: (values if known or name == "step" else [None] * 11)[:length]
        for name, values in example_fewshot().history.items()
    }
    assert png(learning_curves(history, 0, 0.2))


def test_ways_have_their_own_chance():
    rows = example_fewshot().summary["accuracy_by_ways"]
    axes = ways_chart(rows, 40).axes[0]
    dots, *_, dashes = axes.lines  # the caps of the intervals come between
    np.testing.assert_allclose(np.asarray(dots.get_ydata()), [0.982, 0.97, 0.95, 0.91])
    np.testing.assert_allclose(np.asarray(dashes.get_ydata()), [1 / 2, 1 / 5, 1 / 10, 1 / 20])
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert [label.partition("\n")[0] for label in labels] == ["2", "5", "10", "20"]
    assert labels[1] == "5\n97.0 %\n± 0.4 %" and not axes.texts
    assert axes.get_xlabel().endswith("training used 40")


def test_the_ways_of_training_are_told_apart_from_those_of_the_test():
    page = fewshot_page(example_fewshot(train_ways=40), UNDRAWN)
    assert "Training used episodes of 40 ways" in page and "In training a task has 40 classes." in page
    assert "as trained" not in page
    assert "In training a task has" not in fewshot_page(example_fewshot(), UNDRAWN)


@pytest.mark.parametrize("count", [1, 4, 7])
@pytest.mark.parametrize("accuracy", [0.01, 0.5, 1.0])
def test_no_text_of_the_ways_lies_over_another_or_over_the_axes(count, accuracy):
    ways = (2, 5, 10, 20, 40, 50, 60)[:count]
    rows = [{"ways": number, "accuracy": accuracy, "interval": 0.1} for number in ways]
    figure = ways_chart(rows, 5)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert not any(a.overlaps(b) for place, a in enumerate(boxes) for b in boxes[:place])
    assert not any(box.overlaps(axes.get_window_extent()) for box in boxes)
    assert not axes.texts


@pytest.mark.parametrize(
    ("ways", "queries", "count"),
    [(5, 15, 15), (5, 1, 5), (20, 15, 20), (10, 15, 20), (2, 15, 6), (25, 1, 20)],
)
def test_query_images_of_each_class_are_drawn_wrong_answers_first(ways, queries, count):
    episode = example_episode(ways, 1, queries)
    order = np.random.default_rng(1).permutation(episode.labels.size)
    episode.labels, episode.predictions = episode.labels[order], episode.predictions[order]
    shown = drawn(episode)
    assert shown.size == len(set(shown)) == count
    labels = episode.labels[shown]
    assert (np.diff(labels) >= 0).all()
    for label in range(ways):
        rows = np.flatnonzero(episode.labels == label)
        # Otherwise the order is that of the episode.
        rows = rows[np.argsort(episode.predictions[rows] == label, kind="stable")]
        np.testing.assert_array_equal(shown[labels == label], rows[: (labels == label).sum()])


@pytest.mark.parametrize(("ways", "queries"), [(5, 15), (20, 15), (25, 15), (25, 1)])
@pytest.mark.parametrize("late", [False, True])
def test_no_wrong_answer_stays_hidden(ways, queries, late):
    episode = example_episode(ways, 1, queries, wrong=2)
    if late:  # the wrong answers are the last of their classes
        order = np.arange(episode.labels.size)[::-1]
        episode.labels, episode.predictions = episode.labels[order], episode.predictions[order]
    shown = drawn(episode)
    assert (episode.predictions[shown] != episode.labels[shown]).sum() == 2
    assert sum("✗" in text for text in texts(episode_picture(episode))) == 2


def test_wrong_answers_differ_by_frame_cross_and_letter():
    figure = episode_picture(example_episode(wrong=2), 3)
    shown = texts(figure)
    assert figure.get_suptitle() == "Episode 3: 73 of 75 query images right, 15 shown"
    assert shown.count("A ✗") == 1 and shown.count("is E") == 1  # E classified as A
    assert shown.count("E ✗") == 1 and shown.count("is D") == 1  # D classified as E
    assert sum("%" in text for text in shown) == 15
    frames = list(figure.axes[0].patches)
    assert len(frames) == 20 and sum(frame.get_linewidth() > 1 for frame in frames) == 2
    assert not any(
        "✗" in text or text.startswith("is ") for text in texts(episode_picture(example_episode(wrong=0)))
    )


@pytest.mark.parametrize(("channels", "value", "expected"), [(1, 255, 0), (1, 0, 255), (3, 200, 200)])
def test_ink_is_dark_on_light_and_photographs_are_unchanged(channels, value, expected):
    episode = example_episode(shape=(8, 8, channels))
    episode.support = np.full_like(episode.support, value)
    image = np.asarray(episode_picture(episode).axes[0].images[0].get_array())
    assert image.shape == (8, 8, 3) and (image == expected).all()


@pytest.mark.parametrize("ways", [2, 5, 20, 25])
@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("shape", [(28, 28, 1), (16, 24, 3)])
def test_images_in_a_picture_of_an_episode_do_not_overlap(ways, shots, shape):
    episode = example_episode(ways, shots, 3, shape)
    figure = episode_picture(episode)
    axes = figure.axes[0]
    boxes = np.array([image.get_extent() for image in axes.images])
    assert len(boxes) == ways * shots + drawn(episode).size
    lefts, tops = boxes[:, 0], boxes[:, 3]
    width, height = boxes[0, 1] - boxes[0, 0], boxes[0, 2] - boxes[0, 3]
    assert height / width == pytest.approx(shape[0] / shape[1])
    across, down = (np.abs(side[:, None] - side[None]) for side in (lefts, tops))
    apart = (across >= width) | (down >= height) | np.eye(len(boxes), dtype=bool)
    assert apart.all()
    (low, high), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert boxes.min() >= min(low, top) and boxes[:, 1].max() <= high and boxes[:, 2].max() <= bottom
    assert min(png_size(png(figure))) > figure_module.RESOLUTION


def test_figures_are_reproducible_and_leave_arrays_unchanged():
    result = example_fewshot()
    before = result.examples[0].support.copy()
    first, second = figures_of(result), figures_of(result)
    assert image_files(first, pngs(first)) == image_files(second, pngs(second))
    np.testing.assert_array_equal(result.examples[0].support, before)


def test_caption_counts_shown_images_and_right_answers():
    page = fewshot_page(example_fewshot(), UNDRAWN)
    assert page.count("15 of 75 query images are shown (3 of each class, wrong answers first); "
                      "13 of these and 73 of all are right.") == 2  # fmt: skip
    few = example_fewshot(examples=[example_episode(5, 1, 2)])
    assert "10 of 10 query images are shown (all)" in fewshot_page(few, UNDRAWN)
