"""Faults of the projections of a problem, before any inner solve."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.checking.flat import vector
from bilevel.types import Problem, PyTree


def of_projections(problem: Problem, x: PyTree, y: PyTree) -> list[str]:
    """Return a sentence for each projection that is no projection onto a convex set.

    Args:
      problem: the problem, whose projections are tested near `x` and `y`.
      x, y: the variables.

    Raises:
      ValueError: if a projection fails.
    """
    levels = (
        ("outer_projection", problem.outer_projection, x),
        ("inner_projection", problem.inner_projection, y),
    )
    return [
        fault
        for name, project, variable in levels
        if project is not None and (fault := _fault(name, project, variable))
    ]


def _fault(name: str, project: Callable, variable: PyTree) -> str:
    try:
        got = jax.eval_shape(project, variable)
    except Exception as error:
        raise ValueError(f"the {name} fails at its variable: {type(error).__name__}: {error}") from error
    if got is None:
        return f"The {name} returns nothing: return the projected variable."
    if _shapes(got) != _shapes(variable):
        return (
            f"The {name} changes the structure, the shapes or the dtypes of its variable: it is given "
            f"{_told(variable)} and returns {_told(got)}. Return a variable like the one it is given."
        )
    project = jax.jit(project)
    for scale in (0.5, 5.0):
        ends = [project(_near(variable, scale, seed)) for seed in range(2)]
        if not np.isfinite(vector(ends)).all():
            continue  # a projection that is not defined everywhere
        for end in ends:
            again = vector(project(end))
            if not np.linalg.norm(again - vector(end)) <= 1e-3 * (1e-3 + np.linalg.norm(vector(end))):
                return (
                    f"The {name} is not idempotent: P(P(v)) differs from P(v). A projection leaves a point "
                    "of its set unchanged."
                )
        # A convex set holds the segment between two of its points, so P moves freely along it.
        chord = jax.tree.map(jnp.subtract, *ends)
        length = float(np.linalg.norm(vector(chord)))
        middle = jax.tree.map(lambda a, b: 0.3 * a + 0.7 * b, *ends)
        if (
            length > 1e-3 * scale
            and np.linalg.norm(vector(jax.jvp(project, (middle,), (chord,))[1])) <= 1e-6 * length
        ):
            return (
                f"The {name} is not the projection onto a convex set: its derivative is zero between two "
                "points of the set. Remove rounding and stop_gradient from it."
            )
    return ""


def _near(variable, scale, seed):
    rng = np.random.default_rng(seed)

    def move(leaf):
        size = scale * (1 + float(np.sqrt(np.mean(np.square(leaf))))) if leaf.size else 0.0
        return leaf + jnp.asarray(size * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(move, variable)


def _shapes(pytree):
    return jax.tree.structure(pytree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(pytree)]


def _told(pytree):
    leaves = [
        f"{leaf.dtype.name}[{','.join(map(str, leaf.shape))}]{jax.tree_util.keystr(path)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(pytree)
    ]
    return ", ".join(leaves[:4]) + (", ..." if len(leaves) > 4 else "")
