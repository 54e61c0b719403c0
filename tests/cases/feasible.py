"""A quadratic problem on feasible sets of y, some with active constraints."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

import bilevel as b

C = np.array([[1, 0.9, 0], [0.9, 1, 0.5], [0, 0.5, 1]])


def quadratic(size, scale=1.0):
    """Return a problem whose g is multiplied by `scale`; the inner solution grows with `size`."""

    def inner(x, y, batch):
        slope = size * jnp.array([1.0, 0.2, 0.6]) * x
        return scale * (0.5 * y @ C @ y - slope @ y + 0.1 * jnp.sum(y**2))

    def outer(x, y, batch):
        return jnp.sum(y) + jnp.sum(y**3) + y[0] * y[1] + 0.1 * jnp.sum(x**2 * y)

    return b.Problem(outer, inner)


def onto_simplex(y):
    falling = jnp.sort(y)[::-1]
    shifts = (jnp.cumsum(falling) - 1) / jnp.arange(1.0, 4)
    return jnp.maximum(y - jnp.max(shifts), 0)


def onto_ball(y):
    return y / jnp.maximum(1, jnp.linalg.norm(y))


def onto_halfspace(y):
    normal = jnp.array([1.0, 2.0, -1.0])
    return y + jnp.maximum(0, 1 - normal @ y) * normal / (normal @ normal)


SETS = {
    "no constraint active": (lambda y: jnp.clip(y, -10, 10), 1.0),
    "orthant": (lambda y: jnp.maximum(y, 0), 1.0),
    "box": (lambda y: jnp.clip(y, -0.2, 0.4), 1.0),
    "simplex": (onto_simplex, 1.0),
    "ball": (onto_ball, 3.0),
    "halfspace": (onto_halfspace, 1.0),
}


def case(name, scale=1.0):
    """Return a problem with the feasible set, x, and an inner solver that converges."""
    project, size = SETS[name]
    problem = replace(quadratic(size, scale), inner_projection=project)
    return problem, jnp.array([1.0, 0.9, 1.1]), b.descend(problem, 0.4 / scale, 1200)
