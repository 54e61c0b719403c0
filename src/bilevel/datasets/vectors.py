"""Vectors from the cells of a table, and from texts."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from bilevel.datasets.labels import count, listed
from bilevel.datasets.rows import BEND, Scale
from bilevel.extras import extra

FEW_VALUES = 40  # text of up to so many distinct values is one-hot encoded
FEW_WORDS = 3  # text of fewer words on average is encoded by its letters
DOMINANT = 4  # words per other cell from which text dominates a table
REPEATED = 3  # rows with the same extreme value from which it may be a marker
EXTREME = 50  # robust deviations from the median from which a cell is extreme


def text_vectorizer(texts: list[str]) -> tuple[Any, Callable[[list[str]], Any]]:
    """Return tf-idf vectors of texts, CSR rows of unit norm, and the function that makes them.

    Texts of three words or more on average are taken as words, 1 + log count each. Shorter texts, and
    texts without words, are taken as runs of 2 to 4 letters.

    Args:
      texts: n training texts.
    """
    with extra("clean"):
        from sklearn.feature_extraction.text import TfidfVectorizer

    # A word of one row alone says nothing of another row.
    fewest = 2 if len(texts) >= 1000 else 1
    options: dict[str, Any] = {"sublinear_tf": True, "dtype": np.float32}
    words = np.mean([len(text.split()) for text in texts]) >= FEW_WORDS
    try:
        if not words:
            raise ValueError
        model = TfidfVectorizer(min_df=fewest, **options)
        first = model.fit_transform(texts)
    except ValueError:  # no words
        model = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=fewest, **options)
        try:
            first = model.fit_transform(texts)
        except ValueError:
            raise ValueError("texts must share some words or letters, got none; check the texts") from None
    return _csr(first), lambda rows: _csr(model.transform(rows))


def _csr(matrix):
    return scipy.sparse.csr_matrix(matrix, dtype=np.float32)


def table_vectorizer(
    cells: Any, notes: list[str], places: np.ndarray
) -> tuple[Any, Callable[[Any, str], tuple[Any, list[str]]]]:
    """Return vectors of the cells of a table, and the function from cells to vectors and notes.

    - Numbers are scaled robustly, see `Scale`. Missing ones become the median.
    - Text of at most 40 distinct values is one-hot encoded, a missing value being one more value.
    - Other text becomes 30 numbers by skrub's `StringEncoder`: tf-idf of runs of letters, reduced by a
      singular value decomposition. It suits names and short remarks, and keeps the vectors dense.
    - Where text dominates, four words for each other cell of a row, its words become tf-idf columns
      instead, and the vectors a CSR matrix.
    - Dates become year, month, day, hour, weekday and seconds by skrub's `DatetimeEncoder`.
    - Each column with missing values that is not one-hot encoded gets an indicator.

    Args:
      cells: polars.DataFrame of the training rows, of Float64, Datetime and String.
      notes: list that receives one line for each unusual thing.
      places: (n,) positions of the rows in the source, to name them in notes.
    """
    import polars

    text = cells.select(polars.col(polars.String))
    distinct = {name: text[name].n_unique() for name in text.columns}
    lengths = {
        name: float(text[name].fill_null("").str.count_matches(r"\S+").mean())
        for name in text.columns
        if distinct[name] > FEW_VALUES
    }
    prose = [name for name in lengths if lengths[name] >= FEW_WORDS]
    other_cells = cells.width - len(prose)
    if sum(lengths[name] for name in prose) < DOMINANT * other_cells:
        prose = []
    _note_encodings(notes, prose, [name for name in lengths if name not in prose])

    numbers = cells.select(polars.col(polars.Float64)).columns
    matrix = _matrix(cells, numbers)
    scale = Scale(matrix)
    note_extremes(notes, matrix, numbers, scale, places)
    mixed = [name for name in cells.columns if name not in (*numbers, *prose)]
    encoded, encode = _mixed_encoder(cells.select(mixed)) if mixed else (None, None)
    categories = {name: set(cells[name].to_list()) for name in distinct if distinct[name] <= FEW_VALUES}
    gaps = [name for name in cells.columns if name not in categories and cells[name].null_count()]
    readers = {name: text_vectorizer(cells[name].fill_null("").to_list()) for name in prose}
    _note_gaps(notes, cells)

    def join(rows, numeric, others, words):
        blocks = [scale(numeric)] if numbers else []
        blocks += [] if others is None else [others]
        if gaps:
            blocks.append(rows.select(polars.col(gaps).is_null().cast(polars.Float32)).to_numpy())
        dense = np.concatenate(blocks, axis=1) if blocks else np.zeros((rows.height, 0), np.float32)
        if not words:
            return dense
        # Unit rows of words are small numbers; numbers of the same size leave them their weight.
        return _csr(scipy.sparse.hstack([scipy.sparse.csr_matrix(dense / (2 * BEND)), *words], format="csr"))

    def apply(rows, where):
        words = [read(rows[name].fill_null("").to_list()) for name, (_, read) in readers.items()]
        others = None if encode is None else encode(rows.select(mixed))
        vectors = join(rows, _matrix(rows, numbers), others, words)
        return vectors, _unknown_values(rows, categories, where)

    return join(cells, matrix, encoded, [first for first, _ in readers.values()]), apply


def _mixed_encoder(cells):
    """Return dates and text as float32 vectors, and the function that makes them."""
    with extra("clean"):
        from sklearn.preprocessing import OneHotEncoder
        from skrub import DatetimeEncoder, StringEncoder, TableVectorizer
    import polars

    # The vectorizer would read text that looks like numbers as numbers; categories stay what they are.
    def categorical(rows):
        return rows.with_columns(polars.col(polars.String).cast(polars.Categorical))

    vectorizer: Any = TableVectorizer(
        cardinality_threshold=FEW_VALUES + 1,
        low_cardinality=OneHotEncoder(handle_unknown="ignore", sparse_output=False),
        high_cardinality=StringEncoder(random_state=0),
        datetime=DatetimeEncoder(add_weekday=True),
    )
    with warnings.catch_warnings():
        # Text of few different letters needs fewer numbers than the encoder has.
        warnings.filterwarnings("ignore", message="The matrix shape is", category=UserWarning)
        first = vectorizer.fit_transform(categorical(cells))
    dates = [
        name
        for column in vectorizer.kind_to_columns_["datetime"]
        for name in vectorizer.input_to_outputs_[column]
    ]
    scale = Scale(_matrix(first, dates))
    varying = [name for name, width in zip(dates, scale.width, strict=True) if width > 0]
    scale = Scale(_matrix(first, varying))
    rest = [name for name in first.columns if name not in dates]

    def vectors(encoded):
        parts = [_matrix(encoded, rest).astype(np.float32), scale(_matrix(encoded, varying))]
        return np.concatenate(parts, axis=1)

    return vectors(first), lambda rows: vectors(vectorizer.transform(categorical(rows)))


def _matrix(frame, names):
    """Return columns of numbers as a matrix, with NaN for nulls."""
    if not names:
        return np.zeros((frame.height, 0), np.float32)
    return frame.select(names).to_numpy()


def _note_encodings(notes, prose, short):
    if prose:
        notes.append(f"free text, used by the tf-idf of its words: {_names(prose)}")
    if short:
        notes.append(f"text of more than {FEW_VALUES} values, used by its letters: {_names(short)}")


def _note_gaps(notes, cells):
    gaps = {name: cells[name].null_count() for name in cells.columns if cells[name].null_count()}
    if gaps:
        total = count(sum(gaps.values()), "missing value")
        each = ", ".join(f"{name!r} ({gaps[name]:,})" for name in list(gaps)[:8])
        each += ", ..." if len(gaps) > 8 else ""
        notes.append(f"{total} imputed, with an indicator for each column: {each}")


def note_extremes(
    notes: list[str], numbers: np.ndarray, names: Sequence[str], scale: Scale, places: np.ndarray
) -> None:
    """Add notes on rows that are extreme in most columns, and on extreme values that repeat.

    Args:
      notes: list that receives these lines.
      numbers: (n, d) training rows.
      names: names of the columns.
      scale: centre and scale of the columns.
      places: (n,) positions of the rows in the source.
    """
    rows = np.zeros(len(numbers), np.int32)
    repeated, infinite = [], {}
    for place, name in enumerate(names):
        if scale.width[place] <= 0:
            continue
        values = numbers[:, place].astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            extreme = np.abs(values - scale.centre[place]) > EXTREME * scale.width[place]
        if not extreme.any():
            continue
        rows += extreme
        if endless := int(np.isinf(values).sum()):
            infinite[name] = endless
        found, times = np.unique(values[extreme & np.isfinite(values)], return_counts=True)
        if len(times) and times.max() >= REPEATED:
            repeated.append(f"{found[times.argmax()]:g} in {name!r} ({count(int(times.max()), 'row')})")
    if infinite:
        total = count(sum(infinite.values()), "infinite value")
        notes.append(f"{total} taken as the largest or smallest value: {_names(list(infinite))}")
    wild = np.flatnonzero(rows > len(names) / 2) if len(names) > 1 else np.array([], int)
    if len(wild):
        shown = ", ".join(map(str, places[wild[:5]])) + (", ..." if len(wild) > 5 else "")
        notes.append(
            f"extreme values in most columns of {count(len(wild), 'row')} ({shown}, counted from 0); "
            "their influence is bounded, but check them"
        )
    if repeated:
        notes.append(
            f"extreme values that repeat: {', '.join(repeated[:5])}; if they stand for missing values, "
            "name them (--missing)"
        )


def _unknown_values(rows, categories, where):
    notes = []
    for name, known in categories.items():
        values = rows[name]
        unknown = values.filter(~values.is_in([value for value in known if value is not None])).drop_nulls()
        if len(unknown):
            values = listed([repr(value) for value in unknown.unique().to_list()])
            rows_of = count(len(unknown), "row")
            notes.append(f"{where}{rows_of} with values of {name!r} that no training row has: {values}")
    return notes


def _names(names):
    return ", ".join(repr(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")
