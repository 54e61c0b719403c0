"""The outcome of a cleaning run, with every number that its reports show."""

from typing import Any, NamedTuple

import numpy as np


class Cleaning(NamedTuple):
    """Outcome of `clean`.

    Attributes:
      given: (n,) int, class index of each training row, as given.
      weights: (n,) float in [0, 1], learnt weight of each row.
      flagged: (n,) bool, whether the label of each row is probably wrong.
      suggested: (n,) int, suggested class of each row. A model that has not seen the doubted rows
        suggests it for the flagged rows, the final model for the others.
      truth: (n,) int, true classes, or None when they are not known.
      classes: names of the classes, by index.
      images: (n, h, w) or (n, h, w, c) array to draw rows from, or None when rows are not images.
      history: dict of equal-length arrays over log points: `step`, `seconds`, `outer_loss`,
        `inner_loss`, `inner_residual`, `held_out_loss`; and the scalar `best_step`.
      summary: the JSON-ready numbers of `summary.json`.
    """

    given: np.ndarray
    weights: np.ndarray
    flagged: np.ndarray
    suggested: np.ndarray
    truth: np.ndarray | None
    classes: list[str]
    images: np.ndarray | None
    history: dict[str, Any]
    summary: dict[str, Any]
