"""Logistic regression with one L2 strength a weight, and its exact hypergradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from bilevel.types import Batch, Problem
from bilevel_claims.problems.batches import batches


class Exact(NamedTuple):
    """Exact answers at one x: inner solution, adjoint `H^-1 f_y`, hypergradient and outer loss."""

    y: Any
    v: Any
    gradient: Any
    loss: Any


class Ridge(NamedTuple):
    """Logistic regression with one L2 strength `exp(x_j)` a weight, and `(rows, signs)` of each loss."""

    problem: Problem
    train: Any
    valid: Any

    def data(self, batch_size: int | None, seed: int = 0) -> Batch:
        """Return minibatches of the rows, or all rows if `batch_size` is None."""
        return batches(self.valid, self.train, batch_size, seed)

    def exact(self, x: jax.Array, held: Any, steps: int = 12) -> Exact:
        """Return the answers at x by Newton's method, in jax code; `held` is `(train, valid)`."""
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

    def lowest(self, start: Any) -> float:
        """Return the lowest Phi that L-BFGS-B on exact hypergradients finds from `start`."""
        held = self.train, self.valid

        @jax.jit
        def value(x, held):
            exact = self.exact(x, held)
            return exact.loss, exact.gradient

        def on_host(x):
            loss, gradient = value(jnp.asarray(x, held[0][0].dtype), held)
            return float(loss), np.asarray(gradient, float)

        options: Any = {"jac": True, "method": "L-BFGS-B", "options": {"maxiter": 300}}
        return float(scipy.optimize.minimize(on_host, start, **options).fun)


def logistic_ridge(
    rows: int = 200,
    features: int = 10,
    *,
    smallest: float = 0.3,
    useful: int | None = None,
    direct: float = 0.0,
    seed: int = 0,
) -> Ridge:
    """Return the problem on random rows a and signs s.

        g = mean log(1 + exp(-s a'y)) + sum_j exp(x_j) y_j^2 / 2
        f = mean log(1 + exp(-s a'y)) on other rows + direct / 2 |x - 1|^2

    The scales of the features fall evenly from 1 to `smallest`. Only the first `useful` features have a
    true weight (default: all). The `seed` draws the rows and signs.
    """
    rng, scale = np.random.default_rng(seed), np.linspace(1, smallest, features)
    tables = [rng.normal(size=(rows, features)) * scale for _ in range(2)]
    truth = rng.normal(size=features) * (np.arange(features) < (features if useful is None else useful))
    parts = [(table, np.sign(table @ truth + 0.5 * rng.normal(size=rows))) for table in tables]
    return ridge(*parts, direct=direct)


def ridge(train: Any, valid: Any, *, direct: float = 0.0) -> Ridge:
    """Return the problem of `logistic_ridge` on given `(rows, signs)` of each loss."""

    def loss(y, batch):
        table, signs = batch
        return jnp.mean(jax.nn.softplus(-signs * (table @ y)))

    def inner(x, y, batch):
        return loss(y, batch) + 0.5 * jnp.sum(jnp.exp(x) * y**2)

    def outer(x, y, batch):
        return loss(y, batch) + 0.5 * direct * jnp.sum((x - 1) ** 2)

    return Ridge(Problem(outer, inner), *jax.tree.map(jnp.asarray, (train, valid)))
