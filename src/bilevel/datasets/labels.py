"""Classes from labels: labels as text, and class indices."""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bilevel.datasets.errors import did_you_mean
from bilevel.extras import extra

# "none" and "-" are not here: both are common names of classes and categories.
MISSING = ("", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "null", "?")


def label_texts(where: str, labels: Any) -> Any:
    """Return labels as a polars Series of text, with nulls for missing labels.

    Whole floats become integers, since missing labels turn integers into floats.

    Args:
      where: the beginning of error messages.
      labels: n labels: an array, a list, or a Series of pandas or polars.

    Raises:
      ValueError: when the labels are not one column, or are measurements.
    """
    with extra("clean"):
        import polars

    if isinstance(labels, polars.DataFrame):
        labels = labels.to_series() if labels.width == 1 else labels.to_numpy()
    if not isinstance(labels, polars.Series):
        array: Any = _array(labels)
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.ndim != 1:
            raise ValueError(f"{where} labels must be one column, got shape {array.shape}; give class labels")
        labels = _series(where, array)
    if labels.dtype.is_float():
        labels = labels.fill_nan(None)
        wrong = labels.filter((labels.is_infinite() | (labels != labels.round())).fill_null(False))
        if len(wrong):
            raise ValueError(
                f"{where} labels must be integers or strings, got {wrong[0]}; replace measurements by classes"
            )
        labels = labels.cast(polars.Int64)
    if labels.dtype == polars.Boolean:
        names = {True: "True", False: "False", None: None}
        return polars.Series(labels.name, [names[value] for value in labels.to_list()], polars.String)
    if labels.dtype.is_nested() or labels.dtype in (polars.Object, polars.Binary):
        raise ValueError(f"{where} labels must be integers or strings, got {labels.dtype}; convert them")
    return labels.cast(polars.String)


def _array(labels):
    if isinstance(labels, Sequence) and not isinstance(labels, str):
        # NumPy would turn a list of numbers and texts into texts, and None into "None".
        array = np.empty(len(labels), object)
        array[:] = list(labels)
        return array
    return np.asarray(labels)


def _series(where, array):
    import polars

    if array.dtype.kind in "biu":
        return polars.Series(array)
    if array.dtype.kind == "f":
        return polars.Series(array.astype(np.float64))
    if array.dtype.kind == "U":
        return polars.Series(array.tolist(), dtype=polars.String)
    if array.dtype.kind not in "OST":
        raise ValueError(f"{where} labels must be integers or strings, got {array.dtype}; convert them")
    values = [_plain(where, value) for value in array.tolist()]
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {int, float}:  # bool is a type of its own
        return polars.Series(values, dtype=polars.Int64 if kinds == {int} else polars.Float64, strict=False)
    return polars.Series([None if value is None else str(value) for value in values], dtype=polars.String)


def _plain(where, value):
    """Return None, a bool, an int, a float or a text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    value = getattr(value, "item", lambda: value)() if isinstance(value, np.generic | np.ndarray) else value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, list | tuple | dict | set | np.ndarray):
        raise ValueError(
            f"{where} labels must be integers or strings, got {type(value).__name__}; give one label each"
        )
    text = str(value)
    return None if text in ("<NA>", "NaT") else value if isinstance(value, bool | int) else text


class Classes:
    """Classes of the training rows, and the positions of labels among them.

    Labels are stripped of blanks and composed to Unicode NFC, and keep their text otherwise.

    Attributes:
      names: names of the classes; numbers are in numeric order.
      notes: one line for each unusual thing about the labels.
    """

    def __init__(self, where: str, labels: Any, missing: Sequence[str] | None = None):
        """Find the classes.

        Args:
          where: the beginning of error messages.
          labels: polars Series of text.
          missing: markers of missing labels; None means `MISSING`.
        """
        self.notes: list[str] = []
        self._markers = {marker.strip().casefold() for marker in (MISSING if missing is None else missing)}
        counts = Counter(dict(zip(*_counted(labels), strict=True)))
        texts = {text: self._clean(text) for text in counts}
        names = {name for name in texts.values() if name is not None}
        if len(names) < 2:
            got = f"only {names.pop()!r}" if names else "none"
            raise ValueError(
                f"{where} labels must have at least 2 classes, got {got}; add rows of other classes"
            )
        self.names = sorted(names, key=_order(names))
        self._positions = {name: index for index, name in enumerate(self.names)}
        rows = sum(counts[text] for text, name in texts.items() if name is not None)
        self._refuse_measurements(where, rows)
        self._note_variants(texts, counts)
        self._alike: dict[Any, str | None] = {}
        for name in self.names:
            key = _likeness(name)
            self._alike[key] = None if key in self._alike else name

    def positions(self, where: str, labels: Any) -> tuple[np.ndarray, list[str]]:
        """Return the (n,) int32 class index of each label, -1 where it is missing, and notes.

        Args:
          where: the beginning of error messages.
          labels: polars Series of text.

        Raises:
          ValueError: when a label is not one of the classes.
        """
        import polars

        texts, _ = _counted(labels)
        index, notes = {}, []
        for text in texts:
            name = self._clean(text)
            if name is not None and name not in self._positions:
                # Spreadsheets write 7 for 007 and TRUE for True.
                same = self._alike.get(_likeness(name))
                if same is None:
                    raise ValueError(
                        f"{where} label {name!r} is not a class of the training rows; "
                        f"{did_you_mean(name, self.names)}"
                    )
                notes.append(f"{where} label {name!r} is read as the class {same!r}")
                name = same
            index[text] = -1 if name is None else self._positions[name]
        # A null is no key of `replace_strict`.
        known = [text for text in texts if text is not None]
        found = labels.replace_strict(
            known, [index[text] for text in known], default=-1, return_dtype=polars.Int32
        )
        return found.to_numpy().astype(np.int32), notes

    def _clean(self, text):
        if text is None:
            return None
        name = unicodedata.normalize("NFC", text).strip()
        return None if name.casefold() in self._markers or not name else name

    def _refuse_measurements(self, where, rows):
        numbers = [_number(name) for name in self.names]
        if len(self.names) > max(20, rows // 10) and None not in numbers:
            wrong = [name for name in self.names if float(name) % 1]
            if wrong:
                raise ValueError(
                    f"{where} labels must be classes, got {len(self.names)} numbers such as {wrong[0]}; "
                    "replace measurements by classes"
                )
        if len(self.names) == rows and rows >= 10:
            raise ValueError(
                f"{where} labels must be classes of several rows, got {rows} labels that all differ, such as "
                f"{self.names[0]!r}; name the column of labels"
            )

    def _note_variants(self, texts, counts):
        for what, changed in (
            ("blanks at their ends", lambda text: text != text.strip()),
            ("decomposed accents", lambda text: unicodedata.normalize("NFC", text) != text),
        ):
            found = [text for text, name in texts.items() if name is not None and changed(text)]
            if found:
                rows = sum(counts[text] for text in found)
                names = listed([repr(texts[text]) for text in found])
                self.notes.append(f"{count(rows, 'label')} had {what} and became {names}")
        folded: dict[str, list[str]] = {}
        for name in self.names:
            folded.setdefault(" ".join(name.casefold().split()), []).append(name)
        for same in folded.values():
            if len(same) > 1:
                self.notes.append(
                    f"the classes {listed([repr(name) for name in same])} differ only in case or blanks "
                    "and stay apart; write them alike if they are one class"
                )


def _counted(labels):
    """Return the distinct texts and their counts."""
    table = labels.alias("text").value_counts(name="count")
    return table["text"].to_list(), table["count"].to_list()


def _order(names):
    if all(_number(name) is not None for name in names):
        return lambda name: (_number(name), name)
    return lambda name: name


def _likeness(name):
    """Return a number, or text in lower case without a quote that guards a formula in a spreadsheet."""
    text = name.removeprefix("'")
    number = _number(text)
    return text.casefold() if number is None else number


def _number(name):
    try:
        number = float(name)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def listed(names: Iterable[str], most: int = 5) -> str:
    """Return the first of the sorted names, with "..." after them where there are more."""
    shown = sorted(set(names))
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")


def count(number: int, thing: str) -> str:
    """Return a number and its thing, in the plural where it is not one.

    >>> count(1, "row"), count(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{number:,} {thing}" + ("" if number == 1 else "s")
