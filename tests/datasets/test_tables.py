"""Tables of the user: what is read from them, what is noted, and one clear line for each fault."""

import bz2
import datetime
import gzip
import io
import json
import lzma
import uuid
import zipfile
from typing import Any

import numpy as np
import polars
import pytest
import scipy.sparse

from bilevel.datasets import DataNotFoundError, read_file

RANDOM = np.random.default_rng(0)
ROWS = 40
SIZE = np.round(RANDOM.normal(170, 10, ROWS), 2)
PLAIN = {
    "size": SIZE.tolist(),
    "old": (["True", "False"] * ROWS)[:ROWS],
    "colour": RANDOM.choice(["rot", "grün", "blau"], ROWS).tolist(),
}
KIND = RANDOM.choice(["Hund", "Kätzchen"], ROWS).tolist()
TABLE = PLAIN | {"kind": KIND}


def cells(columns, separator=",", comma=False):
    """Return a text table."""
    rows = [list(columns), *zip(*columns.values(), strict=True)]

    def text(value):
        value = "" if value is None else str(value)
        value = value.replace(".", ",") if comma else value
        return f'"{value}"' if separator in value else value

    return "\r\n".join(separator.join(map(text, row)) for row in rows) + "\r\n"


def csv(path, columns, separator=",", comma=False, encoding="utf-8"):
    path.write_bytes(cells(columns, separator, comma).encode(encoding))
    return path


def read(path, **options) -> Any:
    return read_file(path, **({"label": "kind"} | options))


def says(message, path, **options):
    with pytest.raises(ValueError, match=message) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)


def json_rows(columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("rows.csv", content)
    return buffer.getvalue()


def parquet(columns):
    buffer = io.BytesIO()
    polars.DataFrame(columns).write_parquet(buffer)
    return buffer.getvalue()


PLAIN_TEXT = cells(TABLE).encode()
FORMATS = {
    "rows.csv": PLAIN_TEXT,
    "rows.tsv": cells(TABLE, "\t").encode(),
    "rows.txt": cells(TABLE, "\t").encode(),
    "rows.CSV": PLAIN_TEXT,
    "rows.csv.gz": gzip.compress(PLAIN_TEXT),
    "rows.tsv.gz": gzip.compress(cells(TABLE, "\t").encode()),
    "rows.csv.bz2": bz2.compress(PLAIN_TEXT),
    "rows.csv.xz": lzma.compress(PLAIN_TEXT),
    "rows.csv.zip": zipped(PLAIN_TEXT),
    "rows.jsonl": "\n".join(map(json.dumps, json_rows(TABLE))).encode(),
    "rows.ndjson": "\n".join(json.dumps(row, ensure_ascii=False) for row in json_rows(TABLE)).encode(),
    "rows.jsonl.gz": gzip.compress("\n".join(map(json.dumps, json_rows(TABLE))).encode()),
    "rows.json": json.dumps(json_rows(TABLE)).encode(),
    "rows.parquet": parquet(TABLE),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return read(csv(tmp_path_factory.mktemp("plain") / "rows.csv", TABLE))


def same(data, expected):
    assert data.name == "rows" and data.classes == ["Hund", "Kätzchen"]
    assert data.labels.tolist() == expected.labels.tolist()
    np.testing.assert_allclose(data.features, expected.features, rtol=1e-6)
    assert data.features.dtype == np.float32 and data.rows is None
    assert data.shown.columns == ["size", "old", "colour"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(tmp_path, expected, name):
    (tmp_path / name).write_bytes(FORMATS[name])
    data = read(tmp_path / name)
    same(data, expected)
    assert data.labels.tolist() == [["Hund", "Kätzchen"].index(kind) for kind in KIND]
    # size, two values of old, three colours
    assert data.features.shape == (ROWS, 6)
    assert data.notes == (("the separator tab was detected; --sep decides otherwise",) * (name == "rows.txt"))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize("comma", [False, True])
def test_separator_encoding_and_decimal_comma_are_detected(tmp_path, expected, separator, encoding, comma):
    data = read(csv(tmp_path / "rows.csv", TABLE, separator, comma, encoding))
    same(data, expected)
    notes = "\n".join(data.notes)
    assert ("separator" in notes) == (separator != ",")
    assert ("encoding" in notes) == (not encoding.startswith("utf-8"))
    assert ("decimal commas were read in 'size'" in notes) == comma
    assert len(data.notes) == (separator != ",") + (not encoding.startswith("utf-8")) + comma
    # The cells that are shown keep their text.
    assert data.shown["size"][0] == (f"{SIZE[0]}".replace(".", ",") if comma else f"{SIZE[0]}")


@pytest.mark.parametrize("sep", [";", "tab", "^"])
def test_separator_and_encoding_can_be_decided(tmp_path, expected, sep):
    path = csv(tmp_path / "rows.csv", TABLE, "\t" if sep == "tab" else sep, encoding="latin-1")
    data = read(path, sep=sep, encoding="latin-1")
    same(data, expected)
    assert data.notes == ()
    says("cannot be read as utf-8 .*leave out --encoding", path, encoding="utf-8")
    says("unknown encoding 'utf-99'; use", path, encoding="utf-99")
    says("must be one ASCII character or tab, got '::'", path, sep="::")


NUMBERS = {
    "thousands point": (["1.234,5", "12.000,25", "3,5", "-7"], [1234.5, 12000.25, 3.5, -7]),
    "thousands comma": (["1,234.5", "12,000.25", "3.5", "-7"], [1234.5, 12000.25, 3.5, -7]),
    "thousands blank": (["1 234,5", "12\u00a0000,25", "3,5", "-7"], [1234.5, 12000.25, 3.5, -7]),
    "thousands apostrophe": (["1'234.5", "12'000.25", "3.5", "-7"], [1234.5, 12000.25, 3.5, -7]),
    "percent": (["12.5%", "3 %", "100%", "0.5%"], [12.5, 3, 100, 0.5]),
    "money": (["$1,200.50", "€3", "7 €", "8"], [1200.5, 3, 7, 8]),
    "exponents": (["1e3", "2.5E-1", "+3", ".5"], [1000, 0.25, 3, 0.5]),
    "blanks": ([" 1", "2 ", " 3 ", "4"], [1, 2, 3, 4]),
}


@pytest.mark.parametrize("case", NUMBERS)
@pytest.mark.parametrize("separator", [",", ";"])
def test_numbers_are_read_as_they_are_written(tmp_path, case, separator):
    texts, numbers = NUMBERS[case]
    columns: dict = {"kind": (["a", "b"] * ROWS)[:ROWS], "x": (texts * ROWS)[:ROWS]}
    data = read(csv(tmp_path / "a.csv", columns, separator))
    plain = read(csv(tmp_path / "b.csv", columns | {"x": (numbers * ROWS)[:ROWS]}))
    np.testing.assert_allclose(data.features, plain.features)


@pytest.mark.parametrize(
    "marker",
    ["", "NA", "N/A", "#N/A", "nan", "NaN", "null", "NULL", "None", "?", "-", "--", " ", " ? ", "<NA>"],
)
@pytest.mark.parametrize("separator", [",", ";"])
def test_markers_among_numbers_are_missing_values(tmp_path, marker, separator):
    sizes: list = list(PLAIN["size"])
    for row in (3, 5):
        sizes[row] = marker
    data = read(csv(tmp_path / "rows.csv", TABLE | {"size": sizes}, separator))
    assert data.features.shape == (ROWS, 7)  # one indicator more
    indicator = data.features[:, -1]
    assert np.flatnonzero(indicator).tolist() == [3, 5] and set(indicator) == {0, 1}
    assert data.features[3, 0] == data.features[5, 0] == 0  # the median
    assert any(
        "2 missing values imputed, with an indicator for each column: 'size' (2)" in note
        for note in data.notes
    )


def test_markers_can_be_set(tmp_path):
    sizes: list = list(PLAIN["size"])
    sizes[3], sizes[5] = "-999", "k. A."
    path = csv(tmp_path / "rows.csv", TABLE | {"size": sizes, "kind": ["NA", "none"] * (ROWS // 2)})
    data = read(path, missing=["-999", "k. A."])
    assert np.flatnonzero(data.features[:, -1]).tolist() == [3, 5]
    assert data.classes == ["NA", "none"]  # only the named markers are missing values
    numbers = polars.DataFrame({"x": [1.5, -999, 2.5, 3.5] * 5, "kind": ["a", "b"] * 10})
    numbers.write_parquet(tmp_path / "rows.parquet")
    data = read(tmp_path / "rows.parquet", missing="-999")
    assert data.features[:4, -1].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("word", ["Infinity", "-inf", "∞", "inf", "-Infinity"])
def test_infinite_values_among_numbers_are_clipped(tmp_path, word):
    sizes: list = list(PLAIN["size"])
    sizes[3] = word
    data = read(csv(tmp_path / "rows.csv", TABLE | {"size": sizes}))
    assert data.features.shape == (ROWS, 6)
    assert data.features[3, 0] == (-6 if word.startswith("-") else 6)
    assert any(
        "1 infinite value taken as the largest or smallest value: 'size'" in note for note in data.notes
    )


def test_one_row_of_999999_does_not_harm_the_others(tmp_path):
    columns: dict = {f"x{k}": RANDOM.normal(size=ROWS).tolist() for k in range(4)} | {
        "few": RANDOM.choice([0, 0, 0, 1, 2], ROWS).tolist()  # the quartiles are equal
    }
    plain = read(csv(tmp_path / "a.csv", columns | {"kind": KIND}))
    for name in columns:
        columns[name][7] = 999999
    data = read(csv(tmp_path / "b.csv", columns | {"kind": KIND}))
    assert np.abs(data.features).max() <= 6
    others = np.arange(ROWS) != 7
    np.testing.assert_allclose(data.features[others], plain.features[others], atol=0.2)
    assert [
        note for note in data.notes if "extreme values in most columns of 1 row (7, counted from 0)" in note
    ]


def test_a_marker_that_repeats_is_named(tmp_path):
    columns = TABLE | {"size": [-9999 if row % 8 == 0 else SIZE[row] for row in range(ROWS)]}
    data = read(csv(tmp_path / "rows.csv", columns))
    assert any(
        "-9999 in 'size' (5 rows); if they stand for missing values, name them" in n for n in data.notes
    )


TEXT_LABELS = [
    ["007", "008"],
    ["1.0", "2.0"],
    ["True", "False"],
    ["none", "some"],
    ["+", "-"],
    ["1e5", "2e5"],
    ["2021-01-01", "2022-01-01"],
    ["a, b", 'say "c"'],
    ["猫", "犬"],
]


@pytest.mark.parametrize("labels", TEXT_LABELS, ids=lambda labels: labels[0])
def test_labels_keep_their_text(tmp_path, labels):
    kinds = (labels * ROWS)[:ROWS]
    path = tmp_path / "rows.csv"
    polars.DataFrame(PLAIN | {"kind": kinds}).write_csv(path)
    data = read(path)
    assert sorted(data.classes) == sorted(labels) and data.notes == ()
    assert [data.classes[label] for label in data.labels] == kinds


def test_numbers_of_classes_are_sorted_as_numbers(tmp_path):
    assert read(csv(tmp_path / "rows.csv", PLAIN | {"kind": [10, 9] * 20})).classes == ["9", "10"]


@pytest.mark.parametrize(
    "variant", ["Kätzchen ", " Kätzchen", "Kätzchen\u00a0", "Ka\u0308tzchen", " Ka\u0308tzchen "]
)
def test_labels_that_look_alike_are_one_class(tmp_path, expected, variant):
    row = KIND.index("Kätzchen")
    kinds = [*KIND[:row], variant, *KIND[row + 1 :]]
    data = read(csv(tmp_path / "rows.csv", PLAIN | {"kind": kinds}))
    same(data, expected)
    assert any("1 label had " in note and note.endswith("became 'Kätzchen'") for note in data.notes)


def test_labels_that_differ_in_case_stay_apart_with_a_note(tmp_path):
    data = read(csv(tmp_path / "rows.csv", PLAIN | {"kind": ["dog", "Dog", "cat", "cat"] * 10}))
    assert data.classes == ["Dog", "cat", "dog"]
    assert data.notes == (
        "the classes 'Dog', 'dog' differ only in case or blanks and stay apart; "
        "write them alike if they are one class",
    )


@pytest.mark.parametrize("marker", ["", " ", "NA", "nan", "?", "NULL"])
def test_rows_without_a_label_are_left_out_and_positions_stay(tmp_path, marker):
    kinds = [*KIND[:2], marker, *KIND[3:]]
    data = read(csv(tmp_path / "rows.csv", PLAIN | {"kind": kinds}))
    assert data.rows.tolist() == [0, 1, *range(3, ROWS)]
    assert len(data.labels) == len(data.features) == data.shown.height == ROWS - 1
    assert data.shown["size"].to_list() == [str(SIZE[row]) for row in data.rows]
    assert data.notes == ("1 training row without a label left out",)


INDICES = {
    "": range(ROWS),
    "Unnamed: 0": range(ROWS),
    "index": RANDOM.permutation(1000)[:ROWS].tolist(),
    "nothing": range(ROWS),
    "from one": range(1, ROWS + 1),
    "shuffled": RANDOM.permutation(ROWS).tolist(),
    "__index_level_0__": range(5, ROWS + 5),
}


@pytest.mark.parametrize("name", INDICES)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_that_number_the_rows_are_left_out(tmp_path, expected, name, suffix):
    path = tmp_path / f"rows{suffix}"
    columns = {name: list(INDICES[name])} | TABLE
    csv(path, columns) if suffix == ".csv" else path.write_bytes(parquet(columns))
    data = read(path)
    shown = name or "Unnamed: 0" if suffix == ".csv" else name
    np.testing.assert_allclose(data.features, expected.features, rtol=1e-6)
    assert data.notes == (f"left out as numbers of the rows: {shown!r}",)
    assert data.shown.columns[0] == shown and len(data.shown) == ROWS


IDS = {
    "token": [str(uuid.UUID(int=row * 12345678901234567890)) for row in range(ROWS)],
    "id": RANDOM.permutation(100000)[:ROWS].tolist(),
    "customer_id": RANDOM.permutation(100000)[:ROWS].tolist(),
    "userId": [f"{RANDOM.integers(10**9)}x" for _ in range(ROWS)],
    "mail": [f"person{row}@example.org" for row in range(ROWS)],
    "order": [f"A-{row + 1000}" for row in range(ROWS)],
    "Kundennummer": RANDOM.permutation(100000)[:ROWS].tolist(),
}


@pytest.mark.parametrize("name", IDS)
def test_ids_are_left_out(tmp_path, expected, name):
    data = read(csv(tmp_path / "rows.csv", {name: IDS[name]} | TABLE))
    np.testing.assert_allclose(data.features, expected.features)
    assert data.notes == (f"left out as ids: {name!r}",)
    assert data.shown[name].to_list() == list(map(str, IDS[name]))


def test_the_key_can_be_named_and_columns_dropped(tmp_path, expected):
    columns = {"who": ["x", "y"] * (ROWS // 2), "more": SIZE.tolist(), "noise": SIZE.tolist()} | TABLE
    path = csv(tmp_path / "rows.csv", columns)
    data = read(path, id="who", drop=["more", "noise"])
    np.testing.assert_allclose(data.features, expected.features)
    assert data.shown.columns == ["who", "size", "old", "colour"] and data.notes == ()
    says("unknown column 'whom'; did you mean 'who'", path, id="whom")
    says("unknown column 'moer'; did you mean 'more'", path, drop="moer")
    says("the labels 'kind' can be neither key nor left out", path, drop="kind")


def test_the_only_column_stays_a_feature(tmp_path):
    data = read(csv(tmp_path / "rows.csv", {"order": IDS["order"], "kind": KIND}))
    assert data.features.shape[0] == ROWS and data.features.shape[1] > 1


@pytest.mark.parametrize(
    "pattern",
    [
        "%Y-%m-%d",
        "%d.%m.%Y",
        "%d/%m/%Y",
        "%m/%d/%Y",
        "%Y/%m/%d",
        "%d.%m.%y",
        "%d %b %Y",
        "%B %d, %Y",
        "%Y-%m-%d %H:%M",
        "%Y-%m-%dT%H:%M:%S",
        "%Y-%m-%dT%H:%M:%SZ",
        "%Y-%m-%d %H:%M:%S+01:00",
        "%d.%m.%Y %H:%M:%S",
        "%m/%d/%Y %I:%M %p",
    ],
)
def test_dates_become_their_parts(tmp_path, pattern):
    first = datetime.datetime(2019, 1, 5, 1)
    dates = [first + datetime.timedelta(days=int(day)) for day in RANDOM.permutation(900)[:ROWS]]
    columns: dict = {"day": [date.strftime(pattern) for date in dates], "kind": KIND}
    columns["day"][4] = None
    data = read(csv(tmp_path / "rows.csv", columns))
    # Year, month, day, weekday, seconds, and the indicator; the hour is the same in all rows.
    assert data.features.shape == (ROWS, 6)
    years = np.array([date.year for date in dates])
    known = np.arange(ROWS) != 4
    assert np.corrcoef(data.features[known, 0], years[known])[0, 1] > 0.99
    assert np.flatnonzero(data.features[:, -1]).tolist() == [4]
    assert data.shown["day"].to_list() == columns["day"]  # the text as in the file


def test_dates_of_a_typed_table(tmp_path):
    days = [datetime.date(2019, 1, 5) + datetime.timedelta(days=37 * row) for row in range(ROWS)]
    frame = polars.DataFrame(TABLE).with_columns(
        day=polars.Series(days),
        time=polars.Series(days).cast(polars.Datetime("ms", "UTC")),
        held=polars.duration(days=1),
    )
    frame.write_parquet(tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet").features.shape[1] == 6 + 2 * 5


def test_dates_in_two_possible_orders_are_noted(tmp_path):
    columns = {"day": [f"{1 + row % 9:02d}/{1 + row // 9:02d}/2020" for row in range(ROWS)], "kind": KIND}
    data = read(csv(tmp_path / "rows.csv", columns))
    assert "read as month/day/year, which could be another order: 'day'" in data.notes


WORDS = "the cat sat on a mat and saw some dogs run far away from its old warm red house by sea".split()


def prose(rows, low, high):
    return [" ".join(RANDOM.choice(WORDS, RANDOM.integers(low, high))) for _ in range(rows)]


def test_free_text_becomes_tf_idf_columns_where_it_dominates(tmp_path):
    rows = 60
    columns = {
        "text": prose(rows, 8, 15),
        "stars": RANDOM.integers(1, 6, rows).tolist(),
        "kind": ["a", "b"] * 30,
    }
    data = read(csv(tmp_path / "rows.csv", columns))
    assert scipy.sparse.issparse(data.features) and data.features.dtype == np.float32
    assert 20 < data.features.shape[1] <= len(WORDS) + 1
    assert data.notes == ("free text, used by the tf-idf of its words: 'text'",)
    assert data.shown["text"].to_list() == columns["text"]
    other = read(csv(tmp_path / "other.csv", columns), trusted=csv(tmp_path / "t.csv", columns))
    assert (other.trusted_features != other.features).nnz == 0


@pytest.mark.parametrize("words", [(1, 2), (2, 3), (3, 6), (5, 9)])
def test_text_among_other_columns_is_dense(tmp_path, words):
    rows = 80
    kinds = ["a", "b"] * (rows // 2)
    columns: dict = {f"x{k}": RANDOM.normal(size=rows).tolist() for k in range(5)}
    columns["remark"] = [
        f"{'good' if kind == 'a' else 'bad'}{row} {text}"
        for row, (kind, text) in enumerate(zip(kinds, prose(rows, *words), strict=True))
    ]
    data = read(csv(tmp_path / "rows.csv", columns | {"kind": kinds}))
    assert isinstance(data.features, np.ndarray) and data.features.shape == (rows, 35)
    assert data.notes == ("text of more than 40 values, used by its letters: 'remark'",)
    assert data.shown["remark"].to_list() == columns["remark"]
    # The text tells the classes apart.
    vectors = data.features[:, 5:]
    centres = [vectors[data.labels == label].mean(axis=0) for label in (0, 1)]
    nearest = [np.linalg.norm(vectors - centre, axis=1) for centre in centres]
    assert np.mean((nearest[1] < nearest[0]) == data.labels) > 0.9


def test_codes_with_leading_zeros_are_text(tmp_path):
    codes = [f"0{number}" for number in RANDOM.integers(1000, 1003, ROWS)]
    data = read(csv(tmp_path / "rows.csv", {"zip": codes, "kind": KIND}))
    assert data.features.shape == (ROWS, len(set(codes))) and data.shown["zip"].to_list() == codes


def test_a_missing_category_is_a_value_of_its_own(tmp_path):
    data = read(csv(tmp_path / "rows.csv", {"colour": ["red", "", "blue", "red"] * 10, "kind": KIND}))
    assert data.features.shape == (ROWS, 3)
    assert np.flatnonzero(data.features[:, 2] > 0).tolist() == list(range(1, ROWS, 4))


@pytest.mark.parametrize("part", ["trusted", "test"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl"])
def test_other_tables_are_matched_by_column_name(tmp_path, part, suffix):
    names = ["kind", "colour", "more", "size", "old"]
    columns = {name: (TABLE | {"more": KIND})[name][::-1] for name in names}
    other = tmp_path / f"other{suffix}"
    if suffix == ".parquet":
        other.write_bytes(parquet(columns))
    elif suffix == ".jsonl":
        other.write_text("\n".join(map(json.dumps, json_rows(columns))))
    else:
        csv(other, columns, "\t" if suffix == ".tsv" else ",")
    data = read(csv(tmp_path / "rows.csv", TABLE), **{part: other})
    features, labels = (getattr(data, f"{part}_{what}") for what in ("features", "labels"))
    np.testing.assert_array_equal(features, data.features[::-1])
    np.testing.assert_array_equal(labels, data.labels[::-1])
    assert data.checked_rows is None
    assert data.notes == (f"{part}: columns that the training rows lack were ignored: 'more'",)


def test_unusual_cells_of_other_tables_are_noted(tmp_path):
    other = {name: list(column[:12]) for name, column in TABLE.items()}
    other["colour"][0], other["size"][1], other["kind"][2] = "gelb", "tall", ""
    data = read(csv(tmp_path / "rows.csv", TABLE), test=csv(tmp_path / "test.csv", other))
    assert len(data.test_labels) == 11 and np.isfinite(data.test_features).all()
    assert data.notes == (
        "1 test row without a label left out",
        "test: read as missing values: 'tall' in 'size'",
        "test: 1 row with values of 'colour' that no training row has: 'gelb'",
    )


@pytest.mark.parametrize("separator, encoding", [(",", "utf-8"), (";", "cp1252"), ("\t", "utf-16")])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_checked_labels_become_trusted_rows(tmp_path, suffix, separator, encoding):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(FORMATS[path.name])
    other = {"Hund": "Kätzchen", "Kätzchen": "Hund"}
    checks: dict = {
        "row": [9, 2, 30, 4],
        "given": [KIND[row] for row in (9, 2, 30, 4)],
        "suggested": ["Hund"] * 4,
    }
    checks["checked_label"] = [KIND[9], f" {other[KIND[2]]}", None, " "]
    data = read(path, trusted=csv(tmp_path / "to_check.csv", checks, separator, encoding=encoding))
    assert data.checked_rows.tolist() == [2, 9]
    assert [data.classes[label] for label in data.trusted_labels] == [other[KIND[2]], KIND[9]]
    np.testing.assert_array_equal(data.trusted_features, data.features[[2, 9]])
    assert [data.classes[label] for label in data.labels] == KIND


def test_checked_rows_are_positions_in_the_file(tmp_path):
    kinds = [*KIND[:2], "", *KIND[3:]]
    path = csv(tmp_path / "rows.csv", PLAIN | {"kind": kinds})
    checks = csv(tmp_path / "to_check.csv", {"row": [2, 3, 1], "checked_label": ["Hund", "Hund", "Kätzchen"]})
    data = read(path, trusted=checks)
    assert data.rows[data.checked_rows].tolist() == [1, 3]
    assert [data.classes[label] for label in data.trusted_labels] == ["Kätzchen", "Hund"]
    assert "1 checked row without a label in the data left out" in data.notes


@pytest.mark.parametrize(
    "labels, written",
    [
        (["007", "008"], ["7", "8"]),
        (["1.0", "2.0"], ["1", "2"]),
        (["True", "False"], ["TRUE", "FALSE"]),
        (["+", "-"], ["'+", "'-"]),
        (["=a", "@b"], ["'=a", "'@b"]),
    ],
)
def test_checked_labels_that_a_spreadsheet_rewrote_are_found(tmp_path, labels, written):
    path = csv(tmp_path / "rows.csv", PLAIN | {"kind": labels * (ROWS // 2)})
    checks = {"row": [0, 1], "given": written, "checked_label": written[::-1]}
    data = read(path, trusted=csv(tmp_path / "to_check.csv", checks))
    assert [data.classes[label] for label in data.trusted_labels] == labels[::-1]
    trusted = csv(tmp_path / "trusted.csv", PLAIN | {"kind": written * (ROWS // 2)})
    data = read(path, trusted=trusted)
    assert data.trusted_labels.tolist() == data.labels.tolist()
    assert f"trusted label {written[0]!r} is read as the class {labels[0]!r}" in "; ".join(data.notes)


CHECKS = {
    "no row": ({"rwo": [1], "checked_label": ["Hund"]}, "column 'row' is missing; did you mean 'rwo'"),
    "none": ({"row": [1], "checked_label": [""]}, "no row has a checked_label; write the right label"),
    "class": (
        {"row": [1], "checked_label": ["Hnud"]},
        "checked label 'Hnud' is not a class of the training rows; did you mean 'Hund'",
    ),
    "beyond": (
        {"row": [40], "checked_label": ["Hund"]},
        "must be between 0 and 39, the rows of the data, got 40",
    ),
    "negative": ({"row": [-1], "checked_label": ["Hund"]}, "must be a position in the data from 0, got '-1'"),
    "text": ({"row": ["one"], "checked_label": ["Hund"]}, "must be a position in the data from 0, got 'one'"),
    "twice": ({"row": [1, 1], "checked_label": ["Hund", "Kätzchen"]}, "row 1 has two checked labels; keep"),
    "other data": (
        {"row": [1], "given": ["Maus"], "checked_label": ["Hund"]},
        "belongs to other data: row 1 has the given label 'Maus', and the data have",
    ),
}


@pytest.mark.parametrize("case", CHECKS)
def test_wrong_checks_are_refused_in_one_line(tmp_path, case):
    checks, message = CHECKS[case]
    says(message, csv(tmp_path / "rows.csv", TABLE), trusted=csv(tmp_path / "to_check.csv", checks))


BAD_TABLES = {
    "no label": (TABLE, {"label": None}, r"got none; give one \(--label COLUMN\) of size, old, colour, kind"),
    "label": (TABLE, {"label": "kimd"}, "unknown column 'kimd'; did you mean 'kind'?"),
    "label in blanks": (
        {f" {name}": column for name, column in TABLE.items()},
        {"label": "knd"},
        "mean 'kind'",
    ),
    "no header": (
        {"1.5": SIZE.tolist(), "-2": SIZE.tolist(), "red": KIND},
        {},
        "unknown column 'kind'; the first line must name the columns; known: 1.5, -2, red",
    ),
    "labels alone": (
        {"kind": KIND},
        {},
        "needs columns of features that vary, got none beside the labels and",
    ),
    "constant": ({"x": [1] * ROWS, "kind": KIND}, {}, "needs columns of features that vary"),
    "one class": (
        TABLE | {"kind": ["a"] * ROWS},
        {},
        "training labels must have at least 2 classes, got only 'a'",
    ),
    "no labels": (
        TABLE | {"kind": [""] * ROWS},
        {},
        "training labels must have at least 2 classes, got none",
    ),
    "measurements": (
        TABLE | {"kind": SIZE.tolist()},
        {},
        r"training labels must be classes, got \d+ numbers such as 1\d\d\.\d+; replace measure",
    ),
    "ids as labels": (
        TABLE | {"kind": IDS["mail"]},
        {},
        "must be classes of several rows, got 40 labels that all",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_is_refused_in_one_line(tmp_path, case):
    columns, options, message = BAD_TABLES[case]
    says(message, csv(tmp_path / "rows.csv", columns), **options)


BAD_OTHERS = {
    "missing column": (
        {"sizes": PLAIN["size"], "old": PLAIN["old"], "colour": PLAIN["colour"], "kind": KIND},
        "trusted: column 'size' of rows.csv is missing; did you mean 'sizes'?",
    ),
    "no label": (PLAIN, "other.csv: unknown column 'kind'"),
    "new class": (
        TABLE | {"kind": ["Hund", "Katzchen"] * 20},
        "'Katzchen' is not a class .*did you mean 'Kätzchen'",
    ),
    "no labels": (TABLE | {"kind": [""] * ROWS}, "trusted rows have no labels; fill in the column of labels"),
}


@pytest.mark.parametrize("case", BAD_OTHERS)
def test_a_bad_second_table_is_refused_in_one_line(tmp_path, case):
    columns, message = BAD_OTHERS[case]
    says(message, csv(tmp_path / "rows.csv", TABLE), trusted=csv(tmp_path / "other.csv", columns))


BAD_FILES = {
    "empty.csv": (b"", "empty.csv is empty; write the table again"),
    "blank.csv": (b"\n\n  \n", "blank.csv is empty"),
    "bom.csv": (b"\xef\xbb\xbf", "bom.csv is empty"),
    "header.csv": (b"size,kind\n", "header.csv has no rows below its header; add rows"),
    "header.csv.gz": (gzip.compress(b"size,kind"), "header.csv.gz has no rows below its header"),
    "empty.json": (b"[]", "empty.json has no rows"),
    "long.csv": (
        b"size,kind\n1,a\n2,b\n3,a,4\n4,b\n",
        r"must have the 2 cells of the header, got 3 in row 2 \(line 4\); quote cells that hold ',', or",
    ),
    "short.csv": (b"size,x,kind\n1,2,a\n\n2,b\n", r"the 3 cells of the header, got 2 in row 1 \(line 4\)"),
    "quoted.csv": (
        b'size,x,kind\n1,"two\nlines",a\n1,"a, b",a\n2,b\n',
        r"the 3 cells of the header, got 2 in row 2 \(line 5\)",
    ),
    "twice.csv": (
        b"size,size,kind\n1,2,a\n",
        "columns must have different names, got 'size' 2 times; rename",
    ),
    "junk.csv": (bytes(range(256)) * 20, "junk.csv must hold text, got binary data"),
    "random.csv": (
        np.random.default_rng(1).bytes(5000).replace(b"\0", b"\1"),
        "random.csv must hold text, got bin",
    ),
    "excel.csv": (
        zipped(b"a"),
        "excel.csv must hold text, got a zip archive or an Excel workbook; save the sheet",
    ),
    "table.csv": (parquet(TABLE), "table.csv must hold text, got a parquet file; name it .parquet"),
    "utf.csv": (b"\xff\xfeA", "utf.csv is damaged: it begins as utf-16 but is not"),
    "book.xlsx": (zipped(b"a"), "unknown file type '.xlsx'; save the sheet as CSV; .*known: .npz"),
    "none": (b"a,b", "unknown file type ''"),
    "plain.csv.gz": (PLAIN_TEXT, "plain.csv.gz is not compressed as its ending says"),
    "cut.csv.gz": (gzip.compress(PLAIN_TEXT)[:40], "cut.csv.gz cannot be uncompressed"),
    "broken.parquet": (b"PAR1 no table PAR1", "broken.parquet cannot be read as parquet"),
    "broken.json": (b'[{"a": 1', "broken.json cannot be read as json"),
    "values.json": (b"[1, 2]", "values.json must hold JSON objects, one for each row, got other values"),
    "broken.jsonl": (b'{"kind": 1}\n{"kind": \n', "broken.jsonl: line 2 must be one JSON object"),
    "lists.jsonl": (
        b'{"kind": "a", "tags": [1, 2]}\n{"kind": "b", "tags": []}',
        r"column 'tags' must hold .* \(--drop tags\)",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path, name):
    content, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    says(message, tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    path = csv(tmp_path / "rows.csv", TABLE)
    with pytest.raises(DataNotFoundError, match="no such file: .*none.csv"):
        read(tmp_path / "none.csv")
    for part in ("trusted", "test"):
        with pytest.raises(DataNotFoundError, match="no such file: .*none.csv"):
            read(path, **{part: tmp_path / "none.csv"})


def test_a_column_of_lists_can_be_dropped_and_objects_are_flattened(tmp_path):
    rows = [{"kind": kind, "tags": [1], "box": {"w": size}} for kind, size in zip(KIND, SIZE, strict=True)]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    data = read(tmp_path / "rows.jsonl", drop="tags")
    assert data.shown.columns == ["box.w"] and data.features.shape == (ROWS, 1)


def test_json_values_of_several_types_become_text(tmp_path):
    rows = [{"kind": kind, "x": row if row % 2 else f"t{row % 3}"} for row, kind in enumerate([1, "a"] * 20)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(tmp_path / "rows.jsonl").classes == ["1", "a"]


def test_quotation_marks_that_do_not_pair_are_text(tmp_path):
    columns = TABLE | {"colour": [f'{row % 3}" disk' for row in range(ROWS)]}
    columns["colour"][0] = "no disk"
    data = read(csv(tmp_path / "rows.csv", columns))
    assert data.shown["colour"].to_list() == columns["colour"]
    assert "quotation marks do not come in pairs and were read as text" in data.notes


def test_quoted_cells_and_blank_lines(tmp_path, expected):
    lines = cells(TABLE | {"colour": [f'"{colour}"' for colour in PLAIN["colour"]]}).splitlines()
    (tmp_path / "rows.csv").write_text("\n\n" + "\n\n".join(lines) + "\n\n", encoding="utf-8")
    same(read(tmp_path / "rows.csv"), expected)
    (tmp_path / "rows.csv").write_bytes("\r".join(lines).encode())  # line ends of old Macs
    same(read(tmp_path / "rows.csv"), expected)


@pytest.mark.parametrize("separator", [",", ";", "^"])
def test_the_first_line_of_excel_names_the_separator(tmp_path, expected, separator):
    (tmp_path / "rows.csv").write_text(f"sep={separator}\n" + cells(TABLE, separator), encoding="utf-8")
    same(read(tmp_path / "rows.csv"), expected)


def test_names_of_columns_are_stripped_and_composed(tmp_path, expected):
    columns = {" size ": TABLE["size"], "old": TABLE["old"], "colour": TABLE["colour"], "Ka\u0308": KIND}
    same(read(csv(tmp_path / "rows.csv", columns), label="K\u00e4"), expected)


def test_constant_and_empty_columns_are_left_out_silently(tmp_path, expected):
    columns = {"same": ["x"] * ROWS, "empty": [""] * ROWS, "zero": [0] * ROWS} | TABLE
    same(read(csv(tmp_path / "rows.csv", columns)), expected)


def test_everything_unusual_is_listed_at_once(tmp_path):
    columns: dict = {"": range(ROWS), "token": IDS["token"]} | TABLE
    columns["size"] = ["?" if row == 3 else size for row, size in enumerate(SIZE)]
    columns["kind"] = [f"{kind} " if row == 5 else kind for row, kind in enumerate(KIND)]
    columns["kind"][7] = ""
    data = read(csv(tmp_path / "rows.csv", columns, ";", True, "cp1252"))
    assert data.notes == (
        "the encoding cp1252 (Windows Latin-1) was detected; --encoding decides otherwise",
        "the separator ';' was detected; --sep decides otherwise",
        "decimal commas were read in 'size'",
        "left out as numbers of the rows: 'Unnamed: 0'",
        "left out as ids: 'token'",
        f"1 label had blanks at their ends and became {KIND[5]!r}",
        "1 training row without a label left out",
        "read as missing values: '?' in 'size'",
        "1 missing value imputed, with an indicator for each column: 'size' (1)",
    )
    assert data.shown.columns == ["Unnamed: 0", "token", "size", "old", "colour"]
