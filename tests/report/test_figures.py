"""The figures of a report, and the curves and standings of many runs behind them."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from bilevel.report import (
    clean_figures,
    clean_page,
    compare_figures,
    compare_page,
    comparison_table,
)
from bilevel.report import figures as figure_module
from bilevel.report.clean_figures import cut, learning_curves
from bilevel.report.compare_figures import curves
from bilevel.report.figures import png
from bilevel.report.page import png_size
from bilevel.report.runs import curve, last, standings
from bilevel.report.sheet import pictures
from cases.reports import CLEANINGS, example_cleaning, example_records


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Figures of few dots: the same code in less time."""
    monkeypatch.setattr(figure_module, "RESOLUTION", 50)


@pytest.fixture(params=CLEANINGS)
def cleaning(request):
    return example_cleaning(**CLEANINGS[request.param])


# Runs


def test_curve_is_mean_and_range_over_the_seeds_that_ended_well():
    records = example_records(["soba"], seeds=3, diverged=[("soba", 2)])
    line = curve(records, "outer_loss", "oracle_calls")
    assert line is not None
    np.testing.assert_allclose(line.x, 5 * np.arange(0, 101, 10))
    np.testing.assert_allclose(line.mean, 1.5 * np.exp(-np.arange(0, 101, 10) / 20))
    np.testing.assert_allclose(line.high, 2 * line.low)


def test_curve_of_seeds_that_a_budget_cut_at_different_steps():
    records = example_records(["soba"], seeds=2)
    records[1]["history"] = {name: values[:5] for name, values in records[1]["history"].items()}
    line = curve(records, "outer_loss", "seconds")
    assert line is not None and line.x.size == 5


def test_standings_tell_means_deviations_and_diverged_runs():
    records = example_records(["aid_bio", "soba"], seeds=3, diverged=[("soba", 2)])
    table = standings(records)
    titles = [column.title for column in table.columns]
    assert titles == [
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
    assert soba[2].value == pytest.approx(1.5 * np.exp(-5))
    assert [cell.text for cell in aid[-3:]] == ["2.0 s", "500", "1.5 s"]
    assert aid[1].text == "3" and soba[1].text == "3, 1 diverged"
    assert last(records[-1], "outer_loss") is None


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.0231, 0.0262], "0.0246 ± 0.0022"),
        ([1.0, 1.0], "1.0000 ± 0.0000"),
        ([1500.0, 2500.0], "2,000 ± 707"),
        ([1e23, 3e23], "2e+23 ± 1.4e+23"),
        ([1e-9, 3e-9], "2e-09 ± 1.4e-09"),
        ([None, 5.0], "5"),
        ([None, None], "–"),
    ],
)
def test_a_mean_shows_the_digits_that_its_deviation_leaves(values, text):
    records = example_records(["soba"], seeds=2)
    for record, value in zip(records, values, strict=True):
        record["final"]["outer_loss"] = value
    assert standings(records).rows[0][2].text == text


def test_comparison_where_every_run_diverged():
    records = example_records(["soba"], seeds=1, diverged=[("soba", 0)])
    assert "No run ended well" in compare_page(records)
    assert "1, 1 diverged" in comparison_table(records)


# Figures


def test_every_figure_of_a_cleaning_draws(cleaning):
    figures = clean_figures(cleaning)
    expected = {"learning_curves", "weights", "corrections"}
    expected |= {"precision_recall"} if cleaning.truth is not None else set()
    expected |= {"contact_sheet"} if cleaning.images is not None else set()
    expected |= {"test_accuracy"} if cleaning.summary["test_accuracy"] else set()
    assert set(figures) == expected
    # The smallest is a sheet of one line, 7.2 by about 1.5 inches.
    assert all(min(png_size(image)) > 1.2 * figure_module.RESOLUTION for image in figures.values())


@pytest.mark.parametrize("flag", [False, True])
def test_figures_of_a_run_that_flags_nothing_or_everything(flag):
    cleaning = example_cleaning()
    cleaning = cleaning._replace(flagged=np.full(len(cleaning.given), flag))
    assert ("contact_sheet" in clean_figures(cleaning)) == flag
    assert clean_page(cleaning)


def test_histogram_parts_flagged_from_kept_by_one_weight_where_there_is_one():
    weights = np.array([0.1, 0.2, 0.8, 0.9])
    assert cut(weights, weights < 0.5) == pytest.approx(0.5)
    assert cut(weights, np.array([True, False, True, False])) is None
    assert cut(weights, weights < 2) is None


def test_a_figure_leaves_no_setting_behind_and_repeats_itself():
    import matplotlib

    before = dict(matplotlib.rcParams)
    first, second = (clean_figures(example_cleaning()) for _ in range(2))
    assert first == second
    assert dict(matplotlib.rcParams) == before


def test_pictures_fill_the_range_and_stay_small():
    assert pictures(np.array([[[-1.0, 3.0]]])).tolist() == [[[[0, 0, 0], [255, 255, 255]]]]
    assert pictures(np.zeros((2, 8, 8))).max() == 0
    assert pictures(np.zeros((1, 400, 300, 3))).shape == (1, 80, 60, 3)
    assert pictures(np.full((1, 4, 4), np.nan)).max() == 0


def test_learning_curves_skip_what_was_not_measured():
    history = {
        "step": np.arange(4),
        "outer_loss": np.ones(4),
        "held_out_loss": np.array([2.0, np.nan, 1.0, np.nan]),
    }
    first, second = learning_curves(history).axes[0].lines
    assert first.get_xdata().tolist() == [0, 1, 2, 3] and second.get_xdata().tolist() == [0, 2]
    assert png(learning_curves({"step": []}))


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
    # A start at 0 that is clipped and not left out would draw a flat line in from the left edge.
    assert not np.isfinite(axes.xaxis.get_transform().transform([0.0])).any()


def test_the_cross_of_a_diverged_run_stays_in_the_picture():
    records = example_records(["soba"], seeds=2, diverged=[("soba", 1)])
    records[1]["history"]["outer_loss"] = [1.0, 1.0, 1e9, 1e20, 1e30, *[None] * 6]
    axes = curves(records, "outer_loss", "step").axes[0]
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    (x, y) = cross.get_xydata()[0]
    assert x == 20 and axes.get_ylim()[0] <= y <= axes.get_ylim()[1]


def test_curves_of_one_point_of_nothing_and_of_many_algorithms():
    records = example_records(seeds=1)
    for record in records:
        record["history"] = {name: values[:1] for name, values in record["history"].items()}
    assert png(curves(records, "outer_loss", "oracle_calls"))
    assert png(curves(records, "unknown", "step"))
    many = example_records([f"algorithm {number}" for number in range(20)], seeds=1)
    assert png(curves(many, "outer_loss", "step"))
    assert len(compare_figures(records)) == 9
