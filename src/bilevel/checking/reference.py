"""The reference hypergradient: a tight inner solve and an exact adjoint, in float64.

All loops run on the host, on flat vectors. They share no code with the responses of the library.
"""

from typing import NamedTuple

import numpy as np

from bilevel.checking.flat import Flat
from bilevel.checking.lanczos import spectrum_edges

DENSE = 500  # largest number of entries of y for which the Hessian is a matrix


class Spectrum(NamedTuple):
    """Smallest and largest eigenvalue of the inner Hessian; exact where it was a matrix."""

    smallest: float
    largest: float
    exact: bool

    @property
    def condition(self) -> float:
        """Condition number; infinite unless the smallest eigenvalue is positive."""
        return self.largest / self.smallest if self.smallest > 0 else float("inf")

    @property
    def indefinite(self) -> bool:
        """Whether there is an eigenvalue that is negative beyond rounding."""
        return self.smallest < -1e-8 * max(abs(self.largest), abs(self.smallest))

    @property
    def singular(self) -> bool:
        """Whether the smallest eigenvalue is zero up to rounding."""
        scale = max(abs(self.largest), abs(self.smallest))
        return not self.indefinite and self.smallest <= 1e-9 * scale


class Reference(NamedTuple):
    """A tightly solved inner problem and the hypergradient there.

    Attributes:
      y: inner solution, a flat vector.
      gradient: f_x - J v, a flat vector.
      inner_residual: |g_y| at y, or |y - P(y - s g_y)| / s with an inner set.
      linear_residual: |f_y - H v| / |f_y|.
      control: largest difference from central differences of f(x, y*(x)) along random directions,
        relative to the gradient.
      scale: |gradient|, but at least a thousandth of its two terms |f_x| + |J v|: near a stationary point
        they cancel, and errors relative to the gradient alone would mean little.
      solved: whether the inner solve reached rounding and all numbers are finite.
      method: "dense" or "conjugate gradients".
    """

    y: np.ndarray
    gradient: np.ndarray
    inner_residual: float
    linear_residual: float
    control: float
    scale: float
    solved: bool
    method: str


def inner_spectrum(flat: Flat, x: np.ndarray, y: np.ndarray) -> Spectrum:
    """Return the edges of the spectrum of H at a point."""
    if y.size <= DENSE:
        matrix = flat.matrix(x, y)
        if not np.isfinite(matrix).all():
            return Spectrum(float("nan"), float("nan"), True)
        values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        return Spectrum(float(values[0]), float(values[-1]), True)
    smallest, largest = spectrum_edges(lambda w: flat.hessian(x, y, w), y.size)
    return Spectrum(smallest, largest, False)


def free_spectrum(flat: Flat, x: np.ndarray, y: np.ndarray) -> Spectrum:
    """Return the edges of the spectrum of A in the directions that no active constraint blocks.

    A is the matrix of the adjoint system, see `bilevel.feasible`; without an inner set it is H.
    """
    if flat.project is None:
        return inner_spectrum(flat, x, y)
    step = _step(flat, x, y)
    along = _along_set(flat, x, y, step)

    def product(w):
        free = along(w)
        return along(flat.hessian(x, y, free) + (w - free) / step)

    if y.size > DENSE:
        return Spectrum(*spectrum_edges(product, y.size, within=along), False)
    shares, vectors = np.linalg.eigh(np.stack([along(e) for e in np.eye(y.size)]))
    basis = vectors[:, shares > 1e-6]
    if not basis.size:  # every direction is blocked, and y is a strict minimum
        return Spectrum(1.0, 1.0, True)
    values = np.linalg.eigvalsh(basis.T @ np.stack([product(column) for column in basis.T], axis=1))
    return Spectrum(float(values[0]), float(values[-1]), True)


def solve_reference(flat: Flat, y: np.ndarray, *, directions: int = 3, seed: int = 0) -> Reference:
    """Solve the inner problem from y, and return the hypergradient with its control.

    Args:
      flat: the problem.
      y: where the inner solve starts.
      directions: number of central differences, each of two inner solves.
      seed: seed of their directions.
    """
    x = flat.x
    y, residual, solved = minimise(flat, x, y)
    method = "dense" if y.size <= DENSE else "conjugate gradients"
    if not solved:
        nothing = np.full(x.shape, np.nan)
        return Reference(y, nothing, residual, float("nan"), float("nan"), 1.0, False, method)
    f_x, f_y = flat.outer_slopes(x, y)
    pulled, linear_residual = implicit_pullback(flat, x, y, f_y)
    gradient = f_x + pulled
    terms = float(np.linalg.norm(f_x) + np.linalg.norm(pulled))
    scale = max(float(np.linalg.norm(gradient)), 1e-3 * terms) or 1.0
    rng, control = np.random.default_rng(seed), 0.0
    for _ in range(directions):
        direction = rng.normal(size=x.shape)
        direction /= np.linalg.norm(direction)
        slope = _slope(flat, x, y, direction)
        want = float(gradient @ direction)
        control = max(control, abs(slope - want) / max(abs(want), scale / x.size**0.5))
    finite = bool(np.isfinite(gradient).all())
    return Reference(y, gradient, residual, linear_residual, control, scale, finite, method)


def _slope(flat, x, y, direction):
    """Return the central difference of f(x, y*(x)) along a direction."""
    length = 10 * flat.rounding ** (1 / 3) * max(1.0, float(np.linalg.norm(x)) / x.size**0.5)
    ends = []
    for side in (length, -length):
        moved = x + side * direction
        ends.append(float(flat.outer(moved, minimise(flat, moved, y)[0])))
    return (ends[0] - ends[1]) / (2 * length)


def hypergradient_at(flat: Flat, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Return `f_x - J v` with an exact adjoint at any y, and the residual of the adjoint."""
    f_x, f_y = flat.outer_slopes(x, y)
    pulled, residual = implicit_pullback(flat, x, y, f_y)
    return f_x + pulled, residual


def implicit_pullback(flat: Flat, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, float]:
    """Return `-J v` with H v = w at y, and the relative residual.

    With an inner set, P is the derivative of its projection at `y - s g_y`, and

        v = P u,   (P H P + P (I - P) / s) u = P w

    The second term is the curvature of the set.
    """
    b, product = w, lambda v: flat.hessian(x, y, v)
    along = None
    if flat.project is not None:
        step = _step(flat, x, y)
        along = _along_set(flat, x, y, step)
        b = along(w)

        def product(v):
            free = along(v)
            return along(flat.hessian(x, y, free) + (v - free) / step)

    if y.size <= DENSE:
        if along is None:
            matrix = flat.matrix(x, y)
        else:
            matrix = np.stack([product(e) for e in np.eye(y.size)], axis=1)
        if not np.isfinite(matrix).all():
            return np.full(x.shape, np.nan), float("nan")
        # Least squares, so that a singular matrix gives the adjoint of least norm. With a set the matrix is
        # singular across active constraints, up to rounding.
        v = np.linalg.lstsq(matrix, b, rcond=1e-13 if along is None else 1e-12)[0]
        residual = b - matrix @ v
    else:
        v, residual = _conjugate_gradients(product, b, 1e-12, min(10 * y.size, 5000))
    scale = float(np.linalg.norm(b)) or 1.0
    v = v if along is None else along(v)
    return -flat.cross(x, y, v), float(np.linalg.norm(residual)) / scale


def minimise(flat: Flat, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float, bool]:
    """Return the minimiser of g(x, .) that Newton's method reaches from y.

    Returns:
      `(y, residual, solved)`.
    """
    if flat.project is not None:
        return _minimise_on_set(flat, x, y)
    start = y
    slope = flat.inner_slope(x, y)
    goal = max(1e-11, 100 * flat.rounding) * max(1.0, float(np.linalg.norm(slope)))
    value = float(flat.inner(x, y))
    for _ in range(100):
        size = float(np.linalg.norm(slope))
        if not np.isfinite(size) or np.abs(y).max() > 1e8 * (1 + np.abs(start).max()):
            return y, size, False
        if size <= goal:
            break
        step = _newton_step(flat, x, y, slope)
        length, along = 1.0, float(step @ slope)
        while length > 1e-12:
            new = y + length * step
            new_value, new_slope = float(flat.inner(x, new)), flat.inner_slope(x, new)
            lower = new_value <= value + 1e-4 * length * along
            # Near the minimum the loss no longer falls in float64, but its gradient does.
            flatter = (
                abs(new_value - value) <= 1e4 * flat.rounding * (1 + abs(value))
                and np.linalg.norm(new_slope) < size
            )
            if np.isfinite(new_value) and (lower or flatter):
                break
            length /= 4
        else:
            break
        if not np.linalg.norm(new - y) > 0:
            break
        y, value, slope = new, new_value, new_slope
    size = float(np.linalg.norm(slope))
    return y, size, size <= max(1e3 * goal, 1e-7)


def _newton_step(flat, x, y, slope):
    """Return a descent direction: Newton's, with negative curvature turned around."""
    if y.size <= DENSE:
        matrix = flat.matrix(x, y)
        if not np.isfinite(matrix).all():
            return -slope
        values, basis = np.linalg.eigh((matrix + matrix.T) / 2)
        values = np.maximum(np.abs(values), 1e-10 * max(np.abs(values).max(), 1e-6))
        return -basis @ ((basis.T @ slope) / values)
    tolerance = min(0.1, float(np.linalg.norm(slope)) ** 0.5)
    return _conjugate_gradients(lambda w: flat.hessian(x, y, w), -slope, tolerance, 500)[0]


def _conjugate_gradients(product, b, tolerance, steps):
    """Return the solution and its residual; stop at a direction of negative curvature."""
    v, residual, direction = np.zeros_like(b), b, b
    square, goal = float(b @ b), tolerance**2 * float(b @ b)
    for _ in range(steps):
        if square <= goal:
            break
        image = product(direction)
        curvature = float(direction @ image)
        if curvature <= 0:
            return (v if v.any() else direction), residual
        v, residual = v + square / curvature * direction, residual - square / curvature * image
        new = float(residual @ residual)
        direction, square = residual + new / square * direction, new
    return v, residual


def _along_set(flat, x, y, step):
    """Return `w -> P w` at `y - s g_y`, with the derivative P of the projection onto the inner set."""
    moved = y - step * flat.inner_slope(x, y)
    return lambda w: flat.project_along(moved, w)


def _step(flat, x, y):
    largest = spectrum_edges(lambda w: flat.hessian(x, y, w), y.size, steps=20)[1]
    return 1 / largest if largest > 0 else 1.0


def _minimise_on_set(flat, x, y):
    """Return the minimiser on the inner set, by accelerated projected gradients and Newton steps."""
    y = flat.project(y)
    step = 0.9 * _step(flat, x, y)

    def miss(y):
        return y - flat.project(y - step * flat.inner_slope(x, y))

    ahead, momentum = y, 1.0
    for _ in range(3000):
        new = flat.project(ahead - step * flat.inner_slope(x, ahead))
        moved = float(np.linalg.norm(new - y))
        if (ahead - new) @ (new - y) > 0:  # the path turns back: restart the momentum
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead, y, momentum = new + (momentum - 1) / following * (new - y), new, following
        if not moved > 1e-13 * (1 + float(np.linalg.norm(y))):
            break
    for _ in range(10 if y.size <= DENSE else 0):
        error = miss(y)
        if np.linalg.norm(error) <= 1e-14 * (1 + np.linalg.norm(y)):
            break
        along = _along_set(flat, x, y, step)
        columns = [e - along(e - step * flat.hessian(x, y, e)) for e in np.eye(y.size)]
        new = flat.project(y - np.linalg.lstsq(np.stack(columns, axis=1), error, rcond=1e-13)[0])
        if not np.linalg.norm(miss(new)) < np.linalg.norm(error):
            break
        y = new
    residual = float(np.linalg.norm(miss(y))) / step
    return y, residual, residual <= 1e-6 * max(1.0, float(np.linalg.norm(flat.inner_slope(x, y))))


def active_constraints(flat: Flat, x: np.ndarray, y: np.ndarray) -> int:
    """Return the number of active constraints of the inner set: the directions in which y cannot move."""
    if flat.project is None:
        return 0
    along = _along_set(flat, x, y, _step(flat, x, y))
    if y.size <= DENSE:
        lengths = np.linalg.svd(np.stack([along(e) for e in np.eye(y.size)]), compute_uv=False)
        return int(np.sum(lengths <= 1e-9))
    # Random signs estimate both traces. For a multiple of a projector, as on a polyhedron or a ball,
    # their ratio is the rank of P.
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(min(y.size, 64), y.size))
    images = [along(w) for w in signs]
    trace = float(np.mean([w @ image for w, image in zip(signs, images, strict=True)]))
    square = float(np.mean([image @ image for image in images]))
    return round(y.size - trace**2 / square) if square > 0 else y.size
