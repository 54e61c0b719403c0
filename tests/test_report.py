"""Reports without a browser: files stay whole, text stays text, every figure draws, numbers are right."""

import csv
import io
import json
import os

import numpy as np
import pytest
from matplotlib.figure import Figure

from bilevel.report import (
    check_folder,
    clean_figures,
    clean_page,
    cleaning_table,
    compare_figures,
    compare_page,
    comparison_table,
    strict_json,
    text_table,
    write_cleaning,
    write_comparison,
    write_files,
)
from bilevel.report import figures as figure_module
from bilevel.report.clean_figures import cut, learning_curves
from bilevel.report.compare_figures import curves
from bilevel.report.figures import png
from bilevel.report.labels import labels_csv, suspects
from bilevel.report.page import png_size
from bilevel.report.runs import curve, last, standings
from bilevel.report.sheet import pictures
from reports import HOSTILE, PIXEL, UNDRAWN, example_cleaning, example_records

CLEANINGS = {
    "images, truth": {},
    "images, no truth": {"truth": False},
    "one channel": {"image_shape": (8, 8, 1)},
    "colour": {"image_shape": (12, 16, 3)},
    "large colour": {"image_shape": (200, 300, 4), "rows": 20},
    "no images": {"image_shape": None},
    "texts, no truth": {"image_shape": None, "texts": True, "truth": False},
    "hostile names": {"classes": [HOSTILE] * 10},
    "no optional number": {
        "detection": None,
        "test_accuracy": None,
        "baseline_detection": None,
        "warnings": [],
    },
}


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Figures of few dots: the same code in less time."""
    monkeypatch.setattr(figure_module, "RESOLUTION", 50)


@pytest.fixture(params=CLEANINGS)
def cleaning(request):
    return example_cleaning(**CLEANINGS[request.param])


# Files


def test_files_are_written_in_a_folder_that_did_not_exist(tmp_path):
    paths = write_files(tmp_path / "a" / "b", {"x.txt": "é", "y.bin": b"\0\1"})
    assert [path.read_bytes() for path in paths] == ["é".encode(), b"\0\1"]
    assert sorted(os.listdir(tmp_path / "a" / "b")) == ["x.txt", "y.bin"]


def test_a_failing_write_leaves_every_old_file_whole(tmp_path, monkeypatch):
    write_files(tmp_path, {"one": "old one", "two": "old two"})
    calls = []

    def full_disk(descriptor):
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(ValueError, match="No space left on device"):
        write_files(tmp_path, {"one": "new one", "two": "new two"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "one": "old one",
        "two": "old two",
    }


def test_a_folder_that_is_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "taken").write_text("mine")
    for path in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(ValueError, match="must be one that can be written") as caught:
            check_folder(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match="must be one that can be written"):
            write_files(path, {"x": "y"})
    assert (tmp_path / "taken").read_text() == "mine"


def test_checking_a_folder_leaves_no_trace(tmp_path):
    assert check_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not list(tmp_path.iterdir())
    (tmp_path / "kept").mkdir()
    check_folder(tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())


# Numbers and labels


def test_json_is_strict_and_knows_numpy():
    nest = {
        "nan": float("nan"),
        "inf": np.float32("inf"),
        "array": np.array([1.0, np.nan]),
        "one": np.int64(1),
    }
    nest |= {"yes": np.bool_(True), 3: (None, "é"), "scalar": np.array(2.5)}

    def refuse(token):
        raise AssertionError(token)

    read = json.loads(strict_json(nest), parse_constant=refuse)
    assert read == {
        "nan": None,
        "inf": None,
        "array": [1.0, None],
        "one": 1,
        "yes": True,
        "3": [None, "é"],
        "scalar": 2.5,
    }


def test_suspects_begin_with_the_smallest_weight():
    cleaning = example_cleaning()
    order = suspects(cleaning)
    assert set(order) == set(np.flatnonzero(cleaning.flagged))
    assert (np.diff(cleaning.weights[order]) >= 0).all()


def test_labels_csv_reads_back_and_is_safe_in_a_spreadsheet():
    classes = ["=cmd()", "-1", "@x", "+1e3", "\tx", 'a "quoted", name', "two\nlines", "é", "", "plain"]
    cleaning = example_cleaning(classes=classes)
    rows = list(csv.DictReader(io.StringIO(labels_csv(cleaning))))
    assert list(rows[0]) == ["row", "given", "weight", "flagged", "suggested"]
    assert [int(row["row"]) for row in rows] == list(range(len(cleaning.given)))
    assert [row["flagged"] == "true" for row in rows] == cleaning.flagged.tolist()
    # The file holds six significant digits.
    np.testing.assert_allclose([float(row["weight"]) for row in rows], cleaning.weights, rtol=1e-5)
    safe = ["'=cmd()", "-1", "'@x", "+1e3", "'\tx", *classes[5:]]
    assert [row["given"] for row in rows] == [safe[label] for label in cleaning.given]


def test_text_table_aligns():
    assert text_table(["", "f1"], [["cleaned", "0.9"], ["x", "–"]]) == (
        "          f1\n------------\ncleaned  0.9\nx          –"
    )


def test_terminal_and_page_show_the_same_numbers():
    cleaning = example_cleaning()
    for text in (cleaning_table(cleaning), clean_page(cleaning, UNDRAWN)):
        assert f"{cleaning.summary['flagged']}" in text
        assert all(number in text for number in ("0.800", "0.930", "0.945", "9.8 s", "few trusted rows"))
    assert "test accuracy" not in cleaning_table(
        example_cleaning(test_accuracy=None, detection=None, baseline_detection=None)
    )


def test_terminal_of_a_summary_without_any_optional_number():
    bare = example_cleaning()._replace(summary={})
    assert "labels look wrong" in cleaning_table(bare)
    assert "labels look wrong" in clean_page(bare, UNDRAWN)


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


# Pages


def test_page_escapes_what_users_name(cleaning):
    page = clean_page(
        cleaning._replace(summary=cleaning.summary | {"source": HOSTILE, "warnings": [HOSTILE]})
    )
    assert page.count("<script") == 1 and page.count("</script") == 1
    assert "&lt;script&gt;" in page


def test_page_of_hostile_records():
    records = example_records([HOSTILE])
    records[0]["diverged"] = records[0]["environment"]["device"] = HOSTILE
    figures = dict.fromkeys(compare_figures(records[:1]), PIXEL)
    assert compare_page(records, figures).count("<script") == 1


def test_page_lists_at_most_500_rows_and_says_so():
    page = clean_page(example_cleaning(rows=2000, image_shape=None), UNDRAWN)
    assert page.count('<td class="number name') == 500
    assert "labels.csv holds all" in page


def test_page_gives_the_command_to_run_again():
    assert "bilevel clean digits --weights shared --algorithm soba" in clean_page(example_cleaning(), UNDRAWN)
    assert "bilevel clean my.csv --seed 3" in clean_page(
        example_cleaning(command="bilevel clean my.csv --seed 3")
    )


def test_cleaning_is_written_whole(tmp_path):
    paths = write_cleaning(example_cleaning(), tmp_path)
    assert {path.name for path in paths} == {
        "labels.csv",
        "summary.json",
        "report.html",
        "learning_curves.png",
        "weights.png",
        "precision_recall.png",
        "test_accuracy.png",
        "corrections.png",
        "contact_sheet.png",
    }
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["linear_residual"] is None and summary["rows"] == 240


def test_comparison_is_written_whole(tmp_path):
    records = example_records(diverged=[("soba", 1)])
    paths = write_comparison(records, tmp_path)
    assert {"results.json", "report.html", "outer_loss_by_step.png"} <= {path.name for path in paths}
    read = json.loads((tmp_path / "results.json").read_text())
    assert len(read) == len(records) and read[4]["history"]["outer_loss"][-1] is None
    # What was read back says the same: None stands for a number that was not finite.
    assert comparison_table(read) == comparison_table(records)
    assert png(curves(read, "outer_loss", "step"))
