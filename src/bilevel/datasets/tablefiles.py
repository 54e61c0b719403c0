"""Tables from files, with the encoding and the separator of text detected."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bilevel.datasets.errors import DataNotFoundError, did_you_mean
from bilevel.extras import extra

TEXT = (".csv", ".tsv", ".txt")
JSON_LINES = (".jsonl", ".ndjson")
TABLES = (*TEXT, *JSON_LINES, ".json", ".parquet")
COMPRESSED = (".gz", ".bz2", ".xz", ".zip")
SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
SAMPLE = 1 << 16  # characters that are read to detect the separator
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHER_FORMATS = {
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV",
    b"PK\x03\x04": "a zip archive or an Excel workbook; save the sheet as CSV",
    b"PAR1": "a parquet file; name it .parquet",
    b"%PDF": "a PDF document; save the table as CSV",
    b"SQLite format 3": "an SQLite database; export the table as CSV",
}


class Table(NamedTuple):
    """A table as read.

    Attributes:
      frame: polars.DataFrame. Cells of text files stay text.
      separator: separator of the cells of a text file, else None.
      notes: one line for each thing that was detected and is not usual.
    """

    frame: Any
    separator: str | None
    notes: list[str]


def split_name(path: Path) -> tuple[str, str]:
    """Return the name of a file without endings, and its type without compression.

    >>> split_name(Path("rows.v2.csv.gz"))
    ('rows.v2', '.csv')
    """
    if path.suffix.lower() in COMPRESSED:
        path = path.with_suffix("")
    return path.stem, path.suffix.lower()


def read_table(
    path: Path, *, sep: str | None = None, encoding: str | None = None, label: str | None = None
) -> Table:
    """Return the table in a file.

    Args:
      path: a file of one of `TABLES`; it may be compressed.
      sep: separator of the cells of a text file; None means that it is detected.
      encoding: encoding of a text file; None means that it is detected.
      label: name of a column that should exist; helps to detect the separator.

    Raises:
      DataNotFoundError: when the file does not exist.
      ValueError: when the file is not such a table; the message is one line.
    """
    with extra("clean"):
        import polars

    if not path.is_file():
        raise DataNotFoundError(f"no such file: {str(path)!r}; give the path of a {', '.join(TABLES)} file")
    _, kind = split_name(path)
    if kind not in TABLES:
        hint = "save the sheet as CSV; " if kind.startswith(".xls") else ""
        raise ValueError(f"{path.name}: unknown type of table {kind!r}; {hint}{did_you_mean(kind, TABLES)}")
    content = _content(path)
    notes: list[str] = []
    if kind == ".parquet":
        try:
            frame = polars.read_parquet(io.BytesIO(content))
        except (polars.exceptions.PolarsError, OSError) as error:
            raise ValueError(_unreadable(path, kind, error)) from error
        return _checked(path, Table(frame, None, notes))
    text = _utf8(path, content, encoding, notes)
    if not text.strip():
        raise ValueError(f"{path.name} is empty; write the table again")
    if kind in TEXT:
        frame, separator = _read_cells(path, text, sep, label, kind, notes)
        return _checked(path, Table(frame, separator, notes))
    if sep is not None:
        raise ValueError(f"{path.name}: a separator is for text tables only, got {sep!r}; leave out --sep")
    return _checked(path, Table(_read_json(path, text, kind), None, notes))


def _content(path):
    """Return the bytes of a file, uncompressed."""
    content = path.read_bytes()
    kind = path.suffix.lower()
    try:
        if content.startswith(b"\x1f\x8b"):
            return gzip.decompress(content)
        if content.startswith(b"BZh") and kind == ".bz2":
            return bz2.decompress(content)
        if content.startswith(b"\xfd7zXZ"):
            return lzma.decompress(content)
        if kind == ".zip":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
                if len(names) != 1:
                    raise ValueError(
                        f"{path.name}: a zip archive must hold one table, got {len(names)} files; unpack it"
                    )
                return archive.read(names[0])
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} cannot be uncompressed ({error}); write the file again") from error
    if kind in COMPRESSED:
        raise ValueError(f"{path.name} is not compressed as its ending says; rename or write it again")
    return content


def _utf8(path, content, encoding, notes):
    """Return text as UTF-8 bytes with lines that end in a line feed."""
    for start, name in _OTHER_FORMATS.items():
        if content.startswith(start):
            raise ValueError(f"{path.name} must hold text, got {name}")
    if encoding is not None:
        try:
            text = content.decode(encoding).removeprefix("\ufeff").encode()
        except LookupError:
            raise ValueError(
                f"{path.name}: unknown encoding {encoding!r}; use for example utf-8, utf-16 or cp1252"
            ) from None
        except UnicodeError as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{path.name} cannot be read as {encoding} ({reason}); leave out --encoding to detect it"
            ) from None
    else:
        text = _detected(path, content, notes)
    if b"\0" in text:
        raise ValueError(
            f"{path.name} must hold text, got binary data; write it again as CSV, or name its --encoding"
        )
    if b"\r" in text and b"\n" not in text:
        return text.replace(b"\r", b"\n")
    return text.replace(b"\r\n", b"\n") if b"\r\n" in text else text


def _detected(path, content, notes):
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)
    if encoding is None and b"\0" in content[:4096]:
        # Text of the Latin alphabet in UTF-16 has a zero in every second byte.
        zeros = np.frombuffer(content[: min(len(content), 4096) // 2 * 2], np.uint8).reshape(-1, 2) == 0
        encoding = {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get(
            tuple((zeros.mean(axis=0) > 0.4).tolist())
        )
    if encoding is not None:
        try:
            text = content.decode(encoding).encode()
        except UnicodeError as error:
            raise ValueError(
                f"{path.name} is damaged: it begins as {encoding} but is not ({error}); write it again"
            ) from None
        if encoding != "utf-8-sig":
            notes.append(f"the encoding {encoding.upper()} was detected; --encoding decides otherwise")
        return text
    try:
        content.decode("utf-8")
        return content
    except UnicodeDecodeError:
        pass
    if b"\0" in content:
        return content  # refused by the caller
    try:
        text, name = content.decode("cp1252"), "cp1252 (Windows Latin-1)"
    except UnicodeDecodeError:
        text, name = content.decode("latin-1"), "latin-1"
    odd = np.frombuffer(content[:SAMPLE], np.uint8)
    if np.mean((odd < 32) & ~np.isin(odd, (9, 10, 12, 13))) > 0.01:
        return b"\0"  # control characters: no text, refused by the caller
    notes.append(f"the encoding {name} was detected; --encoding decides otherwise")
    return text.encode()


def _read_cells(path, text, sep, label, kind, notes):
    import polars

    text = text.lstrip(b"\n")
    if text[:4].lower() == b"sep=" and text[5:6] == b"\n":  # written by Excel
        sep, text = sep or chr(text[4]), text[6:]
    if not text.endswith(b"\n"):
        text += b"\n"
    sample = text[: max(SAMPLE, text.index(b"\n") + 1)].decode("utf-8", "ignore")
    if sep is None:
        separator = _separator(sample, label, "\t" if kind == ".tsv" else ",")
        if separator != ("\t" if kind == ".tsv" else ","):
            notes.append(f"the separator {SEPARATORS[separator]} was detected; --sep decides otherwise")
    else:
        separator = "\t" if sep in ("tab", "\\t") else sep
        if len(separator.encode()) != 1 or separator in '"\n\r':
            raise ValueError(f"{path.name}: a separator must be one ASCII character or tab, got {sep!r}")
    faults = {}
    for quote in ('"', None):
        blank, fault = _count_cells(text, separator, quote)
        if blank is not None:
            break
        faults[quote] = fault
    else:
        width, row, cells, line = faults['"'] or faults[None]
        raise ValueError(
            f"{path.name}: each row must have the {width} cells of the header, got {cells} in row {row} "
            f"(line {line}); quote cells that hold {SEPARATORS.get(separator, repr(separator))}, or give "
            "another separator (--sep)"
        )
    if quote is None:
        notes.append("quotation marks do not come in pairs and were read as text")
    if len(blank):
        text = np.delete(np.frombuffer(text, np.uint8), blank).tobytes()
    header = next(
        csv.reader(io.StringIO(sample), delimiter=separator, quoting=0 if quote else csv.QUOTE_NONE)
    )
    try:
        frame = polars.read_csv(
            io.BytesIO(text),
            infer_schema=False,
            separator=separator,
            quote_char=quote,
            has_header=False,
            skip_rows=1,
        )
    except polars.exceptions.NoDataError:
        frame = polars.DataFrame([polars.Series(str(k), [], polars.String) for k in range(len(header))])
    except polars.exceptions.PolarsError as error:
        raise ValueError(_unreadable(path, kind, error)) from error
    frame.columns = _names(path, header)
    return frame, separator


def _separator(sample, label, usual):
    """Return the separator that splits most of the first lines alike, into the most cells."""
    best = (False, 0.0, 0, False), usual
    for separator in SEPARATORS:
        try:
            rows = [row for row in csv.reader(io.StringIO(sample), delimiter=separator) if row]
        except csv.Error:
            continue
        width = len(rows[0])
        if width > 1:
            alike = np.mean([len(row) == width for row in rows[:-1] or rows])
            named = label in [name.strip() for name in rows[0]]
            best = max(best, ((named, float(alike), width, separator == usual), separator))
    return best[1]


def _count_cells(text, separator, quote):
    """Return the places of blank lines and None, or None and the first row unlike the header.

    That is `(width, row, cells, line)`, or None when quotation marks do not come in pairs.
    """
    content = np.frombuffer(text, np.uint8)
    breaks, cuts = content == 10, content == ord(separator)
    if quote and b'"' in text:
        outside = np.bitwise_xor.accumulate(content == ord('"')) == 0
        if not outside[-1]:
            return None, None
        lines = np.flatnonzero(breaks)
        breaks, cuts = breaks & outside, cuts & outside
    else:
        lines = None
    ends = np.flatnonzero(breaks)
    cells = np.diff(np.searchsorted(np.flatnonzero(cuts), ends), prepend=0) + 1
    blank = np.flatnonzero(np.diff(ends) == 1)
    cells[1:][blank] = cells[0]
    wrong = np.flatnonzero(cells != cells[0])
    if not len(wrong):
        return ends[1:][blank], None
    record = int(wrong[0])
    line = record + 1 if lines is None else int(np.searchsorted(lines, ends[record - 1]) + 2)
    row = record - 1 - int(np.sum(blank < record - 1))
    return None, (int(cells[0]), row, int(cells[record]), line)


def _names(path, header):
    """Return names of columns; those without one are named by their place, as in pandas."""
    names = [unicodedata.normalize("NFC", name).strip() for name in header]
    names = [name or f"Unnamed: {place}" for place, name in enumerate(names)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{path.name}: columns must have different names, got {twice[0]!r} "
            f"{names.count(twice[0])} times; rename one"
        )
    return names


def _read_json(path, text, kind):
    """Return the table of JSON lines, a list of records, or a dict of columns."""
    import polars

    if kind in JSON_LINES:
        try:
            return polars.read_ndjson(io.BytesIO(text), infer_schema_length=None)
        except polars.exceptions.PolarsError:
            records = [_read_line(path, line, number) for number, line in enumerate(text.split(b"\n"), 1)]
            records = [record for record in records if record is not None]
    else:
        try:
            records = json.loads(text)
        except ValueError as error:
            raise ValueError(_unreadable(path, kind, error)) from None
    if isinstance(records, dict) and records and all(isinstance(v, list | dict) for v in records.values()):
        columns = {k: list(v.values()) if isinstance(v, dict) else v for k, v in records.items()}
        if len({len(column) for column in columns.values()}) > 1:
            raise ValueError(f"{path.name}: columns must have the same length; write the file again")
        return polars.DataFrame(columns, strict=False)
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ValueError(
            f"{path.name} must hold JSON objects, one for each row, got other values; "
            "write it with to_json(orient='records')"
        )
    try:
        return polars.DataFrame(records, infer_schema_length=None, strict=False)
    except polars.exceptions.PolarsError as error:
        raise ValueError(_unreadable(path, kind, error)) from error


def _read_line(path, line, number):
    try:
        return json.loads(line) if line.strip() else None
    except ValueError as error:
        raise ValueError(
            f"{path.name}: line {number} must be one JSON object ({error}); write the file again"
        ) from None


def _checked(path, table):
    import polars

    if table.frame.height == 0:
        raise ValueError(f"{path.name} has no rows below its header; add rows")
    frame = table.frame
    while nested := [name for name, kind in frame.schema.items() if isinstance(kind, polars.Struct)]:
        for name in nested:
            # {"size": {"width": 1}} becomes the column size.width.
            fields = frame[name].struct.fields
            parts = [frame[name].struct.field(field).alias(f"{name}.{field}") for field in fields]
            frame = frame.drop(name).with_columns(parts)
    return table._replace(frame=frame)


def _unreadable(path, kind, error):
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    return f"{path.name} cannot be read as {kind[1:]} ({reason}); write the file again"
