"""The outcome of a cleaning run, with every number that its reports show."""

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bilevel.extras import extra


class ClassEstimates(NamedTuple):
    """Estimates for the rows with one given class.

    Attributes:
      name: name of the class.
      rows: number of rows with this given class.
      trusted: number of trusted rows of this class.
      flagged: number of its flagged rows.
      wrong: expected number of its wrong labels.
      precision: expected share of its flags whose label is wrong; NaN where nothing is flagged.
      recall: expected share of its wrong labels that are flagged; NaN where unknown.
      false_alarms: expected share of its right labels that are flagged.
    """

    name: str
    rows: int
    trusted: int
    flagged: int
    wrong: float
    precision: float
    recall: float
    false_alarms: float


class Estimates(NamedTuple):
    """Estimates of the wrong labels and of the quality of the flags.

    Attributes:
      wrong: expected number of wrong labels.
      rate: `wrong` divided by the number of rows.
      precision: expected share of the flags whose label is wrong; NaN where nothing is flagged.
      recall: expected share of the wrong labels that are flagged; NaN where nothing is flagged.
      classes: estimates for each given class, in the order of the classes.
      noise: (K, K) array; `noise[t, g]` is the estimated probability that a row of true class t has
        the given label g.
    """

    wrong: float
    rate: float
    precision: float
    recall: float
    classes: list[ClassEstimates]
    noise: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Cleaning:
    """Outcome of `clean` for n training rows.

    Attributes:
      given: (n,) int, class index of each row, as given.
      classes: names of the classes, by index.
      probability: (n,) float, probability that the given label is wrong.
      flagged: (n,) bool, whether the label of a row is probably wrong.
      suggested: (n,) int, suggested class of each row.
      checked: (n,) bool, rows of the data whose label the user has checked.
      estimates: expected number of wrong labels, precision and recall, overall and by class.
      summary: the JSON-ready numbers of `summary.json`.
      influence: (n,) float, influence of each row on the loss on the trusted rows, or None. If it is
        positive, the loss is lower without the row.
      to_check: (k,) int, rows most worth checking by hand; None when trusted rows were given.
      truth: (n,) int, true classes, or None when they are not known.
      images: (n, h, w) or (n, h, w, c) array to draw rows from, or None when rows are not images.
      columns: polars or pandas frame with the key and feature columns of the rows, as read, or None.
      rows: (n,) positions of the rows in the source, from 0, where rows without a label were left out
        there; None when all are here.
      keys: names of those columns that identify a row.
      history: dict of equal-length arrays over log points (`step`, `outer_loss`, `held_out_loss`) and
        the scalar `best_step`; None where no weights were learnt step by step.
    """

    given: np.ndarray
    classes: list[str]
    probability: np.ndarray
    flagged: np.ndarray
    suggested: np.ndarray
    checked: np.ndarray
    estimates: Estimates
    summary: dict[str, Any]
    influence: np.ndarray | None = None
    to_check: np.ndarray | None = None
    truth: np.ndarray | None = None
    images: np.ndarray | None = None
    columns: Any = None
    keys: Sequence[str] = ()
    rows: np.ndarray | None = None
    history: dict[str, Any] | None = None

    @property
    def weights(self) -> np.ndarray:
        """(n,) float, probability that the given label is right."""
        return 1 - self.probability

    @property
    def numbers(self) -> np.ndarray:
        """(n,) int, position of each row in the source, from 0."""
        return np.arange(len(self.given)) if self.rows is None else self.rows

    def to_frame(self) -> Any:
        """Return a frame with one line per row: its columns, and what was found.

        The columns `given`, `suggested`, `probability` and `flagged` follow the columns of the data. A
        column of the data with one of these names gets " (data)" behind its name.

        Returns:
          A pandas frame with the index of the data where the data were a pandas frame, else a polars
          frame.
        """
        names = np.array(self.classes, dtype=object)
        found: dict[str, Any] = {
            "given": names[self.given].tolist(),
            "suggested": names[self.suggested].tolist(),
            "probability": np.asarray(self.probability),
            "flagged": np.asarray(self.flagged),
        }
        if self.columns is None:
            with extra("clean"):
                import polars
            return polars.DataFrame(found)
        renamed = {name: f"{name} (data)" for name in self.columns.columns if name in found}
        if hasattr(self.columns, "iloc"):  # pandas
            return self.columns.rename(columns=renamed).assign(**found)
        with extra("clean"):
            import polars
        return self.columns.rename(renamed).with_columns(
            [polars.Series(name, values) for name, values in found.items()]
        )

    def save(self, folder: str | os.PathLike) -> list[Path]:
        """Write the page, its figures, `labels.csv` and `summary.json`; return the paths.

        Args:
          folder: output folder, created if missing; other files in it are kept.

        Raises:
          ValueError: the folder cannot be created or written.
        """
        return _report().write_cleaning(self, folder)

    def __repr__(self) -> str:
        count, rows = int(self.flagged.sum()), len(self.given)
        return f"<Cleaning: {count:,} of {rows:,} labels look wrong, {self.estimates.wrong:,.0f} expected>"

    def _repr_html_(self) -> str:
        return _report().cleaning_fragment(self)


def _report() -> Any:
    # The reports stand above this module and need plotting packages, so only these methods load them.
    return importlib.import_module("bilevel.report")
