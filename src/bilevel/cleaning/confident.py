"""Confident learning: wrong labels found without trusted rows.

Reference: Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels,
Journal of Artificial Intelligence Research 70, 2021, arXiv:1911.00068.
"""

import numpy as np
import scipy.optimize
import scipy.special


def confident_joint(outputs: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Return the (K, K) estimated number of rows by given and true class.

    A row counts for the most probable class among those whose probability is at least the average over
    the rows with that given class. Counts are scaled so that each given class keeps its rows.

    Args:
      outputs: (n, K) probabilities by models that have not seen the row.
      given: (n,) given class indices.
    """
    classes = outputs.shape[1]
    rows = np.bincount(given, minlength=classes)
    average = np.full(classes, np.inf)
    for label in np.flatnonzero(rows):
        average[label] = outputs[given == label, label].mean()
    above = outputs >= average - 1e-6
    sure = above.any(axis=1)
    confident = np.where(above, outputs, -1).argmax(axis=1)
    joint = np.zeros((classes, classes))
    np.add.at(joint, (given[sure], confident[sure]), 1)
    # A class without confident rows is taken to be right.
    joint[np.arange(classes), np.arange(classes)] = np.maximum(np.diag(joint), 1)
    return joint / joint.sum(axis=1, keepdims=True) * rows[:, None]


def confident_flags(outputs: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Return (n,) bool, the wrong labels found by "prune by noise rate".

    For each pair of given class g and other class t, as many rows of g as the joint counts are flagged:
    those with the largest margin of t over g.

    Args:
      outputs: (n, K) probabilities by models that have not seen the row.
      given: (n,) given class indices.
    """
    joint = np.round(confident_joint(outputs, given)).astype(int)
    flagged = np.zeros(len(given), bool)
    for label in range(outputs.shape[1]):
        positions = np.flatnonzero(given == label)
        for other in np.flatnonzero(joint[label]):
            if other != label:
                margin = outputs[positions, other] - outputs[positions, label]
                flagged[positions[np.argsort(-margin, kind="stable")[: joint[label, other]]]] = True
    # A row whose own label is the most probable one is kept.
    return flagged & (outputs.argmax(axis=1) != given)


def calibrate(probability: np.ndarray, wrong: int) -> np.ndarray:
    """Return the probabilities with their log-odds shifted so that they sum to a number of wrong labels.

    Args:
      probability: (n,) probabilities.
      wrong: expected number of wrong labels.
    """
    logits = scipy.special.logit(np.clip(probability, 1e-6, 1 - 1e-6))
    wrong = np.clip(wrong, 1e-3, len(logits) - 1e-3)

    def excess(shift):
        return scipy.special.expit(logits + shift).sum() - wrong

    return scipy.special.expit(logits + scipy.optimize.brentq(excess, -40, 40))
