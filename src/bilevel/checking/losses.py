"""Faults of the losses and the data alone, before any inner solve."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bilevel.checking.flat import Flat, equations, is_floating
from bilevel.types import Batch, Problem, PyTree


class Part(NamedTuple):
    """One leaf of a variable: its name, and where it lies in the flat vector."""

    name: str
    place: slice


def parts(name: str, variable: PyTree) -> list[Part]:
    """Return the leaves of a variable."""
    found, first = [], 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(variable):
        last = first + np.size(leaf)
        found.append(Part(name + jax.tree_util.keystr(path), slice(first, last)))
        first = last
    return found


def not_finite(problem: Problem, x: PyTree, y: PyTree, batch: Batch) -> list[str]:
    """Return a sentence for each NaN or infinity in the variables, the data and the losses."""
    found = []
    given = {"x": x, "y": y, "the outer data": batch.outer[0], "the inner data": batch.inner[0]}
    for owner, pytree in given.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(pytree):
            if is_floating(leaf) and not np.isfinite(np.asarray(leaf, np.float64)).all():
                place = jax.tree_util.keystr(path)
                verb = "contains" if owner in ("x", "y") else "contain"
                kind = "NaN" if np.isnan(np.asarray(leaf, np.float64)).any() else "infinity"
                found.append(
                    f"{owner[0].upper() if len(owner) > 1 else owner[0]}{owner[1:]} {verb} {kind}"
                    f"{f' in {place}' if place else ''}: remove or replace the affected entries."
                )
    if found:
        return found
    for name, loss, minibatch in _levels(problem, batch):
        value, slopes = jax.value_and_grad(loss, argnums=(0, 1))(x, y, minibatch)
        if not np.isfinite(float(value)):
            found.append(f"{name} is {float(value):g} at the start, though x, y and the data are finite.")
            continue
        for variable, slope in zip("xy", slopes, strict=True):
            for path, leaf in jax.tree_util.tree_leaves_with_path(slope):
                if not np.isfinite(np.asarray(leaf, np.float64)).all():
                    found.append(
                        f"The gradient of {name} is not finite in {variable}{jax.tree_util.keystr(path)} at "
                        "the start: look for a square root, a logarithm or a norm at 0."
                    )
    return found


def not_repeatable(problem: Problem, x: PyTree, y: PyTree, batch: Batch) -> list[str]:
    """Return a sentence for each loss that gives two values at one point, at the start or near it."""
    found = []
    # A start at zero can hide a random factor.
    points = (x, y), tuple(jax.tree.map(lambda leaf: leaf + 0.1, one) for one in (x, y))
    for name, loss, minibatch in _levels(problem, batch):
        for at_x, at_y in points:
            first, second = (float(loss(at_x, at_y, minibatch)) for _ in range(2))
            if np.isfinite([first, second]).all() and first != second:
                found.append(
                    f"The losses differ between two calls: {name} gives {first:.6g} and {second:.6g} at the "
                    "same x, y and batch. Make it a pure function of the three; random numbers come from the "
                    "batch."
                )
                break
    return found


def _levels(problem, batch):
    return ("f", problem.outer, batch.outer[0]), ("g", problem.inner, batch.inner[0])


def probes(flat: Flat, y: np.ndarray, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return points at which derivatives are compared: near y and near the start, if the losses are finite.

    One point does not do: a derivative may vanish there, for example where y is zero, or solves the inner
    problem.
    """
    rng = np.random.default_rng(seed)

    def near(vector):
        spread = 0.1 * (1 + np.linalg.norm(vector) / max(vector.size, 1) ** 0.5)
        return vector + spread * rng.normal(size=vector.shape)

    points = [(flat.x, y), (near(flat.x), near(y)), (near(flat.x), near(flat.y)), (flat.x, flat.y)]
    finite = [at for at in points if np.isfinite(flat.outer(*at)) and np.isfinite(flat.inner(*at))]
    return finite[:3]


def dependence(
    flat: Flat,
    x: PyTree,
    y: PyTree,
    points: Sequence[tuple[np.ndarray, np.ndarray]],
    follows_start: bool = False,
) -> list[str]:
    """Return a sentence for each variable that a loss does not read, or whose derivative is cut.

    The value of a loss, or of g_y, at two points on either side shows whether it changes; its derivative
    should agree.

    Args:
      flat: the problem.
      x, y: its variables, for the names of their leaves.
      points: where to look, from `probes`.
      follows_start: whether a response has a nonzero hypergradient, which only a start at x can explain if
        neither loss reads x.
    """
    found = []
    changes = {name: _Change() for name in ("x to g_y", "y to g", "x to f", "y to f")}
    for point_x, point_y in points:
        for part, direction in _directions("x", x, point_x):
            changes["x to g_y"].add(
                part,
                _difference(lambda x: flat.inner_slope(x, point_y), point_x, direction, flat.rounding),  # noqa: B023
                flat.moved(point_x, point_y, direction),
            )
            f_x = flat.outer_slopes(point_x, point_y)[0]
            changes["x to f"].add(
                part,
                _difference(lambda x: flat.outer(x, point_y), point_x, direction, flat.rounding),  # noqa: B023
                f_x @ direction,
            )
        for part, direction in _directions("y", y, point_y):
            changes["y to g"].add(
                part,
                _difference(lambda y: flat.inner(point_x, y), point_y, direction, flat.rounding),  # noqa: B023
                flat.inner_slope(point_x, point_y) @ direction,
            )
            changes["y to f"].add(
                part,
                _difference(lambda y: flat.outer(point_x, y), point_y, direction, flat.rounding),  # noqa: B023
                flat.outer_slopes(point_x, point_y)[1] @ direction,
            )
    for path, change in changes.items():
        loss = path[5]
        for part, difference, derivative in change.cut:
            what = "g_y" if path == "x to g_y" else loss
            found.append(
                f"A stop_gradient lies between {part[0]} and {loss}: along a direction of {part} {what} "
                f"changes by {difference:.3g} per unit, but its derivative is {derivative:.3g}. Remove the "
                "stop_gradient."
            )
    if not changes["y to f"].any:
        found.append(
            "f does not depend on y: the hypergradient is f_x alone, whatever the response. Does f read y?"
        )
    if not changes["y to g"].any:
        found.append("g does not depend on y: there is no inner problem. Does g read y?")
    if not changes["x to g_y"].any and changes["y to g"].any and not changes["y to g"].cut:
        found.append(_without_x(x, y, changes["x to f"].any, follows_start))
    return found


def _without_x(x, y, reads_x, follows_start):
    def shapes(pytree):
        return jax.tree.structure(pytree), [np.shape(leaf) for leaf in jax.tree.leaves(pytree)]

    if not reads_x and follows_start:
        return (
            "x is the start: implicit responses return zero. Neither f nor g reads x, but a response "
            "follows it: use unrolled(solver, start=...) with the same start."
        )
    if not reads_x and shapes(x) == shapes(y):
        return (
            "g does not depend on x. Does g read x? If x is the start of y: "
            "unrolled(solver, start=lambda x: x)."
        )
    return (
        "g does not depend on x, or only by a term without y: y*(x) is constant, and the hypergradient is "
        "f_x alone. Does g read x?"
    )


class _Change:
    """Comparison of the changes of a quantity along the leaves of a variable with its derivatives."""

    def __init__(self):
        self.any, self.cut, self._sound = False, [], set()

    def add(self, part, difference, derivative):
        """Compare a difference quotient with its uncertainty to a derivative."""
        (slope, noise), derivative = difference, np.asarray(derivative)
        if not np.isfinite(noise):
            return
        size, gap = float(np.linalg.norm(slope)), float(np.linalg.norm(slope - derivative))
        here = max(size, float(np.linalg.norm(derivative)))
        if here <= 10 * noise:
            return
        self.any = True
        if gap > 0.05 * here + 10 * noise and part.name not in [name for name, *_ in self.cut]:
            self.cut.append((part.name, size, float(np.linalg.norm(derivative))))


def _directions(name, variable, point) -> Iterator[tuple[Part, np.ndarray]]:
    """Return a random unit direction inside each leaf, of at most 50 leaves."""
    rng = np.random.default_rng(1)
    for part in parts(name, variable)[:50]:
        direction = np.zeros(point.shape)
        direction[part.place] = rng.normal(size=direction[part.place].shape)
        if direction.any():
            yield part, direction / np.linalg.norm(direction)


def _difference(function, point, direction, rounding):
    """Return the central difference along a direction, and a bound on its error.

    The bound covers rounding, and kinks: there the difference depends on its length.
    """
    size = max(1.0, float(np.abs(point).max(initial=0)))
    slopes, scale = [], 0.0
    for length in (size * rounding ** (1 / 3), 4 * size * rounding ** (1 / 3)):
        ahead, behind = (np.asarray(function(point + side * direction)) for side in (length, -length))
        scale = max(scale, float(np.linalg.norm(np.abs(ahead) + np.abs(behind))) / length)
        slopes.append((ahead - behind) / (2 * length))
    noise = 50 * rounding * (scale + 1e-3) + float(np.linalg.norm(slopes[0] - slopes[1]))
    return slopes[0], noise


def unread_data(problem: Problem, x: PyTree, y: PyTree, batch: Batch) -> list[str]:
    """Return a sentence for each loss that reads an array like its data, but not its data."""
    found = []
    for name, loss, minibatch in _levels(problem, batch):
        moved = perturbed(minibatch)
        if moved is None:
            continue
        shapes = {np.shape(leaf) for leaf in jax.tree.leaves(minibatch) if np.ndim(leaf)}
        closed = shapes & {np.shape(value) for value in _constants(jax.make_jaxpr(loss)(x, y, minibatch))}
        unmoved = all(
            float(loss(x, at, minibatch)) == float(loss(x, at, moved))
            for at in (y, jax.tree.map(lambda leaf: leaf + 0.1, y))
        )
        if closed and unmoved:
            found.append(
                f"{name} reads a stale batch: it closes over an array of the shape {min(closed)}, and other "
                "data in its batch leave its value unchanged. Read the third argument of the loss."
            )
    return found


def _constants(closed: Any) -> list[Any]:
    """Return the arrays that a traced function closes over, those of its inner functions included."""
    found = list(closed.consts)
    for equation in equations(closed):
        found += [variable.val for variable in equation.invars if hasattr(variable, "val")]
        for value in equation.params.values():
            found += getattr(value, "consts", [])
    return found


def perturbed(minibatch: Any, seed: int = 2) -> Any:
    """Return a minibatch with other floating-point numbers, or None if it has none."""
    rng, any_floating = np.random.default_rng(seed), False

    def move(leaf):
        nonlocal any_floating
        if not is_floating(leaf):
            return leaf
        any_floating = True
        old = np.asarray(leaf)
        factor = 1 + 0.1 * rng.uniform(0.5, 1, size=old.shape)
        return jax.numpy.asarray((np.asarray(old, np.float64) * factor), leaf.dtype)

    moved = jax.tree.map(move, minibatch)
    return moved if any_floating else None
