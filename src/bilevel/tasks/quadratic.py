"""Two random quadratics, whose solution is known in closed form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.sampling import full, minibatches
from bilevel.types import Problem, Task


def quadratic(
    *, rows: int = 256, outer_dim: int = 10, inner_dim: int = 20, condition: float = 10.0, seed: int = 0
) -> Task:
    """Means of random quadratics, one for each row, with a known hypergradient.

        g_i = y'A_i y / 2 + y'C_i x + a_i'y,   A = mean A_i has eigenvalues in [1 / condition, 1]
        f_i = |y - b_i|^2 / 2 + 0.05 |x|^2
        y*(x) = -A^-1 (C x + a),   grad Phi = 0.1 x - C' A^-1 (y* - b)

    Args:
      rows: number of terms of each mean.
      outer_dim, inner_dim: numbers of entries of x and y.
      condition: condition number of the mean inner Hessian.
      seed: seed of the random matrices.

    Returns:
      A `Task` with exact metrics at y*(x): `outer_loss`, Phi(x); `suboptimality`, Phi(x) minus its
      minimum; `stationarity`, the norm of the hypergradient.
    """
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(inner_dim, inner_dim)))[0]
    mean = basis * np.geomspace(1 / condition, 1, inner_dim) @ basis.T
    noise = rng.normal(size=(rows, inner_dim)) / np.sqrt(inner_dim)
    spread = np.einsum("ri,rj->rij", noise, noise)
    # The mean of the noise is exactly zero, so the mean of A keeps its spectrum.
    A = mean + 0.5 * (spread - spread.mean(0))
    C = rng.normal(size=(inner_dim, outer_dim)) / np.sqrt(inner_dim)
    C = C + 0.1 * rng.normal(size=(rows, inner_dim, outer_dim)) / np.sqrt(inner_dim)
    a, b = rng.normal(size=(2, rows, inner_dim)) + rng.normal(size=(2, 1, inner_dim))

    def inner(x, y, batch):
        A, C, a = batch
        return jnp.mean(0.5 * jnp.einsum("i,rij,j->r", y, A, y) + (C @ x + a) @ y)

    def outer(x, y, batch):
        return jnp.mean(0.5 * jnp.sum((y[None] - batch) ** 2, axis=1)) + 0.05 * jnp.sum(x**2)

    inverse = np.linalg.inv(A.mean(0))
    response, offset, target = -inverse @ C.mean(0), -inverse @ a.mean(0), b.mean(0)
    curvature = response.T @ response + 0.1 * np.eye(outer_dim)
    best = np.linalg.solve(curvature, response.T @ (target - offset))
    lowest = 0.5 * np.mean(np.sum((response @ best + offset - b) ** 2, axis=1)) + 0.05 * best @ best

    arrays = jax.tree.map(jnp.asarray, (A, C, a))

    def by_minibatch(batch_size):
        return minibatches(b.astype(arrays[0].dtype), arrays, batch_size=batch_size, seed=seed)

    def start(key):
        return jax.random.normal(key, (outer_dim,)), jnp.zeros(inner_dim)

    x, y = start(jax.random.key(seed))
    return Task(
        name="quadratic",
        dataset=f"quadratic-{seed}",
        problem=Problem(outer, inner),
        data=full(jnp.asarray(b), arrays),
        x=x,
        y=y,
        minibatches=by_minibatch,
        batch_size=min(32, rows),
        start=start,
        metrics=exact_metrics,
        held=(jnp.asarray(best), jnp.asarray(curvature), jnp.asarray(lowest)),
        inner_step=0.5,
        outer_step=float(0.03 / np.linalg.eigvalsh(curvature)[-1]),
    )


def exact_metrics(x: jax.Array, y: jax.Array, held: tuple[jax.Array, jax.Array, jax.Array]) -> dict[str, Any]:
    """Return the value, suboptimality and gradient norm of a quadratic Phi at x.

    Args:
      x: outer variable.
      y: inner variable, not used.
      held: minimiser, Hessian and minimum of Phi.
    """
    best, curvature, lowest = held
    slope = curvature @ (x - best)
    above = 0.5 * (x - best) @ slope
    return {"outer_loss": lowest + above, "suboptimality": above, "stationarity": jnp.linalg.norm(slope)}
