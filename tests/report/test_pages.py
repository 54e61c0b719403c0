"""Files, tables and pages of the reports, without a browser."""

import csv
import io
import json
import os

import numpy as np
import pytest

from bilevel.report import (
    check_folder,
    clean_page,
    cleaning_table,
    compare_page,
    strict_json,
    text_table,
    write_cleaning,
    write_comparison,
    write_files,
)
from bilevel.report import figures as figure_module
from bilevel.report.labels import labels_csv, suspects
from cases.reports import (
    CLEANINGS,
    COMPARISON,
    HOSTILE,
    UNDRAWN,
    example_cleaning,
    example_records,
)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Draw figures in low resolution: the same code in less time."""
    monkeypatch.setattr(figure_module, "RESOLUTION", 50)


# Files


def test_files_are_written_into_a_folder_that_did_not_exist(tmp_path):
    paths = write_files(tmp_path / "a" / "b", {"x.txt": "é", "y.bin": b"\0\1"})
    assert [path.read_bytes() for path in paths] == ["é".encode(), b"\0\1"]
    assert sorted(os.listdir(tmp_path / "a" / "b")) == ["x.txt", "y.bin"]


def test_a_failing_write_leaves_the_old_files(tmp_path, monkeypatch):
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


def test_a_file_in_place_of_the_folder_is_a_one_line_error(tmp_path):
    (tmp_path / "taken").write_text("mine")
    for path in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(ValueError, match="must be writable") as caught:
            check_folder(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match="must be writable"):
            write_files(path, {"x": "y"})
    assert (tmp_path / "taken").read_text() == "mine"


def test_checking_a_folder_leaves_nothing_behind(tmp_path):
    assert check_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not list(tmp_path.iterdir())
    (tmp_path / "kept").mkdir()
    check_folder(tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())


# Numbers and labels


def test_json_is_strict_and_accepts_numpy():
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


def test_suspects_are_sorted_by_weight():
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


def test_a_run_without_test_rows_and_truth_has_no_table_of_methods():
    bare = example_cleaning(truth=False, tested=False)
    assert "labels look wrong" in cleaning_table(bare) and "test accuracy" not in cleaning_table(bare)
    figures = {name: UNDRAWN[name] for name in ("weights", "learning_curves")}
    page = clean_page(bare, figures)
    assert "labels look wrong" in page and "Methods compared" not in page


# Pages


@pytest.mark.parametrize("name", CLEANINGS)
def test_page_escapes_names_of_the_user(name):
    options = CLEANINGS[name] | {"source": HOSTILE, "warnings": [HOSTILE], "command": HOSTILE}
    page = clean_page(example_cleaning(**options), UNDRAWN)
    assert page.count("<script") == 1 and page.count("</script") == 1
    assert "&lt;script&gt;" in page


def test_page_of_a_comparison_escapes_names_of_the_user():
    records = example_records([HOSTILE])
    records[0]["diverged"] = records[0]["environment"]["device"] = HOSTILE
    assert compare_page(records, COMPARISON).count("<script") == 1


def test_page_lists_at_most_500_rows():
    page = clean_page(example_cleaning(rows=2000, image_shape=None), UNDRAWN)
    assert page.count('<td class="number name') == 500
    assert "labels.csv lists all" in page


def test_page_gives_the_command_to_run_again():
    assert "bilevel clean digits --weights shared --algorithm soba" in clean_page(example_cleaning(), UNDRAWN)
    command = "bilevel clean my.csv --seed 3"
    assert command in clean_page(example_cleaning(command=command), UNDRAWN)


def test_cleaning_writes_its_files(tmp_path):
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


def test_comparison_writes_its_files(tmp_path):
    records = example_records(diverged=[("soba", 1)])
    paths = write_comparison(records, tmp_path)
    assert {path.stem for path in paths} == {"results", "report", *COMPARISON}
    read = json.loads((tmp_path / "results.json").read_text())
    assert read == records
