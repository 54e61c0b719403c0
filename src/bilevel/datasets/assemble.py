"""Data sets from rows and labels of each part, and labels that were checked by hand."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bilevel.datasets.labels import Classes, count
from bilevel.datasets.types import Dataset

Parts = dict[str, tuple[Any, Any]]


def assemble(
    name: str,
    parts: Parts,
    fit: Callable[[Any, list[str], np.ndarray], Callable[[Any, str], Any]],
    *,
    where: str = "",
    missing: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    shown: Any = None,
    keys: tuple[str, ...] = (),
    image_shape: tuple[int, ...] | None = None,
) -> Dataset:
    """Return the data set of some rows and labels; rows without a label are left out.

    Args:
      name: name of the data set.
      parts: `{part: (rows, labels)}` of the parts "training", "trusted" and "test"; labels are polars
        Series of text.
      fit: function from training rows, a list of notes and the positions of the rows in the source to the
        function from rows of any part, and the name of that part, to features.
      where: the beginning of error messages.
      missing: markers of missing labels; None means the usual ones.
      notes: notes so far.
      shown: polars.DataFrame of the training rows as read, or None.
      keys: names of those columns of `shown` that identify a row.
      image_shape: shape of the images, or None.

    Raises:
      ValueError: when the labels are not classes, or a part has no row with a label.
    """
    notes = list(notes)
    classes = Classes(f"{where}training", parts["training"][1], missing)
    notes += classes.notes
    rows, indices, kept = {}, {}, {}
    for part, (part_rows, labels) in parts.items():
        positions, found = classes.positions(f"{where}{part}", labels)
        notes += found
        kept[part] = np.flatnonzero(positions >= 0)
        absent = len(positions) - len(kept[part])
        if absent == len(positions):
            raise ValueError(f"{where}{part} rows have no labels; fill in the column of labels")
        if absent:
            notes.append(f"{count(absent, f'{part} row')} without a label left out")
            part_rows = part_rows[kept[part]]
        rows[part], indices[part] = part_rows, positions[kept[part]]
    transform = fit(rows["training"], notes, kept["training"])
    features = {part: transform(part_rows, part) for part, part_rows in rows.items()}
    complete = len(kept["training"]) == len(parts["training"][1])
    return Dataset(
        name=name,
        features=features["training"],
        labels=indices["training"],
        classes=classes.names,
        test_features=features.get("test"),
        test_labels=indices.get("test"),
        trusted_features=features.get("trusted"),
        trusted_labels=indices.get("trusted"),
        image_shape=image_shape,
        shown=shown if shown is None or complete else shown[kept["training"]],
        keys=keys,
        notes=tuple(dict.fromkeys(notes)),
        rows=None if complete else kept["training"],
    )


def with_checked(dataset: Dataset, positions: np.ndarray, labels: np.ndarray) -> Dataset:
    """Return the data set with some of its rows as trusted rows.

    Args:
      dataset: a data set.
      positions: positions of the checked rows in the source.
      labels: class indices of their checked labels.
    """
    order = np.argsort(positions, kind="stable")
    positions, labels = np.asarray(positions)[order], np.asarray(labels)[order]
    notes = list(dataset.notes)
    if dataset.rows is not None:
        present = np.isin(positions, dataset.rows)
        if not present.all():
            absent = count(int((~present).sum()), "checked row")
            notes.append(f"{absent} without a label in the data left out")
        positions, labels = np.searchsorted(dataset.rows, positions[present]), labels[present]
    return dataset._replace(
        trusted_features=dataset.features[positions],
        trusted_labels=labels.astype(np.int32),
        checked_rows=positions,
        notes=tuple(notes),
    )
