"""A problem whose minibatches all differ, and constants for tests on it.

g_i = y'A_i y / 2 + y'C_i x,  f_j = |y - b_j|^2 / 2 + e_j'x, all different for every i and j.
"""

import jax
import jax.numpy as jnp
import numpy as np

import bilevel as b
from bilevel.sampling import Stacked

P, Q, DRAWS = 2, 3, 12
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(DRAWS, Q, Q))
A = np.eye(Q) + 0.1 * (NOISE + NOISE.transpose(0, 2, 1))
C, B, E = RNG.normal(size=(DRAWS, Q, P)), RNG.normal(size=(DRAWS, Q)), RNG.normal(size=(DRAWS, P))
X, Y = RNG.normal(size=P), RNG.normal(size=Q)
RHO, ALPHA, STEPS = 0.3, 0.1, 2
KEY = jax.random.key(0)


def inner(x, y, batch):
    A, C = batch
    return 0.5 * y @ A @ y + y @ C @ x


def outer(x, y, batch):
    b, e = batch
    return 0.5 * jnp.sum((y - b) ** 2) + e @ x


PROBLEM = b.Problem(outer, inner)
BATCH = b.Batch(Stacked(tuple(map(jnp.asarray, (B, E)))), Stacked(tuple(map(jnp.asarray, (A, C)))))
