"""Quadratics whose coefficients are means over rows, and their exact hypergradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.types import Batch, Problem
from bilevel_claims.problems.batches import batches


class Averages(NamedTuple):
    """Quadratics whose coefficients are means over rows, with the exact hypergradient.

    Attributes:
      problem: the two losses.
      outer, inner: rows of the two losses, c and `(A, B)`.
    """

    problem: Problem
    outer: Any
    inner: Any

    def data(self, batch_size: int | None, seed: int = 0) -> Batch:
        """Return minibatches of the rows, or all rows if `batch_size` is None."""
        return batches(self.outer, self.inner, batch_size, seed)

    def gradient(self, x: jax.Array, held: Any) -> jax.Array:
        """Return the hypergradient at x, in jax code; `held` is `(outer, inner)`."""
        c, a, b = (part.mean(0) for part in (held[0], *held[1]))
        return 0.1 * x + b @ ((b.T @ x / a - c) / a)


def averages(rows: int = 200, entries: int = 8) -> Averages:
    """Return the problem on random diagonal matrices A, matrices B and targets c.

        g = y'A y / 2 - x'B y,   f = |y - c|^2 / 2 + 0.05 |x|^2,   A, B, c means over the rows

    Both losses have `rows` rows; x and y have `entries` entries.
    """
    rng = np.random.default_rng(0)
    a = rng.uniform(0.5, 1.5, size=(rows, entries))
    b = 0.15 * rng.normal(size=(rows, entries, entries)) + 0.5 * np.eye(entries)
    c = rng.normal(size=(rows, entries)) + 1

    def inner(x, y, batch):
        a, b = (part.mean(0) for part in batch)
        return 0.5 * jnp.sum(a * y**2) - x @ b @ y

    def outer(x, y, batch):
        return 0.5 * jnp.sum((y - batch.mean(0)) ** 2) + 0.05 * jnp.sum(x**2)

    return Averages(Problem(outer, inner), *jax.tree.map(jnp.asarray, (c, (a, b))))
