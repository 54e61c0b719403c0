"""Wrong labels made on purpose, to measure how many of them are found."""

import numpy as np


def corrupt(
    labels: np.ndarray, classes: int, rate: float, *, kind: str = "uniform", seed: int = 0
) -> np.ndarray:
    """Return the labels with a share of them made wrong.

    Args:
      labels: (n,) class indices.
      classes: number of classes.
      rate: share of rows that get a wrong label, in [0, 1); exactly `round(rate n)` rows do.
      kind: "uniform" (drawn among the other classes) or "pair" (class c becomes c + 1, the last
        class the first).
      seed: seed of the random choice of rows and labels.

    Returns:
      (n,) labels; a corrupted row never keeps its label.

    Raises:
      ValueError: when `rate`, `kind` or `classes` is out of its range.

    >>> corrupt(np.array([0, 1, 2]), 3, 0.99, kind="pair")
    array([1, 2, 0])
    """
    if not 0 <= rate < 1:
        raise ValueError(f"noise must be in [0, 1), got {rate}; 0.4 makes 40 % of the labels wrong")
    if kind not in ("uniform", "pair"):
        raise ValueError(f"the kind of noise must be 'uniform' or 'pair', got {kind!r}")
    if classes < 2:
        raise ValueError(f"noise needs at least 2 classes, got {classes}; use labels of more classes")
    labels = np.asarray(labels)
    random = np.random.default_rng(seed)
    wrong = random.permutation(len(labels)) < round(rate * len(labels))
    shift = 1 if kind == "pair" else random.integers(1, classes, len(labels))
    return np.where(wrong, (labels + shift) % classes, labels).astype(labels.dtype)
