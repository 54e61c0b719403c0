"""Flags from probabilities: the threshold, expected precision and recall, and whether to flag at all."""

import numpy as np
import scipy.stats

from bilevel.cleaning.result import ClassEstimates, Estimates

# A detector with a smaller area under the ROC curve carries no signal, nor does one that takes away less than
# this share of what the given label alone lacks.
SMALLEST_AREA, SMALLEST_GAIN = 0.6, 0.2
# Expected share of the flags that are right.
SMALLEST_PRECISION = 0.5
# A threshold that no probability reaches.
NOTHING = 1.01
# Flags are given up if rows with right labels would be flagged as often, at this level of significance.
LEVEL = 0.1
# The test needs enough trusted rows to notice that this share of the labels is wrong.
NOTICED = 0.05


def threshold(probability: np.ndarray, cost: float | None) -> float:
    """Return the probability from which rows are flagged.

    Without a cost, it maximises the expected f1 of the flags,

        2 sum_flagged p_i / (flags + sum_i p_i),

    over the thresholds at which at least half of the flags are expected to be right. It is above 1 if
    there is no such threshold.

    Args:
      probability: (n,) probabilities that labels are wrong.
      cost: ratio of two costs, a false alarm to a missed wrong label, or None. With a ratio, the
        threshold is cost / (1 + cost).
    """
    if cost is not None:
        return cost / (1 + cost)
    ordered = np.sort(probability)[::-1]
    flags, hits = np.arange(1, len(ordered) + 1), np.cumsum(ordered)
    expected = np.where(hits / flags >= SMALLEST_PRECISION, 2 * hits / (flags + ordered.sum()), 0)
    return float(ordered[int(np.argmax(expected))]) if expected.any() else NOTHING


def no_signal(area: float, label_area: float, flags: int, rows: int, alarms: int, trusted: int) -> str:
    """Return why nothing can be flagged, or "".

    Args:
      area: area under the ROC curve of the detector on the canaries.
      label_area: area under the ROC curve of the given label alone.
      flags: number of flagged training rows.
      rows: number of training rows.
      alarms: number of trusted rows that would be flagged with their right labels.
      trusted: number of trusted rows.
    """
    if area < max(SMALLEST_AREA, label_area + SMALLEST_GAIN * (1 - label_area)):
        return (
            "the scores do not tell wrong labels from right ones (area under the ROC curve on trusted rows "
            f"{area:.2f}, of the given label alone {label_area:.2f}), so no row is flagged; "
            "give better features or more trusted rows"
        )
    if flags == 0:
        return ""
    # p(at least so many of all flags fall on training rows) if these had right labels, too
    chance = scipy.stats.hypergeom.sf(flags - 1, rows + trusted, rows, flags + alarms)
    decidable = (rows / (rows + trusted)) ** (NOTICED * rows) < LEVEL
    if chance < LEVEL or not decidable:
        return ""
    return (
        f"{alarms} of {trusted} trusted rows would be flagged with their right labels and {flags} of "
        f"{rows:,} training rows are; that is no sign of wrong labels, so no row is flagged"
    )


def estimate(
    probability: np.ndarray,
    flagged: np.ndarray,
    given: np.ndarray,
    classes: list[str],
    trusted_labels: np.ndarray,
    noise: np.ndarray,
) -> Estimates:
    """Return the expected number of wrong labels, precision and recall, overall and by class.

    Args:
      probability: (n,) probabilities that the given labels are wrong.
      flagged: (n,) bool.
      given: (n,) given class indices.
      classes: names of the classes.
      trusted_labels: (m,) labels of the trusted rows.
      noise: (K, K) estimated noise.
    """

    def of_class(label):
        mask = given == label
        flags, p = flagged & mask, probability[mask]
        wrong, hits = float(p.sum()), float(probability[flags].sum())
        right = float((1 - p).sum())
        return ClassEstimates(
            name=classes[label],
            rows=int(mask.sum()),
            trusted=int((trusted_labels == label).sum()),
            flagged=int(flags.sum()),
            wrong=wrong,
            precision=_ratio(hits, flags.sum()),
            recall=_ratio(hits, wrong),
            false_alarms=_ratio(flags.sum() - hits, right),
        )

    wrong, hits = float(probability.sum()), float(probability[flagged].sum())
    return Estimates(
        wrong=wrong,
        rate=wrong / len(given),
        precision=_ratio(hits, flagged.sum()),
        recall=_ratio(hits, wrong) if flagged.any() else float("nan"),
        classes=[of_class(label) for label in range(len(classes))],
        noise=noise,
    )


def _ratio(part, whole):
    return float(part / whole) if whole > 0 else float("nan")
