"""The choice of the rows that are most worth checking by hand."""

import numpy as np


def rows_to_check(confidence: np.ndarray, given: np.ndarray, count: int) -> np.ndarray:
    """Return the positions of rows that teach the detector most, spread over all levels of suspicion.

    Within each class the rows are ordered by the confidence in their label, and rows at equal distances
    are taken, so that each class gives its share of the rows and at least two. The first rows of the result
    are such a choice by themselves.

    Args:
      confidence: (n,) probability of the given label by a model that has not seen the row.
      given: (n,) given class indices.
      count: number of rows.
    """
    count = min(count, len(given))
    labels, rows = np.unique(given, return_counts=True)
    places, order = [], []
    for label, size in zip(labels, rows, strict=True):
        positions = np.flatnonzero(given == label)
        positions = positions[np.argsort(confidence[positions], kind="stable")]
        wanted = min(size, max(2, round(count * size / len(given))))
        # Midpoints of equal parts of the order, in van der Corput's order: any first part of them is spread.
        chosen = positions[((np.arange(wanted) + 0.5) / wanted * size).astype(int)]
        places.append(chosen[np.argsort([_reversed_bits(place) for place in range(wanted)], kind="stable")])
        order.append((np.arange(wanted) + 0.5) / wanted)
    merged = np.concatenate(places)[np.argsort(np.concatenate(order), kind="stable")]
    return merged[: max(count, 2 * len(labels))]


def _reversed_bits(number: int) -> float:
    """Return the bits of a number behind the binary point, in reverse.

    >>> [_reversed_bits(number) for number in range(4)]
    [0.0, 0.5, 0.25, 0.75]
    """
    value, half = 0.0, 0.5
    while number:
        value, number, half = value + half * (number & 1), number >> 1, half / 2
    return value
