"""Time of one step: in `run`, in a loop written by hand for that method alone, and as the data grow.

    python benchmarks/steps.py [--rows ijcnn1|synthetic] [--repeats N]

The problem is the regularization task's: logistic regression with one L2 strength a feature, minibatches
of 64. Prints medians over repeats, all in one process, the rivals in turn. Ratios are what to read:
absolute times change with the machine. The ijcnn1 rows are read where `BILEVEL_DATA` says.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import bilevel
from bilevel import tasks

FEATURES, BATCH = 22, 64
RHO, ALPHA, INNER_STEPS, TERMS = 0.03, 0.03, 10, 10
KEY = jax.random.key(0)


def cross_entropy(y, batch):
    features, signs = batch
    return jnp.mean(jax.nn.softplus(-signs * (features @ y)))


PROBLEM = bilevel.Problem(
    outer=lambda x, y, batch: cross_entropy(y, batch),
    inner=lambda x, y, batch: cross_entropy(y, batch) + 0.5 * jnp.sum(jnp.exp(x) * y**2),
)


def synthetic(count):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, FEATURES)).astype(np.float32)
    signs = np.sign(features @ rng.normal(size=FEATURES) + rng.normal(size=count)).astype(np.float32)
    return features, signs


def ijcnn1():
    """Validation and training rows, labels as signs; as many as fill whole minibatches."""
    sources = tasks.regularization("ijcnn1").data
    pairs = [(np.asarray(s[0]["features"]), np.asarray(s[0]["labels"] * 2 - 1, np.float32)) for s in sources]
    return [[a[: len(a) // BATCH * BATCH] for a in pair] for pair in pairs]


# Loops by hand: everything inlined, no pytrees, no metrics, the same minibatches of the same arrays.
# A step reads its row of `starts`: the first rows of its outer, then of its inner minibatches.


class Hand:
    """Gradients and products of the two losses on the minibatch that starts at a row."""

    def __init__(self, outer, inner):
        self.outer, self.inner = outer, inner

    def rows(self, arrays, start):
        return [jax.lax.dynamic_slice_in_dim(a, start, BATCH) for a in arrays]

    def f_y(self, y, start):
        features, signs = self.rows(self.outer, start)
        slope = -signs * jax.nn.sigmoid(-signs * (features @ y)) / BATCH
        return features.T @ slope

    def g_y(self, x, y, start):
        features, signs = self.rows(self.inner, start)
        slope = -signs * jax.nn.sigmoid(-signs * (features @ y)) / BATCH
        return features.T @ slope + jnp.exp(x) * y

    def hessian(self, x, y, start, w):
        features, signs = self.rows(self.inner, start)
        share = jax.nn.sigmoid(-signs * (features @ y))
        return features.T @ (share * (1 - share) * (features @ w)) / BATCH + jnp.exp(x) * w

    def both(self, x, y, start, w):
        """g_y and H w from one reading of the rows."""
        features, signs = self.rows(self.inner, start)
        share = jax.nn.sigmoid(-signs * (features @ y))
        g_y = features.T @ (-signs * share / BATCH) + jnp.exp(x) * y
        return g_y, features.T @ (share * (1 - share) * (features @ w)) / BATCH + jnp.exp(x) * w


def soba(hand, starts):
    def step(i, carry):
        x, y, v = carry
        f, g = starts[i]
        g_y, product = hand.both(x, y, g, v)
        return x + ALPHA * jnp.exp(x) * y * v, y - RHO * g_y, v - RHO * (product - hand.f_y(y, f))

    return step, 3


def fsla(hand, starts):
    def step(i, carry):
        x, y, v, d, last_x = carry
        f1, _, g1, g2, _ = starts[i]
        new_y = y - RHO * hand.g_y(x, y, g1)
        new_v = v - RHO * (hand.hessian(x, new_y, g2, v) - hand.f_y(new_y, f1))
        # f_x is zero and J v needs no rows in this problem: what XLA finds for the library, too.
        d = -jnp.exp(x) * new_y * new_v + (1 - jnp.where(i == 0, 1.0, 0.1)) * (d + jnp.exp(last_x) * y * v)
        return x - ALPHA * d, new_y, new_v, d, x

    return step, 5


def stocbio(hand, starts):
    def step(i, carry):
        x, y = carry
        inner = starts[i, 1:]
        y = jax.lax.fori_loop(0, INNER_STEPS, lambda t, y: y - RHO * hand.g_y(x, y, inner[t]), y)
        f_y = hand.f_y(y, starts[i, 0])

        def factor(t, carry):
            term, total = carry
            term = term - RHO * hand.hessian(x, y, inner[INNER_STEPS + t], term)
            return term, total + term

        v = RHO * jax.lax.fori_loop(0, TERMS, factor, (f_y, f_y))[1]
        return x + ALPHA * jnp.exp(x) * y * v, y

    return step, 2


def mrbo(hand, starts):
    def estimate(x, y, picks):
        f_y = hand.f_y(y, picks[0])

        def factor(t, carry):
            term, total = carry
            term = term - RHO * hand.hessian(x, y, picks[2 + t], term)
            return term, total + term

        v = RHO * jax.lax.fori_loop(0, TERMS, factor, (f_y, f_y))[1]
        return -jnp.exp(x) * y * v, hand.g_y(x, y, picks[1])

    def step(i, carry):
        x, y, d, u, last_x, last_y = carry
        now, before = estimate(x, y, starts[i]), estimate(last_x, last_y, starts[i])
        size, past = (2 / (8 + k) ** (1 / 3) for k in (jnp.asarray(i, jnp.float32), i - 1.0))
        keep = jnp.where(i == 0, 0.0, 1 - jnp.minimum(1.0, past**2))
        d, u = now[0] + keep * (d - before[0]), now[1] + keep * (u - before[1])
        return x - ALPHA * size * d, y - RHO * size * u, d, u, x, y

    return step, 6


def saba(hand, starts):
    blocks = [-(-(arrays[0].shape[0] - BATCH + 1) // BATCH) for arrays in (hand.outer, hand.inner)]

    def step(i, carry):
        x, y, v, f_table, g_table, h_table, j_table, f_mean, g_mean, h_mean, j_mean = carry
        f, g = starts[i]
        g_y, product = hand.both(x, y, g, v)
        fresh = hand.f_y(y, f), g_y, product, jnp.exp(x) * y * v
        tables, means = [f_table, g_table, h_table, j_table], [f_mean, g_mean, h_mean, j_mean]
        directions = []
        for k, value in enumerate(fresh):
            entry, count = (f // BATCH, blocks[0]) if k == 0 else (g // BATCH, blocks[1])
            change = value - tables[k][entry]
            directions.append(means[k] + change)
            means[k] = means[k] + change / count
            tables[k] = tables[k].at[entry].set(value)
        d_f, d_y, d_h, d_j = directions
        return x + ALPHA * d_j, y - RHO * d_y, v - RHO * (d_h - d_f), *tables, *means

    tables = [jnp.zeros((blocks[0] if k == 0 else blocks[1], FEATURES)) for k in range(4)]
    return step, 3, (*tables, *[jnp.zeros(FEATURES)] * 4)


METHODS = {
    "soba": (soba, {}),
    "fsla": (fsla, {}),
    "saba": (saba, {}),
    "stocbio": (stocbio, {"inner_steps": INNER_STEPS, "terms": TERMS}),
    "mrbo": (mrbo, {"terms": TERMS}),
}


def by_hand(method, data, algorithm, steps):
    """A compiled loop of `steps` steps on the minibatches that `run` would take."""
    plan = bilevel.driver.make_plan(algorithm.draws, data, KEY, 0, steps)
    starts = jnp.concatenate([plan.outer, plan.inner], axis=1)

    @jax.jit
    def loop(outer, inner, starts, carry):
        return jax.lax.fori_loop(0, steps, method(Hand(outer, inner), starts)[0], carry)

    outer, inner = data.outer.arrays, data.inner.arrays
    zeros, *tables = method(Hand(outer, inner), starts)[1:]
    carry = (*[jnp.zeros(FEATURES)] * zeros, *(tables[0] if tables else ()))
    return partial(loop, outer, inner, starts, carry)


def microseconds(function, steps):
    begin = time.perf_counter()
    jax.block_until_ready(function())
    return 1e6 * (time.perf_counter() - begin) / steps


def in_run(name, data, steps, settings):
    algorithm = getattr(bilevel, name)(PROBLEM, inner_optimizer=RHO, outer_optimizer=ALPHA, **settings)
    zeros = jnp.zeros(FEATURES)

    def once():
        result = bilevel.run(algorithm, zeros, zeros, data, steps=steps, key=KEY, log_every=steps)
        return 1e6 * result.history["seconds"][-1] / steps, result

    return algorithm, once


def against_hand(data, repeats):
    print(
        f"{'algorithm':10} {'in run':>10} {'by hand':>10} {'ratio':>6} {'compile':>8}   end points agree to"
    )
    for name, (method, settings) in METHODS.items():
        steps = 20_000 if name in ("soba", "fsla", "saba") else 4_000
        algorithm, once = in_run(name, data, steps, settings)
        hand = by_hand(method, data, algorithm, steps)
        _, result = once()
        apart = float(jnp.max(jnp.abs(hand()[0] - result.state.x)))
        pairs = []
        for _ in range(repeats):
            pairs.append((once()[0], microseconds(hand, steps)))
        ours, theirs = np.median(pairs, axis=0)
        ratio = np.median([a / b for a, b in pairs])
        compile_seconds = result.compile_seconds
        print(
            f"{name:10} {ours:7.2f} us {theirs:7.2f} us {ratio:6.2f} {compile_seconds:6.2f} s   {apart:.0e}"
        )


def as_rows_grow(repeats):
    print(f"\n{'algorithm':10} {'10k rows':>10} {'1M rows':>10} {'ratio':>6}")
    data = {
        count: bilevel.minibatches(synthetic(count), synthetic(count), batch_size=BATCH)
        for count in (10_000, 1_000_000)
    }
    for name, settings in (*[(n, s) for n, (_, s) in METHODS.items()], ("aid_bio", {}), ("itd_bio", {})):
        steps = 20_000 if name in ("soba", "fsla", "saba") else 2_000
        runs = [in_run(name, rows, steps, settings)[1] for rows in data.values()]
        for once in runs:
            once()
        pairs = [[once()[0] for once in runs] for _ in range(repeats)]
        small, large = np.median(pairs, axis=0)
        ratio = np.median([b / a for a, b in pairs])
        print(f"{name:10} {small:7.2f} us {large:7.2f} us {ratio:6.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", choices=("ijcnn1", "synthetic"), default="ijcnn1")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    outer, inner = ijcnn1() if options.rows == "ijcnn1" else (synthetic(9_984), synthetic(9_984))
    against_hand(bilevel.minibatches(outer, inner, batch_size=BATCH), options.repeats)
    as_rows_grow(options.repeats)


if __name__ == "__main__":
    main()
