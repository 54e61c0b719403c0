"""Time of one step: in `run`, in a loop written by hand, and as the data set grows.

    python benchmarks/steps.py

Prints medians over repeats, all in one process, the rivals in turn. Ratios are what to read: absolute
times change with the machine.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import bilevel

FEATURES, BATCH, STEPS, REPEATS = 22, 64, 20_000, 7
KEY = jax.random.key(0)


def cross_entropy(y, batch):
    features, signs = batch
    return jnp.mean(jax.nn.softplus(-signs * (features @ y)))


PROBLEM = bilevel.Problem(
    outer=lambda x, y, batch: cross_entropy(y, batch),
    inner=lambda x, y, batch: cross_entropy(y, batch) + 0.5 * jnp.sum(jnp.exp(x) * y**2),
)


def rows(count):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, FEATURES)).astype(np.float32)
    signs = np.sign(features @ rng.normal(size=FEATURES) + rng.normal(size=count)).astype(np.float32)
    return features, signs


@partial(jax.jit, static_argnames="steps")
def soba_by_hand(x, y, v, arrays, starts, steps):
    """SOBA alone, everything inlined, on the same blocks."""

    def loss(x, y, start):
        features, signs = (jax.lax.dynamic_slice_in_dim(a, start, BATCH) for a in arrays)
        return jnp.mean(jax.nn.softplus(-signs * (features @ y)))

    def step(i, carry):
        x, y, v = carry
        f_y = jax.grad(loss, argnums=1)(x, y, starts[i, 0])

        def inner(x, y):
            return loss(x, y, starts[i, 1]) + 0.5 * jnp.sum(jnp.exp(x) * y**2)

        (_, g_y), (cross, hessian) = jax.jvp(lambda y: jax.grad(inner, argnums=(0, 1))(x, y), (y,), (v,))
        return x + 0.03 * cross, y - 0.03 * g_y, v - 0.03 * (hessian - f_y)

    return jax.lax.fori_loop(0, steps, step, (x, y, v))


def microseconds(function):
    begin = time.perf_counter()
    jax.block_until_ready(function())
    return 1e6 * (time.perf_counter() - begin)


def main():
    zeros = jnp.zeros(FEATURES)
    settings = {"inner_optimizer": 0.03, "outer_optimizer": 0.03}
    data = {
        count: bilevel.minibatches(rows(count), rows(count), batch_size=BATCH)
        for count in (10_000, 1_000_000)
    }

    def in_run(name, count, steps):
        algorithm = getattr(bilevel, name)(PROBLEM, **settings)

        def once():
            result = bilevel.run(algorithm, zeros, zeros, data[count], steps=steps, key=KEY, log_every=steps)
            return 1e6 * result.history["seconds"][-1] / steps, result.compile_seconds

        compile_seconds = once()[1]
        return (lambda: once()[0]), compile_seconds

    starts = jnp.asarray(np.random.default_rng(0).integers(0, 10_000, (STEPS, 2)), jnp.int32)
    arrays = data[10_000].inner.arrays
    hand = partial(soba_by_hand, zeros, zeros, zeros, arrays, starts, STEPS)
    hand()
    soba, _ = in_run("soba", 10_000, STEPS)
    pairs = [(soba(), microseconds(hand) / STEPS) for _ in range(REPEATS)]
    ours, theirs = np.median(pairs, axis=0)
    ratio = np.median([a / b for a, b in pairs])
    print(f"soba: {ours:.2f} us a step in run, {theirs:.2f} by hand; ratio {ratio:.2f}")

    print(f"{'algorithm':10} {'10k rows':>10} {'1M rows':>10} {'ratio':>6} {'compile':>8}")
    for name in ("soba", "fsla", "stocbio", "aid_bio", "itd_bio", "pzobo"):
        steps = STEPS if name in ("soba", "fsla") else STEPS // 10
        small, compile_seconds = in_run(name, 10_000, steps)
        large, _ = in_run(name, 1_000_000, steps)
        pairs = [(small(), large()) for _ in range(REPEATS)]
        a, b = np.median(pairs, axis=0)
        ratio = np.median([large / small for small, large in pairs])
        print(f"{name:10} {a:7.2f} us {b:7.2f} us {ratio:6.2f} {compile_seconds:6.2f} s")


if __name__ == "__main__":
    main()
