"""The noise of the labels, estimated from predictions for training and trusted rows."""

import numpy as np

ITERATIONS = 200


def estimate_noise(
    given: np.ndarray,
    predicted: np.ndarray,
    trusted_labels: np.ndarray,
    trusted_predicted: np.ndarray,
    classes: int,
    seen: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the noise T[t, g] = p(given g | true t) and the shares of the true classes.

    Given and predicted label of a row are taken to be independent given the true label:

        p(g, p) = sum_t share[t] T[t, g] C[t, p]

    with the confusion C[t, p] = p(predicted p | true t). EM maximises the likelihood of the pairs
    (g, p) of the training rows and (t, p) of the trusted rows.

    Args:
      given, predicted: (n,) given and cross-fitted predicted classes of the training rows.
      trusted_labels, trusted_predicted: (m,) the same of the trusted rows.
      classes: K.
      seen: (K, K) counts of (true, given) among checked rows, or None.

    Returns:
      (K, K) noise, whose rows sum to 1, and (K,) shares.

    Reference: Dawid and Skene, Maximum likelihood estimation of observer error-rates using the EM
    algorithm, Applied Statistics 28(1), 1979.
    """
    eye = np.eye(classes)
    confusion_counts = np.zeros((classes, classes))
    np.add.at(confusion_counts, (trusted_labels, trusted_predicted), 1)
    accuracy = np.trace(confusion_counts) / max(len(trusted_labels), 1)
    # One row's worth of the average accuracy, so that classes with few trusted rows have an estimate.
    confusion_counts += accuracy * eye + (1 - accuracy) * (1 - eye) / (classes - 1)
    noise_counts = 1e-3 + (np.zeros((classes, classes)) if seen is None else seen)
    pairs, counts = np.unique(np.stack([given, predicted]), axis=1, return_counts=True)
    g, p = pairs
    confusion = confusion_counts / confusion_counts.sum(axis=1, keepdims=True)
    noise = 0.8 * eye + 0.2 / classes
    shares = np.full(classes, 1 / classes)
    for _ in range(ITERATIONS):
        joint = shares[:, None] * noise[:, g] * confusion[:, p]
        expected = joint / np.maximum(joint.sum(axis=0), 1e-300) * counts
        new = noise_counts.copy()
        np.add.at(new.T, g, expected.T)
        shares = expected.sum(axis=1) / counts.sum()
        previous, noise = noise, new / new.sum(axis=1, keepdims=True)
        confusion = confusion_counts.copy()
        np.add.at(confusion.T, p, expected.T)
        confusion /= confusion.sum(axis=1, keepdims=True)
        if np.abs(noise - previous).max() < 1e-6:
            break
    return noise, shares


def posterior(outputs: np.ndarray, labels: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return (N, K) probabilities of the true classes, given the outputs and the given labels.

        p(t | row, g) ~ outputs[t] T[t, g]

    Args:
      outputs: (N, K) probabilities of the true classes by a model.
      labels: (N,) given class indices.
      noise: (K, K) noise T.
    """
    joint = outputs * noise[:, labels].T
    return joint / np.maximum(joint.sum(axis=1, keepdims=True), 1e-300)
