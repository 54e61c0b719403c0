"""The edges of the spectrum of a symmetric map, by the Lanczos method."""

from collections.abc import Callable

import numpy as np


def spectrum_edges(
    product: Callable[[np.ndarray], np.ndarray],
    size: int,
    *,
    steps: int = 60,
    seed: int = 0,
    within: Callable[[np.ndarray], np.ndarray] = lambda q: q,
) -> tuple[float, float]:
    """Return estimates of the smallest and the largest eigenvalue of a symmetric map.

        q_{k+1} b_k = A q_k - a_k q_k - b_{k-1} q_{k-1},   T = tridiagonal (b, a, b)

    The eigenvalues of T lie between those of A, so a negative one proves that A is not positive
    semi-definite. Every new vector is made orthogonal to all earlier ones: without this, rounding
    would repeat eigenvalues.

    Args:
      product: `w -> A w`.
      size: number of rows of A.
      steps: number of products, at most `size`.
      seed: seed of the first vector.
      within: maps the first vector to an invariant subspace; the edges are those of A on it.

    Returns:
      `(smallest, largest)`; exact up to rounding where `steps` reaches `size`.

    >>> smallest, largest = spectrum_edges(lambda w: np.array([-0.5, 1.0, 4.0]) * w, 3)
    >>> round(smallest, 6), round(largest, 6)
    (-0.5, 4.0)

    Reference: Lanczos, An iteration method for the solution of the eigenvalue problem of linear
    differential and integral operators, J. Res. NBS 1950.
    """
    q = within(np.random.default_rng(seed).normal(size=size))
    basis, diagonal, beside = [q / np.linalg.norm(q)], [], []
    for _ in range(min(steps, size)):
        image = product(basis[-1])
        diagonal.append(float(basis[-1] @ image))
        known = np.asarray(basis)
        # Twice is enough: the first pass leaves a rounding error of the size of what it removed.
        for _ in range(2):
            image = image - known.T @ (known @ image)
        length = float(np.linalg.norm(image))
        if length <= 1e-12 * max(1e-300, *map(abs, diagonal)):
            break
        beside.append(length)
        basis.append(image / length)
    beside = beside[: len(diagonal) - 1]
    values = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    return float(values[0]), float(values[-1])
