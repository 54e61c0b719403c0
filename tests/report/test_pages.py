"""Files, tables and pages of the reports, without a browser."""

import csv
import io
import json
import os
from dataclasses import replace

import numpy as np
import pytest

from bilevel.report import (
    check_folder,
    clean_page,
    cleaning_table,
    compare_page,
    strict_json,
    text_table,
    write_comparison,
    write_files,
)
from bilevel.report import figures as figure_module
from bilevel.report.labels import labels_csv, suspects, to_check_csv
from bilevel.report.next_steps import next_steps
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


def test_suspects_are_sorted_by_probability():
    cleaning = example_cleaning()
    order = suspects(cleaning)
    assert set(order) == set(np.flatnonzero(cleaning.flagged))
    assert (np.diff(cleaning.probability[order]) <= 0).all()


TEXTS = ["=cmd()", "-1", "@x", " dog ", "\tx\r", 'a "quoted", name', "two\nlines", "é", "", "plain"]


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("data", [None, "table", "text", "pandas"])
@pytest.mark.parametrize("trusted", [0, 50])
def test_labels_csv_reads_back_with_every_text_as_it_was(data, trusted):
    cleaning = with_data(data, trusted=trusted, classes=TEXTS)
    rows = read_csv(labels_csv(cleaning))
    names = ["row", *(["id"] if data else []), "given", "probability", "flagged", "suggested"]
    assert list(rows[0]) == [*names, *(["influence"] if trusted else []), "checked"]
    assert [int(row["row"]) for row in rows] == list(range(len(cleaning.given)))
    for name in ("flagged", "checked"):
        assert [row[name] == "true" for row in rows] == getattr(cleaning, name).tolist()
    for name in ("given", "suggested"):
        assert [row[name] for row in rows] == [TEXTS[label] for label in getattr(cleaning, name)]
    # The file holds six significant digits.
    np.testing.assert_allclose([float(row["probability"]) for row in rows], cleaning.probability, rtol=1e-5)
    if data:
        assert rows[7]["id"] == "user-00007"


@pytest.mark.parametrize("data", [None, "table", "text", "pandas"])
def test_rows_to_check_have_their_columns_and_an_empty_one(data):
    cleaning = with_data(data, trusted=0, classes=TEXTS)
    rows = read_csv(to_check_csv(cleaning))
    assert [int(row["row"]) for row in rows] == np.asarray(cleaning.to_check).tolist()
    names = list(rows[0])
    assert names[:4] == ["row", "given", "suggested", "probability"] and names[-1] == "checked_label"
    assert all(row["checked_label"] == "" for row in rows)
    assert [row["given"] for row in rows] == [TEXTS[cleaning.given[int(row["row"])]] for row in rows]
    if data in ("table", "pandas"):
        ages = list(cleaning.columns["age"])
        assert [row["age"] for row in rows] == [str(ages[int(row["row"])]) for row in rows]
        # A column of the data whose name the file needs for itself.
        kinds = list(cleaning.columns["given"])
        assert [row["given (data)"] for row in rows] == [kinds[int(row["row"])] for row in rows]
        missing = [int(row["row"]) % 7 == 0 for row in rows]
        assert [row["income"] == "" for row in rows] == missing


def with_data(data, **options):
    if data == "pandas":
        pytest.importorskip("pandas")
    return example_cleaning(data=data, image_shape=None, **options)


def test_a_text_that_utf8_cannot_encode_is_written():
    cleaning = example_cleaning(classes=["\udcff", "b"])
    assert "?" in labels_csv(cleaning) and labels_csv(cleaning).encode()


def test_a_frame_has_the_columns_of_the_data_and_what_was_found():
    cleaning = example_cleaning(data="table")
    frame = cleaning.to_frame()
    assert frame.columns[:4] == ["id", "age", "income", "given (data)"]
    assert frame.columns[-4:] == ["given", "suggested", "probability", "flagged"]
    assert frame["given"].to_list() == [cleaning.classes[label] for label in cleaning.given]
    assert frame["flagged"].to_list() == cleaning.flagged.tolist()
    assert frame["age"].equals(cleaning.columns["age"])
    assert example_cleaning().to_frame().shape == (240, 4)


def test_a_frame_of_pandas_data_keeps_its_index():
    cleaning = with_data("pandas")
    frame = cleaning.to_frame()
    assert list(frame.index) == list(cleaning.columns.index)
    assert list(frame.columns[-4:]) == ["given", "suggested", "probability", "flagged"]
    assert list(frame["suggested"]) == [cleaning.classes[label] for label in cleaning.suggested]
    assert list(cleaning.columns.columns[:4]) == ["id", "age", "income", "given"]


def test_a_cleaning_describes_itself_in_a_line_and_in_a_notebook():
    cleaning = example_cleaning(classes=[HOSTILE] * 10, data="text", warnings=[HOSTILE])
    assert repr(cleaning) == "<Cleaning: 86 of 240 labels look wrong, 92 expected>"
    html = cleaning._repr_html_()
    assert "86 of 240 labels look wrong" in html and html.count("<table") == 3
    assert "<script" not in html and "&lt;script" in html
    assert html.count("data:image/png") == 1


def test_text_table_aligns():
    assert text_table(["", "f1"], [["cleaned", "0.9"], ["x", "–"]]) == (
        "          f1\n------------\ncleaned  0.9\nx          –"
    )


def test_terminal_and_page_show_the_same_numbers():
    cleaning = example_cleaning()
    for text in (cleaning_table(cleaning), clean_page(cleaning, UNDRAWN)):
        assert f"{cleaning.summary['flagged']}" in text and cleaning.summary["model_reason"] in text
        assert all(number in text for number in ("0.800", "0.930", "0.945", "9.8 s", "few trusted rows"))
        for number in (cleaning.estimates.precision, cleaning.estimates.recall):
            assert f"{number:.3f}" in text


def test_a_run_without_test_rows_and_truth_has_no_table_of_methods():
    bare = example_cleaning(truth=False, tested=False)
    assert "labels look wrong" in cleaning_table(bare) and "test accuracy" not in cleaning_table(bare)
    page = clean_page(bare, {"probabilities": UNDRAWN["probabilities"]})
    assert "labels look wrong" in page and "Methods compared" not in page


# Next steps


def text_of(**options):
    return " ".join(f"{step.text} {step.command}" for step in next_steps(example_cleaning(**options), "out"))


def test_without_trusted_rows_the_first_step_is_to_check_some():
    command = "bilevel clean my.csv --label y"
    first = next_steps(example_cleaning(trusted=0, command=command), "my out")[0]
    assert first.text.startswith("Check the 12 rows of to_check.csv")
    assert first.command == f"{command} --trusted 'my out/to_check.csv'"
    for text in (
        clean_page(example_cleaning(trusted=0), UNDRAWN),
        cleaning_table(example_cleaning(trusted=0)),
    ):
        assert "Check the 12 rows of to_check.csv" in text
    assert "to_check.csv" not in text_of()


def test_steps_depend_on_the_result():
    assert "Review the 86 flagged rows" in text_of() and "Review the flagged row," in text_of(
        threshold=0.9969
    )
    assert "drop the flagged rows: about 91 %" in text_of()
    assert "Do not drop flagged rows unseen: only about" in text_of(threshold=0.01)
    assert "Only about" in text_of(threshold=0.99) and "Only about" not in text_of()
    nothing = text_of(threshold=1.0)
    assert "Review" not in nothing and "about 92 wrong labels are expected" in nothing
    assert "No row can be flagged on these data" in text_of(threshold=1.0, signal=False)
    assert "fewer than 10 trusted rows" in text_of() and "fewer than 10" not in text_of(trusted=100)
    assert "is not better than" in text_of(test_accuracy={"cleaned": 0.7, "as_given": 0.8})
    assert "is not better than" not in text_of()


def test_a_class_whose_right_labels_are_often_flagged_is_named():
    cleaning = example_cleaning()
    quiet = [entry._replace(false_alarms=0.01) for entry in cleaning.estimates.classes]
    loud = [*quiet[:3], quiet[3]._replace(false_alarms=0.17), *quiet[4:]]
    for classes, named in ((quiet, False), (loud, True)):
        changed = replace(cleaning, estimates=cleaning.estimates._replace(classes=classes))
        texts = " ".join(step.text for step in next_steps(changed))
        assert ("flags of class “class 3”" in texts) == named


def test_a_run_without_signal_says_so():
    cleaning = example_cleaning(threshold=1.0, signal=False, no_signal="the scores say nothing")
    assert "the scores say nothing" in clean_page(
        cleaning, UNDRAWN
    ) and "the scores say nothing" in cleaning_table(cleaning)
    assert "carry no signal" not in clean_page(example_cleaning(), UNDRAWN)


# Pages


@pytest.mark.parametrize("name", CLEANINGS)
def test_page_escapes_names_of_the_user(name):
    options = CLEANINGS[name] | {
        "source": HOSTILE, "warnings": [HOSTILE], "command": HOSTILE, "paragraph": HOSTILE,
        "model_reason": HOSTILE,
    }  # fmt: skip
    page = clean_page(example_cleaning(**options), UNDRAWN)
    assert page.count("<script") == 1 and page.count("</script") == 1
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("name", CLEANINGS)
def test_page_shows_expected_numbers_and_true_ones_where_they_are_known(name):
    cleaning = example_cleaning(**CLEANINGS[name])
    page = clean_page(cleaning, UNDRAWN)
    table = page.partition('aria-label="Estimates"')[2].partition("</table>")[0]
    expected = f"{cleaning.estimates.wrong:.0f}</td>"
    assert expected in table and (">true<" in table) == (cleaning.truth is not None)
    if cleaning.truth is not None:
        assert f">{(cleaning.truth != cleaning.given).sum()}</td>" in table
    classes = page.partition('aria-label="Classes"')[2].partition("</table>")[0]
    assert classes.count("<tr>") == 1 + len(cleaning.classes)
    assert ("Review the flagged rows</h2>" in page) == bool(cleaning.flagged.any())
    assert ("Rows to check</h2>" in page) == (cleaning.to_check is not None)


def test_page_of_a_comparison_escapes_names_of_the_user():
    records = example_records([HOSTILE])
    records[0]["diverged"] = records[0]["environment"]["device"] = HOSTILE
    assert compare_page(records, COMPARISON).count("<script") == 1


def test_page_lists_at_most_500_rows():
    page = clean_page(example_cleaning(rows=2000, image_shape=None), UNDRAWN)
    assert page.count("<tr data-row=") == 500
    assert "labels.csv lists all" in page


def test_page_gives_the_command_to_run_again():
    command = "bilevel clean my.csv --seed 3"
    assert command in clean_page(example_cleaning(command=command), UNDRAWN)
    assert "Run it again" not in clean_page(example_cleaning(), UNDRAWN)


@pytest.mark.parametrize("trusted", [0, 50])
def test_cleaning_writes_its_files(trusted, tmp_path):
    cleaning = example_cleaning(rows=60, trusted=trusted, learnt=True)
    paths = cleaning.save(tmp_path)
    figures = (
        "probabilities", "noise", "precision_recall", "test_accuracy", "corrections", "contact_sheet",
        "learning_curves",
    )  # fmt: skip
    names = {"labels.csv", "summary.json", "report.html"} | (set() if trusted else {"to_check.csv"})
    names |= {f"{name}.{kind}" for name in figures for kind in ("png", "pdf")}
    assert {path.name for path in paths} == names == set(os.listdir(tmp_path))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["residual"] is None and summary["rows"] == 60
    assert [entry["name"] for entry in summary["estimates_by_class"]] == cleaning.classes


def test_comparison_writes_its_files(tmp_path):
    records = example_records(diverged=[("soba", 1)])
    paths = write_comparison(records, tmp_path)
    images = {f"{name}.{kind}" for name in COMPARISON for kind in ("png", "pdf")}
    assert {path.name for path in paths} == {"results.json", "report.html", *images}
    read = json.loads((tmp_path / "results.json").read_text())
    assert read == records
