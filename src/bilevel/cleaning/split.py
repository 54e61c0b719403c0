"""A test bench from a known data set: noisy training rows, trusted rows, and the truth."""

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
    """Noisy training rows and clean trusted rows of a data set whose labels are right.

    Rows are shuffled by the seed; the first `trusted_rows` are held out as trusted, the next `rows`
    are the training rows, and their labels are corrupted once.

    Args:
      dataset: with right labels; its test part is passed on.
      rows: number of training rows; None takes all that are left.
      trusted_rows: number of trusted rows; None takes 200, or a fifth of the rows if that is fewer.
      noise, kind: of the labels, see `corrupt`.
      seed: of the shuffle and of the noise.

    Returns:
      The data set with `trusted_features` and `trusted_labels`, and the (n,) true labels.

    Raises:
      ValueError: when there are not that many rows.
    """
    total = len(dataset.labels)
    trusted_rows = min(200, total // 5) if trusted_rows is None else trusted_rows
    rows = total - trusted_rows if rows is None else rows
    if min(rows, trusted_rows) < 1 or rows + trusted_rows > total:
        raise ValueError(
            f"{dataset.name} has {total} rows, which must hold at least 1 training and 1 trusted row, "
            f"got {rows} training and {trusted_rows} trusted rows; lower --rows or --trusted-rows"
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
