"""Columns of a table: numbers, dates or text, and which of them number the rows."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bilevel.datasets.errors import did_you_mean
from bilevel.datasets.labels import MISSING, listed
from bilevel.extras import extra

# Markers of missing values in columns of numbers, beside those of `labels.MISSING`.
AMONG_NUMBERS = ("none", "nil", "-", "--", "–", "—", ".", "missing", "unknown")
ENOUGH = 0.9  # share of the values that must be numbers for a column of numbers
ENOUGH_DATES = 0.95
SAMPLE = 1000  # distinct values that decide whether a column holds dates
FEWEST = 20  # rows from which distinct values speak for an id

ROW_NUMBERS = "left out as numbers of the rows"
IDS = "left out as ids"

_GROUP = "[ \u00a0\u202f'’]"
_EXPONENT = r"([eE][+-]?\d+)?"
_POINT = rf"^[+-]?((\d+|\d{{1,3}}((,\d{{3}})+|({_GROUP}\d{{3}})+))(\.\d*)?|\.\d+){_EXPONENT}$"
_COMMA = rf"^[+-]?((\d+|\d{{1,3}}((\.\d{{3}})+|({_GROUP}\d{{3}})+))(,\d*)?|,\d+){_EXPONENT}$"
_UNIT = r"^[$€£¥]\s*|\s*[%$€£¥]$"
_INFINITE = r"(?i)^[+-]?(inf|infinity|∞)$"
_CODE = r"^0\d+$"  # 007 is a code, not the number 7

_DAYS = (
    ("%Y-%m-%d", "year-month-day"),
    ("%Y/%m/%d", "year/month/day"),
    ("%Y.%m.%d", "year.month.day"),
    ("%d.%m.%Y", "day.month.year"),
    ("%m/%d/%Y", "month/day/year"),
    ("%d/%m/%Y", "day/month/year"),
    ("%d-%m-%Y", "day-month-year"),
    ("%m-%d-%Y", "month-day-year"),
    ("%d %b %Y", "day month year"),
    ("%d %B %Y", "day month year"),
    ("%d-%b-%Y", "day-month-year"),
    ("%b %d, %Y", "month day, year"),
    ("%B %d, %Y", "month day, year"),
)
_TIMES = ("", " %H:%M", " %H:%M:%S%.f", "T%H:%M", "T%H:%M:%S%.f", " %I:%M %p", " %I:%M:%S %p")
_ZONES = ("T%H:%M:%S%.f%#z", " %H:%M:%S%.f%#z", "T%H:%M:%S%.f %#z", " %H:%M:%S%.f %#z")

_INDEX_NAMES = re.compile(
    r"(?i)^(index|unnamed: \d+|__index_level_\d+__|level_0|row_?(id|number|num|nr|no)?)$"
)
_ID_NAMES = re.compile(r"(?i)^(id|uuid|guid|key|pk)$|[_\W](id|uuid|guid|key)$|^(id|uuid|guid|key)[_\W]")
_CAMEL_ID = re.compile(r"[a-z](ID|Id|Number|Nr|No)$|(?i:[a-z_\W]number|nummer)$")


class Column(NamedTuple):
    """A column of features, and how its cells are read.

    Attributes:
      name: name of the column.
      kind: "number", "date" or "text".
      read: function from a Series of cells to one of Float64, Datetime or String, with nulls.
    """

    name: str
    kind: str
    read: Callable[[Any], Any]


def understand(
    frame: Any,
    *,
    keys: Sequence[str] = (),
    missing: Sequence[str] | None = None,
    separator: str | None = None,
    where: str = "",
) -> tuple[list[Column], list[str], list[str]]:
    """Return the columns of features of a table, the columns that are keys, and notes.

    Args:
      frame: polars.DataFrame of the training rows, without labels.
      keys: columns that the user named as keys.
      missing: markers of missing values; None means the usual ones.
      separator: separator of a text file; with one other than "," a comma may be a decimal comma.
      where: the beginning of error messages.

    Raises:
      ValueError: when a column holds lists or other things that are no cells.
    """
    with extra("clean"):
        import polars

    notes: list[str] = []
    names = [name for name in frame.columns if name not in keys]
    for name in names:
        if frame[name].dtype.is_nested() or frame[name].dtype in (polars.Object, polars.Binary):
            raise ValueError(
                f"{where}column {name!r} must hold numbers, text or dates, got {frame[name].dtype}; "
                f"convert it or leave it out (--drop {name})"
            )
    markers = _Markers(missing)
    texts = {name: markers.text(frame[name]) for name in names if not _holds_numbers(frame[name])}
    commas = _decimal_commas(texts, separator)
    if any(commas.values()):
        # Beside decimal commas, 1.234 may be the number 1234.
        for name in names:
            if frame[name].dtype == polars.String and name not in texts:
                texts[name] = markers.text(frame[name])
        commas = _decimal_commas(texts, separator)
    columns, left_out, unsure = [], {}, {}
    for name in names:
        if name in texts:
            column, doubt = _text_column(name, texts[name], markers, commas[name])
        else:
            column, doubt = _native_column(name, frame[name], markers), None
        values = column.read(frame[name])
        if values.null_count() == len(values) or _is_constant(values):
            continue
        columns.append(column)
        if (reason := _key_reason(name, column.kind, values)) is not None:
            left_out[name] = reason
        elif doubt is not None:
            unsure[name] = doubt
    if columns and len(left_out) == len(columns):
        left_out.pop(columns[-1].name)  # the last column of features stays, whatever it looks like
    columns = [column for column in columns if column.name not in left_out]

    numbers = [column.name for column in columns if column.kind == "number" and commas.get(column.name)]
    decimal = [name for name in numbers if texts[name].str.contains(",", literal=True).any()]
    if decimal:
        notes.append(f"decimal commas were read in {_quoted(decimal)}")
    for reasons in (left_out, unsure):
        for reason in dict.fromkeys(reasons.values()):
            same = [name for name in reasons if reasons[name] == reason]
            notes.append(f"{reason}: {_quoted(same)}")
    return columns, [*keys, *left_out], notes


def read_cells(frame: Any, columns: Sequence[Column], where: str, source: str) -> tuple[Any, list[str]]:
    """Return the cells of columns as numbers, dates and text, and notes on what could not be read.

    Args:
      frame: polars.DataFrame of rows of any part.
      columns: columns from `understand`.
      where: the part, the beginning of notes.
      source: name of the training rows in error messages.

    Raises:
      ValueError: when a column does not exist.
    """
    import polars

    notes, cells = [], []
    for column in columns:
        if column.name not in frame.columns:
            raise ValueError(
                f"{where}column {column.name!r} of {source} is missing; "
                f"{did_you_mean(column.name, frame.columns)}"
            )
        values = column.read(frame[column.name])
        if column.kind != "text":
            given = frame[column.name]
            lost = given.filter(values.is_null() & given.is_not_null())
            if lost.dtype == polars.String and len(lost):
                marks = listed([repr(text) for text in lost.unique().to_list()])
                notes.append(f"{marks} in {column.name!r}")
        cells.append(values.alias(column.name))
    summary = [f"{where}read as missing values: {'; '.join(notes)}"] if notes else []
    return polars.DataFrame(cells), summary


class _Markers:
    """Markers of missing values in text and among numbers."""

    def __init__(self, missing):
        chosen = {*map(_fold, MISSING if missing is None else missing), ""}
        self._text = chosen
        self.among_numbers = chosen if missing is not None else chosen | set(AMONG_NUMBERS)
        self.numbers = [] if missing is None else [v for v in map(_as_float, missing) if v is not None]

    def text(self, series, among_numbers=False):
        """Return stripped text, with nulls for missing values."""
        import polars

        text = series.cast(polars.String).str.strip_chars()
        folded = text.str.to_lowercase()
        markers = sorted(self.among_numbers if among_numbers else self._text)
        return _without(text, folded.is_in(markers))


def _fold(marker):
    return str(marker).strip().lower()


def _as_float(text):
    try:
        return float(text)
    except ValueError:
        return None


def _holds_numbers(series):
    """Return whether each cell is a number, a date or missing without further reading."""
    if _is_native(series):
        return True
    text = series.cast(str)
    return _plain_numbers(text) is not None and not text.str.contains(_CODE).any()


def _plain_numbers(text):
    """Return text as Float64 where all of it is plain numbers, else None."""
    numbers = text.cast(float, strict=False)
    known = len(text) - text.null_count()
    return numbers.fill_nan(None) if known and numbers.null_count() == text.null_count() else None


def _is_native(series):
    import polars

    return series.dtype not in (polars.String, polars.Categorical, polars.Enum, polars.Null)


def _native_column(name, series, markers):
    """Return a column of numbers, Booleans, dates, times or durations."""
    import polars

    if series.dtype in (polars.Date, polars.Datetime):
        return Column(name, "date", _read_date)
    return Column(name, "number", lambda cells: _read_number(cells, markers, False))


def _read_date(cells):
    import polars

    if cells.dtype not in (polars.Date, polars.Datetime):
        cells = cells.cast(polars.String).str.to_datetime("%Y-%m-%d", strict=False)
    return cells.cast(polars.Datetime("us")).dt.replace_time_zone(None)


def _read_number(cells, markers, comma):
    import polars

    if _is_native(cells):
        physical = cells.to_physical() if cells.dtype in (polars.Time, polars.Duration) else cells
        values = physical.cast(polars.Float64, strict=False).fill_nan(None)
    else:
        values = None if comma else _plain_numbers(cells.cast(polars.String))
        if values is None:
            return _numbers(markers.text(cells, True), comma)
    return _without(values, values.is_in(markers.numbers)) if markers.numbers else values


def _decimal_commas(texts, separator):
    """Return whether the numbers in each column of text have decimal commas."""
    votes, preferred, has_comma = [0, 0], {}, {}
    for name, text in texts.items():
        sample = text.drop_nulls().unique().head(SAMPLE).str.replace_all(_UNIT, "")
        point, comma = sample.str.contains(_POINT), sample.str.contains(_COMMA)
        votes[0] += int((point & ~comma).sum())
        votes[1] += int((comma & ~point).sum())
        preferred[name] = int(comma.sum()) - int(point.sum())
        has_comma[name] = bool(sample.str.contains(",", literal=True).any())
    usual = votes[1] > votes[0]
    # 1,234 may be either number: the other columns decide, then the separator of the cells.
    alone = votes == [0, 0] and separator not in (None, ",")
    return {
        name: more > 0 if more else usual or (alone and has_comma[name]) for name, more in preferred.items()
    }


def _numbers(text, comma):
    """Return text as Float64, null where it is no number."""
    import polars

    plain = None if comma else _plain_numbers(text)
    if plain is not None:
        return plain
    text = text.str.replace_all(_UNIT, "")
    text = _without(text, ~text.str.contains(_COMMA if comma else _POINT) & ~text.str.contains(_INFINITE))
    if comma:
        text = text.str.replace_all(rf"\.|{_GROUP}", "").str.replace(",", ".", literal=True)
    else:
        text = text.str.replace_all(rf",|{_GROUP}", "")
    return text.str.replace("∞", "inf", literal=True).cast(polars.Float64, strict=False).fill_nan(None)


def _text_column(name, text, markers, comma):
    """Return the column behind text, and a line on what is unsure about it or None."""
    sample = markers.text(text.drop_nulls().unique().head(SAMPLE), True).drop_nulls()
    if len(sample) and _numbers(sample, comma).count() >= len(sample) / 2:
        cells = markers.text(text, True)
        enough = _numbers(cells, comma).count() >= ENOUGH * cells.count()
        if enough and not cells.str.contains(_CODE).any():
            return Column(name, "number", lambda given: _read_number(given, markers, comma)), None
    form = _date_format(text)
    if form is not None:
        pattern, meaning, unsure = form
        doubt = f"read as {meaning}, which could be another order" if unsure else None
        return Column(name, "date", lambda given: _read_text_date(given, markers, pattern)), doubt
    return Column(name, "text", lambda given: markers.text(given).str.normalize("NFC")), None


def _read_text_date(given, markers, pattern):
    import polars

    if _is_native(given):
        return _read_date(given)
    return _read_date(markers.text(given).str.strptime(polars.Datetime("us"), pattern, strict=False))


def _without(series, mask):
    """Return a Series with nulls where the mask is true."""
    return series.set(mask.fill_null(False), None)


def _date_format(text):
    """Return `(format, meaning, unsure)` of a column of dates, else None."""
    import polars

    sample = text.drop_nulls().unique(maintain_order=True).head(SAMPLE)
    if (
        not len(sample)
        or not (sample.str.contains(r"^[\w .,:/+-]{6,40}$") & sample.str.contains(r"\d")).all()
    ):
        return None
    long = sample.str.contains(r"\d{4}").all()
    best, ties = None, set()
    for time in (*_TIMES, *_ZONES):
        for day, meaning in _DAYS:
            if not long and day.startswith("%Y"):
                continue  # 05.01.19 is a day first
            pattern = (day if long else day.replace("%Y", "%y")) + time
            dates = sample.str.strptime(polars.Datetime("us"), pattern, strict=False)
            share = 1 - dates.null_count() / len(sample)
            if share >= ENOUGH_DATES and (best is None or share > best[0]):
                best, ties = (share, pattern, meaning), {meaning}
            elif best is not None and share == best[0]:
                ties.add(meaning)
    if best is None:
        return None
    return best[1], best[2], len(ties) > 1


def _is_constant(values):
    return values.null_count() == 0 and values.min() == values.max()


def _key_reason(name, kind, values):
    """Return why a column is a key and no feature, else None."""
    import polars

    rows = len(values)
    if values.null_count() or kind == "date":
        return None
    if kind == "number":
        whole = bool((values.is_finite() & (values == values.floor())).all())
        steps = values.diff().drop_nulls()
        if whole and (rows >= FEWEST // 2 or _INDEX_NAMES.match(name)) and bool((steps == 1).all()):
            return ROW_NUMBERS
        if not whole or rows < FEWEST // 2 or (distinct := values.n_unique()) < ENOUGH * rows:
            return None
        if distinct == rows and values.max() - values.min() == rows - 1 and rows >= FEWEST:
            return ROW_NUMBERS
        if _INDEX_NAMES.match(name):
            return ROW_NUMBERS
        return IDS if _is_id_name(name) else None
    if rows < FEWEST // 2 or values.n_unique() < ENOUGH * rows:
        return None
    if _is_id_name(name) or _INDEX_NAMES.match(name):
        return IDS
    single = ~values.str.contains(r"\s") & values.str.contains(r"\d|@")
    if values.n_unique() == rows and rows >= FEWEST and float(single.cast(polars.Float64).mean()) > ENOUGH:
        return IDS
    return None


def _is_id_name(name):
    return bool(_ID_NAMES.search(name) or _CAMEL_ID.search(name))


def _quoted(names):
    return ", ".join(repr(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")
