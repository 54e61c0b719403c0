"""Figures of the reports, and the statistics of a comparison that they draw."""

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from bilevel.report import clean_page, compare_page, comparison_table
from bilevel.report import figures as figure_module
from bilevel.report.clean_figures import clean_figures, cut, learning_curves, weight_histogram
from bilevel.report.compare import standings
from bilevel.report.compare_figures import AXES, curves
from bilevel.report.compare_statistics import curve
from bilevel.report.contact_sheet import contact_sheet, pictures
from bilevel.report.figures import png
from bilevel.report.page import png_size
from cases.reports import CLEANINGS, COMPARISON, HOSTILE, PIXEL, UNDRAWN, example_cleaning, example_records


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Draw figures in low resolution: the same code in less time."""
    monkeypatch.setattr(figure_module, "RESOLUTION", 50)


@pytest.fixture
def unrendered(monkeypatch):
    """Make the figures of a cleaning without their PNGs, which take most time."""
    monkeypatch.setattr("bilevel.report.clean_figures.png", lambda figure: PIXEL)


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
def test_a_cleaning_has_the_figures_that_it_has_data_for(name, unrendered):
    cleaning = example_cleaning(**CLEANINGS[name])
    expected = {"learning_curves", "weights", "corrections"}
    expected |= {"precision_recall"} if cleaning.truth is not None else set()
    expected |= {"contact_sheet"} if cleaning.images is not None else set()
    expected |= {"test_accuracy"} if cleaning.summary["test_accuracy"]["cleaned"] is not None else set()
    assert set(clean_figures(cleaning)) == expected


@pytest.mark.parametrize("flag", [False, True])
def test_figures_of_a_run_that_flags_nothing_or_everything(flag, unrendered):
    cleaning = example_cleaning()
    cleaning = cleaning._replace(flagged=np.full(len(cleaning.given), flag))
    assert ("contact_sheet" in clean_figures(cleaning)) == flag
    assert clean_page(cleaning, UNDRAWN)


def test_figures_are_drawn_reproducibly_and_change_no_global_setting():
    before = dict(matplotlib.rcParams)
    first, second = (clean_figures(example_cleaning(rows=40, classes=[HOSTILE] * 10)) for _ in range(2))
    assert first == second
    assert dict(matplotlib.rcParams) == before
    # The smallest is a contact sheet of three lines.
    assert all(min(png_size(image)) > 2.5 * figure_module.RESOLUTION for image in first.values())


@pytest.mark.parametrize("name", ["one channel", "colour", "large colour"])
def test_contact_sheet_of_every_kind_of_image(name):
    assert png(contact_sheet(example_cleaning(**CLEANINGS[name])))


def test_weights_of_a_run_whose_truth_is_not_known():
    cleaning = example_cleaning()
    axes = weight_histogram(cleaning.weights, cleaning.flagged).axes[0]
    assert [label.split(" (")[0] for label in axes.get_legend_handles_labels()[1]] == [
        "flagged below",
        "kept",
        "flagged",
    ]


def test_cut_is_a_weight_that_separates_flagged_from_kept_rows():
    weights = np.array([0.1, 0.2, 0.8, 0.9])
    assert cut(weights, weights < 0.5) == pytest.approx(0.5)
    assert cut(weights, np.array([True, False, True, False])) is None
    assert cut(weights, weights < 2) is None


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
