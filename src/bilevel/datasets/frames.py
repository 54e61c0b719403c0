"""Tables in memory, of polars or pandas, and how their rows become vectors."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bilevel.datasets.columns import read_cells, understand
from bilevel.datasets.labels import listed
from bilevel.datasets.vectors import table_vectorizer
from bilevel.extras import extra


class TableForm:
    """The form of the training rows of a table: its columns of features and its keys.

    Attributes:
      keys: names of the columns that identify a row.
      shown: names of the keys, then of the columns of features.
      notes: one line for each unusual thing about the columns.
    """

    def __init__(
        self,
        frame: Any,
        *,
        source: str,
        keys: Sequence[str] = (),
        missing: Sequence[str] | None = None,
        separator: str | None = None,
    ):
        """Find the columns.

        Args:
          frame: polars.DataFrame of all training rows, without labels.
          source: name of the rows in error messages.
          keys: columns that the user named as keys.
          missing: markers of missing values; None means the usual ones.
          separator: separator of a text file, else None.
        """
        self._source = source
        self._columns, found, self.notes = understand(
            frame, keys=keys, missing=missing, separator=separator, where=f"{source}: "
        )
        if not self._columns:
            raise ValueError(
                f"{source}: a table needs columns of features that vary, got none beside the labels and "
                "keys; add some"
            )
        self._names = frame.columns
        names = [column.name for column in self._columns]
        self.keys = tuple(found)
        self.shown = [*found, *names]

    def fit(self, frame: Any, notes: list[str], places: np.ndarray) -> Callable[[Any, str], Any]:
        """Return the function from rows of any part, and the name of the part, to vectors.

        Args:
          frame: training rows.
          notes: list that receives one line for each unusual thing.
          places: (n,) positions of the rows in the source, to name them in notes.
        """
        cells, lost = read_cells(frame, self._columns, "", self._source)
        notes += lost
        first, vectorize = table_vectorizer(cells, notes, places)
        # Columns that are constant over the training rows say nothing.
        varies = _varying(first)

        def apply(rows, part):
            if rows is frame:
                return first[:, varies]
            where = f"{part}: "
            cells, lost = read_cells(rows, self._columns, where, self._source)
            vectors, found = vectorize(cells, where)
            more = [repr(name) for name in rows.columns if name not in self._names]
            if more:
                notes.append(f"{where}columns that the training rows lack were ignored: {listed(more)}")
            notes.extend([*lost, *found])
            return vectors[:, varies]

        return apply


def _varying(vectors):
    if isinstance(vectors, np.ndarray):
        return np.flatnonzero((vectors != vectors[:1]).any(axis=0))
    return np.flatnonzero(vectors.max(axis=0).toarray() != vectors.min(axis=0).toarray())


def as_frame(table: Any) -> tuple[Any, list[str]]:
    """Return a table of pandas or polars as a polars.DataFrame, and the names of its index columns.

    An index of pandas that is more than row numbers becomes columns in front.
    """
    with extra("clean"):
        import polars

    if isinstance(table, polars.LazyFrame):
        table = table.collect()
    if isinstance(table, polars.DataFrame):
        return table, []
    columns = {str(name): table.iloc[:, place] for place, name in enumerate(table.columns)}
    if len(columns) < table.shape[1]:
        raise ValueError("columns of a table must have different names; rename some")
    keys = {}
    if type(table.index).__name__ != "RangeIndex":
        for level in range(table.index.nlevels):
            name = str(table.index.names[level] if table.index.names[level] is not None else "index")
            while name in columns or name in keys:
                name += "_"
            keys[name] = table.index.get_level_values(level).to_series()
    series = {name: _from_pandas(name, values) for name, values in (keys | columns).items()}
    return polars.DataFrame(series), list(keys)


def _from_pandas(name, values):
    """Return a Series of pandas as one of polars, without pyarrow."""
    import polars

    kind = values.dtype.kind if hasattr(values.dtype, "kind") else "O"
    if isinstance(values.dtype, np.dtype) and kind in "biufmM":
        array = values.to_numpy()
        if kind in "mM":
            array = array.astype(f"{kind}8[us]")
        return polars.Series(name, array, nan_to_null=kind == "f")
    if kind in "biuf":  # numbers with missing values
        return polars.Series(name, values.to_numpy(np.float64, na_value=np.nan), nan_to_null=True)
    if kind == "M":  # dates with a time zone
        return polars.Series(name, values.dt.tz_convert(None).to_numpy().astype("M8[us]"))
    cells = [
        None if missing else value for value, missing in zip(values.tolist(), values.isna(), strict=True)
    ]
    return polars.Series(name, cells, strict=False)
