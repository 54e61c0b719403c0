"""Differentiate twice through a solver inside a larger program, for many tasks at once."""

import jax
import jax.numpy as jnp

import bilevel

# A soft threshold: y*(x) = argmin |y - signal|^2 / 2 + exp(x) sum sqrt(y^2 + 0.01).
denoise = bilevel.Problem(
    outer=None,
    inner=lambda x, y, signal: 0.5 * jnp.sum((y - signal) ** 2) + jnp.exp(x) * jnp.sum(jnp.sqrt(y**2 + 0.01)),
)
response = bilevel.implicit(denoise, bilevel.descend(denoise, 0.05, steps=400), bilevel.cg(20))
solve = bilevel.solution(response)


def quality(strength, signal, truth):
    """Return the error of the cleaned signal: the solver, followed by more of the program."""
    cleaned = solve(strength, signal, bilevel.full(None, signal))
    return jnp.mean((jnp.tanh(cleaned) - jnp.tanh(truth)) ** 2)


truth = jnp.zeros((5, 50)).at[:, ::10].set(3.0)
signals = truth + 0.5 * jax.random.normal(jax.random.key(0), truth.shape)
strengths = jnp.full(5, -2.0)
slope = jax.vmap(jax.grad(quality))
curvature = jax.vmap(jax.jacrev(jax.grad(quality)))
for _ in range(10):
    bend = curvature(strengths, signals, truth)
    strengths -= jnp.clip(slope(strengths, signals, truth) / jnp.maximum(jnp.abs(bend), 1e-3), -1, 1)
before, after = (jax.vmap(quality)(s, signals, truth).mean() for s in (jnp.full(5, -2.0), strengths))
print(f"Newton's method on five strengths: {before:.4f} -> {after:.4f}, strengths {strengths}")
assert after < before
