"""Small problems that several entries share, with their exact answers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from bilevel.sampling import full, minibatches
from bilevel.types import Batch, Problem


class Exact(NamedTuple):
    """The answers at one x.

    Attributes:
      y: the inner solution.
      v: the adjoint `H^-1 f_y` at y.
      gradient: the hypergradient.
      loss: the outer loss at y.
    """

    y: Any
    v: Any
    gradient: Any
    loss: Any


class Ridge(NamedTuple):
    """Logistic regression with one L2 strength `exp(x_j)` a weight.

    Attributes:
      problem: the two losses, on `(rows, signs)`.
      train, valid: all rows of the two losses.
    """

    problem: Problem
    train: Any
    valid: Any

    def data(self, batch_size: int | None, seed: int = 0) -> Batch:
        """Full data when None, else minibatches of so many rows."""
        if batch_size is None:
            return full(self.valid, self.train)
        return minibatches(self.valid, self.train, batch_size=batch_size, seed=seed)

    def exact(self, x: jax.Array, held: Any, steps: int = 12) -> Exact:
        """The answers at x by Newton's method, jax code; `held` is `(train, valid)`."""
        train, valid = held

        def hessian(y):
            rows = train[0]
            weight = jax.nn.sigmoid(rows @ y) * jax.nn.sigmoid(-(rows @ y))
            return rows.T @ (weight[:, None] * rows) / len(rows) + jnp.diag(jnp.exp(x))

        def newton(_, y):
            return y - jnp.linalg.solve(hessian(y), jax.grad(self.problem.inner, argnums=1)(x, y, train))

        y = jax.lax.fori_loop(0, steps, newton, jnp.zeros_like(x))
        loss, (f_x, f_y) = jax.value_and_grad(self.problem.outer, argnums=(0, 1))(x, y, valid)
        v = jnp.linalg.solve(hessian(y), f_y)
        return Exact(y, v, f_x - jnp.exp(x) * y * v, loss)

    def lowest(self, start: Any, steps: int = 300) -> float:
        """The lowest Phi that a quasi-Newton method on exact hypergradients finds from `start`."""
        held = self.train, self.valid

        @jax.jit
        def value(x, held):
            exact = self.exact(x, held)
            return exact.loss, exact.gradient

        def on_host(x):
            loss, gradient = value(jnp.asarray(x, held[0][0].dtype), held)
            return float(loss), np.asarray(gradient, float)

        found = scipy.optimize.minimize(
            on_host, start, jac=True, method="L-BFGS-B", options={"maxiter": steps}
        )
        return float(found.fun)


def logistic_ridge(
    rows: int = 200,
    features: int = 10,
    *,
    smallest: float = 0.3,
    useful: int | None = None,
    direct: float = 0.0,
    seed: int = 0,
) -> Ridge:
    """Made-up rows and signs, P1 of the notes with its defaults.

        g = mean log(1 + exp(-s a'y)) + sum_j exp(x_j) y_j^2 / 2
        f = mean log(1 + exp(-s a'y)) on other rows + direct / 2 |x - 1|^2

    Args:
      rows: of each loss.
      features: entries of x and y.
      smallest: scale of the last feature; they fall evenly from 1.
      useful: so many features have a true weight, all when None.
      direct: strength of the term of f in x alone.
      seed: of the rows.
    """
    rng = np.random.default_rng(seed)
    scale = np.linspace(1, smallest, features)
    tables = [rng.normal(size=(rows, features)) * scale for _ in range(2)]
    truth = rng.normal(size=features) * (np.arange(features) < (features if useful is None else useful))
    parts = [(table, np.sign(table @ truth + 0.5 * rng.normal(size=rows))) for table in tables]
    return ridge(*parts, direct=direct)


def ridge(train: Any, valid: Any, *, direct: float = 0.0) -> Ridge:
    """The problem of `logistic_ridge` on given rows, `(table, signs)` of each loss."""

    def loss(y, batch):
        table, signs = batch
        return jnp.mean(jax.nn.softplus(-signs * (table @ y)))

    def inner(x, y, batch):
        return loss(y, batch) + 0.5 * jnp.sum(jnp.exp(x) * y**2)

    def outer(x, y, batch):
        return loss(y, batch) + 0.5 * direct * jnp.sum((x - 1) ** 2)

    return Ridge(Problem(outer, inner), *jax.tree.map(jnp.asarray, (train, valid)))


class LeastSquares(NamedTuple):
    """Least squares at both levels, with the exact answer.

    Attributes:
      problem: the two losses.
      outer, inner: their rows, `(A, b)` and `(C, D, e)`.
      best: the minimiser of Phi.
      curvature: the Hessian of Phi.
      inner_top, outer_top: largest eigenvalues of H and of that Hessian.
    """

    problem: Problem
    outer: Any
    inner: Any
    best: Any
    curvature: Any
    inner_top: float
    outer_top: float

    def data(self, batch_size: int | None, seed: int = 0) -> Batch:
        """Full data when None, else minibatches of so many rows."""
        if batch_size is None:
            return full(self.outer, self.inner)
        return minibatches(self.outer, self.inner, batch_size=batch_size, seed=seed)


def least_squares(rows: int = 1000, entries: int = 5, *, seed: int = 0) -> LeastSquares:
    """Uniform matrices with a little noise, nearly of rank one around their mean.

        f = |A y - b|^2 / rows,   g = |C x + D y - e|^2 / rows

    Args:
      rows: of each loss.
      entries: of x and of y.
      seed: of the matrices.

    Reference: following lindonroberts/inexact_hypergradients, quadratic_problem_example.py, which
    rebuilds Section 6.1 of arXiv:2112.04660; the factor 1 / rows is ours.
    """
    rng = np.random.RandomState(seed)
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
    tables = jax.tree.map(
        jnp.asarray, {"outer": (A, b), "inner": (C, D, e), "best": best, "curvature": curvature}
    )
    return LeastSquares(Problem(outer, inner), **tables, inner_top=inner_top, outer_top=outer_top)


class Averages(NamedTuple):
    """Quadratics whose coefficients are means over rows, with the exact hypergradient.

    Attributes:
      problem: the two losses.
      outer, inner: their rows, c and `(A, B)`.
    """

    problem: Problem
    outer: Any
    inner: Any

    def data(self, batch_size: int | None, seed: int = 0) -> Batch:
        """Full data when None, else minibatches of so many rows."""
        if batch_size is None:
            return full(self.outer, self.inner)
        return minibatches(self.outer, self.inner, batch_size=batch_size, seed=seed)

    def gradient(self, x: jax.Array, held: Any) -> jax.Array:
        """The hypergradient at x, jax code; `held` is `(outer, inner)`."""
        c, a, b = (part.mean(0) for part in (held[0], *held[1]))
        return 0.1 * x + b @ ((b.T @ x / a - c) / a)


def averages(rows: int = 200, entries: int = 8, *, seed: int = 0) -> Averages:
    """Toy A of the notes: rows of diagonal matrices A, of matrices B and of targets c.

        g = y'A y / 2 - x'B y,   f = |y - c|^2 / 2 + 0.05 |x|^2,   A, B, c means over the rows

    Args:
      rows: of each loss.
      entries: of x and of y.
      seed: of the rows.
    """
    rng = np.random.default_rng(seed)
    a = rng.uniform(0.5, 1.5, size=(rows, entries))
    b = 0.15 * rng.normal(size=(rows, entries, entries)) + 0.5 * np.eye(entries)
    c = rng.normal(size=(rows, entries)) + 1

    def inner(x, y, batch):
        a, b = (part.mean(0) for part in batch)
        return 0.5 * jnp.sum(a * y**2) - x @ b @ y

    def outer(x, y, batch):
        return 0.5 * jnp.sum((y - batch.mean(0)) ** 2) + 0.05 * jnp.sum(x**2)

    return Averages(Problem(outer, inner), *jax.tree.map(jnp.asarray, (c, (a, b))))
