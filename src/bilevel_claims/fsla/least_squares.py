"""Least squares at both levels, the synthetic problem of the FSLA paper."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.types import Batch, Problem
from bilevel_claims.problems.batches import batches


class LeastSquares(NamedTuple):
    """Least squares at both levels, with the minimiser and the Hessian of Phi."""

    problem: Problem
    outer: Any  # rows `(A, b)`
    inner: Any  # rows `(C, D, e)`
    best: Any
    curvature: Any
    inner_top: float  # largest eigenvalue of the Hessian of g in y
    outer_top: float  # largest eigenvalue of the Hessian of Phi

    def data(self, batch_size: int | None, seed: int = 0) -> Batch:
        """Return minibatches of the rows, or all rows if `batch_size` is None."""
        return batches(self.outer, self.inner, batch_size, seed)


def least_squares(rows: int = 1000, entries: int = 5) -> LeastSquares:
    """Return least squares on uniform matrices with little noise.

        f = |A y - b|^2 / rows,   g = |C x + D y - e|^2 / rows

    Both losses have `rows` rows; x and y have `entries` entries. The matrices are nearly of rank one.

    Reference: following lindonroberts/inexact_hypergradients, quadratic_problem_example.py, which
    rebuilds Section 6.1 of arXiv:2112.04660; the factor 1 / rows is ours.
    """
    rng = np.random.RandomState(0)
    A, truth = rng.uniform(size=(rows, entries)), rng.uniform(size=entries)
    b = A @ truth + 0.01 * rng.normal(size=rows)
    C, D = rng.uniform(size=(rows, entries)), rng.uniform(size=(rows, entries))
    e = C @ rng.uniform(size=entries) + D @ rng.uniform(size=entries) + 0.01 * rng.normal(size=rows)

    def inner(x, y, batch):
        C, D, e = batch
        return jnp.mean((C @ x + D @ y - e) ** 2)

    def outer(x, y, batch):
        A, b = batch
        return jnp.mean((A @ y - b) ** 2)

    solve = A @ np.linalg.pinv(D)
    M = solve @ C
    best, curvature = np.linalg.lstsq(M, solve @ e - b)[0], 2 * M.T @ M / rows
    inner_top, outer_top = (float(np.linalg.eigvalsh(m)[-1]) for m in (2 * D.T @ D / rows, curvature))
    tables = {"outer": (A, b), "inner": (C, D, e), "best": best, "curvature": curvature}
    tables = jax.tree.map(jnp.asarray, tables)
    return LeastSquares(Problem(outer, inner), **tables, inner_top=inner_top, outer_top=outer_top)
