"""Test benches: noisy training rows, trusted rows, and the truth."""

import numpy as np

from bilevel.cleaning.noise import corrupt
from bilevel.datasets.types import Dataset


def split(
    dataset: Dataset,
    *,
    rows: int | None = None,
    trusted_rows: int | None = None,
    noise: float = 0.4,
    kind: str = "uniform",
    seed: int = 0,
) -> tuple[Dataset, np.ndarray]:
    """Return noisy training rows and clean trusted rows of a data set, and the truth.

    The rows are shuffled. The first `trusted_rows` become the trusted rows, the next `rows` the
    training rows, whose labels are then corrupted.

    Args:
      dataset: a data set whose labels are right; its test part stays as it is.
      rows: number of training rows; default: all rows but the trusted ones.
      trusted_rows: number of trusted rows; default: 200, or a fifth of the rows if that is fewer.
      noise, kind: share and kind of wrong labels, see `corrupt`.
      seed: seed of the shuffle and of the noise.

    Returns:
      The data set with `trusted_features` and `trusted_labels`, and the (n,) true labels.

    Raises:
      ValueError: when the data set has too few rows.
    """
    total = len(dataset.labels)
    trusted_rows = min(200, total // 5) if trusted_rows is None else trusted_rows
    rows = total - trusted_rows if rows is None else rows
    if min(rows, trusted_rows) < 1 or rows + trusted_rows > total:
        raise ValueError(
            f"rows and trusted_rows must be at least 1 and together at most {total}, the rows of "
            f"{dataset.name}, got {rows} and {trusted_rows}; change --rows or --trusted-rows"
        )
    order = np.random.default_rng(seed).permutation(total)
    trusted, training = order[:trusted_rows], order[trusted_rows : trusted_rows + rows]
    truth = dataset.labels[training]
    noisy = corrupt(truth, len(dataset.classes), noise, kind=kind, seed=seed + 1)
    bench = dataset._replace(
        features=dataset.features[training],
        labels=noisy,
        trusted_features=dataset.features[trusted],
        trusted_labels=dataset.labels[trusted],
    )
    return bench, truth
