"""Figures of the reports, and the statistics of a comparison that they draw."""

from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from bilevel.report import clean_page, compare_page, comparison_table
from bilevel.report import figures as figure_module
from bilevel.report.clean_figures import (
    clean_figures,
    learning_curves,
    noise_matrix,
    probability_histogram,
)
from bilevel.report.compare import standings
from bilevel.report.compare_figures import AXES, curves
from bilevel.report.compare_statistics import curve
from bilevel.report.contact_sheet import contact_sheet, pictures
from bilevel.report.figures import brief_names, image_files, pdf, png, pngs
from bilevel.report.page import png_size
from bilevel_claims import figures as claim_figures
from cases.reports import CLEANINGS, COMPARISON, HOSTILE, PIXEL, UNDRAWN, example_cleaning, example_records


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Draw figures in low resolution: the same code in less time."""
    monkeypatch.setattr(figure_module, "RESOLUTION", 50)


# Statistics


def test_curve_is_mean_and_range_over_the_seeds_unless_one_diverged():
    line = curve(example_records(["soba"], seeds=3), "outer_loss", "oracle_calls")
    assert line is not None
    np.testing.assert_allclose(line.x, 5 * np.arange(0, 101, 10))
    np.testing.assert_allclose(line.mean, 2 * np.exp(-np.arange(0, 101, 10) / 20))
    np.testing.assert_allclose(line.high, 3 * line.low)
    assert curve(example_records(["soba"], diverged=[("soba", 2)]), "outer_loss", "oracle_calls") is None


def test_curve_ends_with_the_shortest_seed():
    records = example_records(["soba"], seeds=2)
    records[1]["history"] = {name: values[:5] for name, values in records[1]["history"].items()}
    line = curve(records, "outer_loss", "seconds")
    assert line is not None and line.x.size == 5


def test_standings_show_means_deviations_and_diverged_runs():
    records = example_records(["aid_bio", "soba"], seeds=3, diverged=[("soba", 2)])
    table = standings(records)
    assert [column.title for column in table.columns] == [
        "algorithm",
        "runs",
        "outer loss",
        "accuracy",
        "inner residual",
        "seconds",
        "oracle calls",
        "compile",
    ]
    aid, soba = table.rows
    assert aid[2].value == pytest.approx(2 * np.exp(-5)) and "±" in aid[2].text
    # A diverged run counts as infinite: no mean of the others stands for it.
    assert [cell.text for cell in soba[2:5]] == ["diverged"] * 3
    assert [cell.text for cell in aid[-3:]] == ["2.0 s", "500", "1.5 s"]
    assert aid[1].text == "3" and soba[1].text == "3, 1 diverged"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.0231, 0.0262], "0.0246 ± 0.0022"),
        ([1.0, 1.0], "1.0000 ± 0.0000"),
        ([1500.0, 2500.0], "2,000 ± 707"),
        ([1e23, 3e23], "2e+23 ± 1.4e+23"),
        ([1e-9, 3e-9], "2e-09 ± 1.4e-09"),
        ([5.0], "5"),
    ],
)
def test_a_mean_has_the_decimals_of_its_deviation(values, text):
    records = example_records(["soba"], seeds=len(values))
    for record, value in zip(records, values, strict=True):
        record["history"]["outer_loss"][-1] = value
    assert standings(records).rows[0][2].text == text


def test_comparison_where_every_run_diverged():
    records = example_records(["soba"], seeds=1, diverged=[("soba", 0)])
    assert "Every run diverged" in compare_page(records, COMPARISON)
    assert "1, 1 diverged" in comparison_table(records)


def test_an_algorithm_that_diverged_with_one_seed_never_ends_lowest():
    records = example_records(["aid_bio", "soba"], seeds=3, diverged=[("soba", 2)])
    for record in records:
        if record["algorithm"] == "soba":
            record["history"]["outer_loss"][-1] = 1e-9
    page = compare_page(records, COMPARISON)
    assert "<em>aid_bio</em> has the lowest mean outer loss" in page and "1 of 6 runs diverged" in page
    page = compare_page(example_records(seeds=2, diverged=[("soba", 0), ("aid_bio", 1)]), COMPARISON)
    assert "Every algorithm diverged with some seed" in page and "has the lowest" not in page


# Figures


@pytest.mark.parametrize("name", CLEANINGS)
def test_a_cleaning_has_the_figures_that_it_has_data_for(name):
    cleaning = example_cleaning(**CLEANINGS[name])
    flags, signal = cleaning.flagged.any(), cleaning.summary["signal"]
    expected = {"probabilities"}
    expected |= {"noise"} if signal else set()
    expected |= {"corrections"} if flags else set()
    expected |= {"learning_curves"} if cleaning.history is not None else set()
    expected |= {"precision_recall"} if cleaning.truth is not None else set()
    expected |= {"contact_sheet"} if cleaning.images is not None and flags else set()
    expected |= {"test_accuracy"} if cleaning.summary["test_accuracy"]["cleaned"] is not None else set()
    assert set(clean_figures(cleaning)) == expected


@pytest.mark.parametrize("flag", [False, True])
def test_figures_of_a_run_that_flags_nothing_or_everything(flag):
    cleaning = example_cleaning()
    cleaning = replace(cleaning, flagged=np.full(len(cleaning.given), flag))
    assert ("contact_sheet" in clean_figures(cleaning)) == flag
    assert clean_page(cleaning, UNDRAWN)


def test_figures_are_drawn_reproducibly_and_change_no_global_setting():
    before = dict(matplotlib.rcParams)
    first, second = (
        clean_figures(example_cleaning(rows=40, classes=[HOSTILE] * 10, learnt=True)) for _ in range(2)
    )
    images = pngs(first)
    assert image_files(first, images) == image_files(second, pngs(second))
    assert dict(matplotlib.rcParams) == before
    # The smallest is a contact sheet of three lines.
    assert all(min(png_size(image)) > 2.5 * figure_module.RESOLUTION for image in images.values())


def test_each_figure_is_written_as_png_and_as_pdf():
    figures = {"one": probability_histogram(np.array([0.1, 0.9]), np.array([False, True]))}
    files = image_files(figures, pngs(figures))
    assert set(files) == {"one.png", "one.pdf"}
    assert files["one.png"].startswith(b"\x89PNG") and files["one.pdf"].startswith(b"%PDF")
    assert b"CreationDate" not in pdf(figures["one"])


@pytest.mark.parametrize("name", ["one channel", "colour", "large colour"])
def test_contact_sheet_of_every_kind_of_image(name):
    assert png(contact_sheet(example_cleaning(**CLEANINGS[name])))


@pytest.mark.parametrize(
    "name", ["7", "a", "class", "trousers", "comp.sys.ibm.pc.hardware", "ankle boot, high"]
)
@pytest.mark.parametrize("truth", [False, True])
def test_no_text_of_a_contact_sheet_lies_over_another(name, truth):
    classes = [f"{name}{label}" if len(name) > 1 else name for label in range(10)]
    cleaning = example_cleaning(classes=classes, truth=truth)
    # Every flag is a false alarm, which adds a cross.
    cleaning = replace(cleaning, truth=cleaning.given if truth else None)
    figure = contact_sheet(cleaning)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) >= 30
    assert not any(a.overlaps(b) for place, a in enumerate(boxes) for b in boxes[:place])


def test_probabilities_of_a_run_whose_truth_is_not_known():
    cleaning = example_cleaning()
    figure = probability_histogram(cleaning.probability, cleaning.flagged, 0.5)
    axes = figure.axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert sorted(label.split(" (")[0] for label in labels) == ["flagged", "flagged above", "kept"]
    (line,) = axes.lines
    assert set(np.asarray(line.get_xdata())) == {0.5}


@pytest.mark.parametrize("rows", [10, 100_000])
def test_a_histogram_shows_the_few_beside_the_many(rows):
    probability = np.r_[np.zeros(rows), 0.99]
    axes = probability_histogram(probability, probability > 0.5, 0.5).axes[0]
    low, high = axes.get_ylim()
    top, bottom, few = axes.transData.transform([(0, high), (0, low), (0, 1)])[:, 1]
    assert (few - bottom) / (top - bottom) > 0.01
    assert axes.get_yscale() == ("log" if rows > 50 else "linear")


@pytest.mark.parametrize("count", [2, 12, 40])
def test_a_noise_matrix_numbers_few_classes_and_draws_the_most_confused_of_many(count):
    noise = np.full((count, count), 0.001)
    np.fill_diagonal(noise, 0.9)
    noise[count - 1, 0] = 0.3
    figure = noise_matrix(noise, [f"a long name of class {label}" for label in range(count)])
    axes = figure.axes[0]
    size = min(count, 30)
    assert np.asarray(axes.images[0].get_array()).shape == (size, size)
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(set(names)) == size and names[-1].endswith(f"{count - 1}")
    numbers = [text.get_text() for text in axes.texts]
    assert ("30" in numbers) == (count <= 12)
    assert png(figure)


def test_names_are_cut_where_they_stay_distinct():
    assert brief_names(["cat", "dog\nhouse"], 9) == ["cat", "dog house"]
    names = brief_names(["talk.politics.guns", "talk.politics.mideast", "talk.politics.misc"], 12)
    assert len(set(names)) == 3 and max(map(len, names)) == 12
    assert brief_names(["a" * 60, "a" * 60, "b"], 10) == ["a" * 9 + "…"] * 2 + ["b"]


def test_pictures_fill_the_range_and_stay_small():
    assert pictures(np.array([[[-1.0, 3.0]]])).tolist() == [[[[0, 0, 0], [255, 255, 255]]]]
    assert pictures(np.zeros((2, 8, 8))).max() == 0
    assert pictures(np.zeros((1, 400, 300, 3))).shape == (1, 80, 60, 3)
    assert pictures(np.full((1, 4, 4), np.nan)).max() == 0


def test_learning_curves_skip_losses_that_are_not_finite():
    history = {
        "step": np.arange(4),
        "outer_loss": np.ones(4),
        "held_out_loss": np.array([2.0, np.nan, 1.0, np.nan]),
        "best_step": 2,
    }
    first, second, chosen = (
        np.asarray(line.get_xdata()).tolist() for line in learning_curves(history).axes[0].lines
    )
    assert first == [0, 1, 2, 3] and second == [0, 2]
    assert chosen == [2, 2]


def test_curves_are_logarithmic_where_values_span_decades():
    records = example_records()
    figure = curves(records, "outer_loss", "step")
    assert isinstance(figure, Figure)
    assert figure.axes[0].get_yscale() == "log" and figure.axes[0].get_xscale() == "linear"
    assert curves(records, "accuracy", "step").axes[0].get_yscale() == "linear"
    for record in records[:3]:
        record["history"]["seconds"] = [20 * seconds for seconds in record["history"]["seconds"]]
    axes = curves(records, "outer_loss", "seconds").axes[0]
    assert axes.get_xscale() == "log"
    # Clipping the point at 0 instead of masking it would draw a flat line from the left edge.
    assert not np.isfinite(axes.xaxis.get_transform().transform([0.0])).any()


def test_a_start_that_a_log_axis_cannot_show_does_not_set_the_heights():
    records = example_records()
    for record in records:
        record["history"]["outer_loss"][0] = 1e9
    for record in records[:3]:
        record["history"]["seconds"] = [20 * seconds for seconds in record["history"]["seconds"]]
    axes = curves(records, "outer_loss", "seconds").axes[0]
    assert axes.get_xscale() == "log" and axes.get_ylim()[1] < 10
    # On a linear axis the start is shown.
    assert curves(records, "outer_loss", "step").axes[0].get_ylim()[1] > 1e9


def test_the_runs_of_an_algorithm_that_diverged_are_drawn_to_their_ends():
    records = example_records(["soba"], seeds=3, diverged=[("soba", 1)])
    records[1]["history"] = {name: values[:4] for name, values in records[1]["history"].items()}
    axes = curves(records, "outer_loss", "step").axes[0]
    assert sorted(np.asarray(line.get_xdata())[-1] for line in axes.lines) == [30, 30, 100, 100]
    assert axes.get_ylim()[0] < np.exp(-5)


def test_the_cross_of_a_diverged_run_stays_inside_the_axes():
    records = example_records(["soba"], seeds=2, diverged=[("soba", 1)])
    records[1]["history"]["outer_loss"] = [1.0, 1.0, 1e9, 1e20, 1e30, *[1e40] * 5]
    axes = curves(records, "outer_loss", "step").axes[0]
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    (x, y) = np.asarray(cross.get_xydata())[0]
    assert x == 20 and axes.get_ylim()[0] <= y <= axes.get_ylim()[1]


def test_curves_of_one_point_and_of_many_algorithms():
    records = example_records(seeds=1)
    for record in records:
        record["history"] = {name: values[:1] for name, values in record["history"].items()}
    for axis in AXES:
        assert png(curves(records, "outer_loss", axis))
    many = example_records([f"algorithm {number}" for number in range(20)], seeds=1)
    assert png(curves(many, "outer_loss", "step"))


def test_a_run_that_diverged_at_once_has_no_line():
    records = example_records(["soba"], seeds=1, diverged=[("soba", 0)])
    records[0]["history"] = {name: [] for name in records[0]["history"]}
    axes = curves(records, "outer_loss", "oracle_calls").axes[0]
    assert not axes.lines and png(curves(records, "outer_loss", "step"))


def test_a_claim_drops_a_start_that_a_log_axis_cannot_show(monkeypatch):
    drawn = []
    monkeypatch.setattr(claim_figures, "png", lambda figure: drawn.append(figure) or PIXEL)
    x, y = np.array([0.0, 1, 10, 100, 1000]), np.array([1e9, 1, 2, 3, 4])
    claim_figures.picture("title", "steps", "loss", [claim_figures.Line("a", x, y)], "caption", log="x")
    claim_figures.picture("title", "steps", "loss", [claim_figures.Line("a", x, y)], "caption", log="")
    hidden, shown = (figure.axes[0].get_ylim()[1] for figure in drawn)
    assert hidden < 10 and shown > 1e8
