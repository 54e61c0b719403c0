"""Neumann series, each factor on minibatches of its own, and one random term of it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from bilevel.linear.types import LinearSolver, relative_norm
from bilevel.types import require

tree = optax.tree


def neumann(terms: int, rate: float, *, counts: Sequence[int] | None = None) -> LinearSolver:
    """Truncated Neumann series with independent minibatches for every factor.

        r_0 = b,   r_i = r_{i-1} - rate H(B_i) r_{i-1},   v = rate (r_0 + .. + r_terms)

    The sum has `terms + 1` terms, and `v0` plays no part. The factors must be independent:
    products of one minibatch are biased, as E[H^2] is not E[H]^2.

    Args:
      terms: number of factors Q, at least 0.
      rate: step eta, at most 1 / L.
      counts: how many minibatches H(B_1), .., H(B_Q) average, such as `decreasing_batches` gives;
        one each when None.

    Returns:
      A `LinearSolver` of `terms` minibatches, or of `sum(counts)`.

    Raises:
      ValueError: when `terms` < 0, `rate` <= 0, or `counts` are not `terms` positive numbers.

    Cost: one Hessian product a minibatch.

    Reference: Ji, Yang and Liang, Bilevel Optimization: Convergence Analysis and Enhanced Design,
    ICML 2021, arXiv:2010.07962.
    """
    require(terms >= 0, "terms must be at least 0", terms)
    require(rate > 0, "rate must be positive", rate)
    sizes = np.asarray([1] * terms if counts is None else list(counts), int)
    require(
        sizes.shape == (terms,) and (sizes >= 1).all(), f"counts must be {terms} positive numbers", counts
    )
    draws = int(sizes.sum())
    shares, ends = 1 / np.repeat(sizes, sizes), np.isin(np.arange(draws), np.cumsum(sizes) - 1)

    def sum_of_terms(operator, b):
        def step(i, carry):
            term, total = carry
            term = tree.add_scale(term, -rate, operator(i)(term))
            return term, tree.add(total, term)

        # A scan over `arange` would cost one more slice a step.
        return lax.fori_loop(0, terms, step, (b, b))

    def sum_of_means(operator, b):
        def step(carry, read):
            # `moved` is the next term once the last minibatch of a factor has been read.
            term, moved, total = carry
            i, share, end = read
            moved = jax.tree.map(
                lambda m, h: m - rate * (share.astype(h.dtype) * h), moved, operator(i)(term)
            )
            term = tree.where(end, moved, term)
            return (term, moved, tree.where(end, tree.add(total, moved), total)), None

        reads = jnp.arange(draws), jnp.asarray(shares), jnp.asarray(ends)
        (term, _, total), _ = lax.scan(step, (b, b, b), reads)
        return term, total

    def solve(operator, b, v0, key=None):
        # With one minibatch a factor the shorter loop takes two thirds of the time.
        term, total = (sum_of_terms if counts is None else sum_of_means)(operator, b)
        v = tree.scale(rate, total)
        # On a full batch b - H v is exactly r_{Q+1}; r_Q stands in, one product cheaper.
        return v, relative_norm(term, b)

    return LinearSolver(solve, draws, draws)


def decreasing_batches(terms: int, base: float, rate: float, convexity: float) -> tuple[int, ...]:
    """Minibatches for each factor of `neumann`, fewer and fewer.

        n_j = base terms (1 - rate convexity)^{j-1},   j = 1 .. terms, rounded, at least 1

    The first factor enters every later term of the series, the last one a single term.

    Args:
      terms: number of factors Q.
      base: n_1 / Q, the B of the theory, in minibatches.
      rate: step eta of the series.
      convexity: mu, the least eigenvalue of H.

    >>> decreasing_batches(5, base=1.2, rate=0.5, convexity=0.4)
    (6, 5, 4, 3, 2)

    Reference: following Ji, Yang and Liang, Bilevel Optimization: Convergence Analysis and Enhanced Design,
    ICML 2021, arXiv:2010.07962.
    """
    return tuple(max(1, round(base * terms * (1 - rate * convexity) ** j)) for j in range(terms))


def random_product(terms: int, rate: float) -> LinearSolver:
    """A random product of independent factors; its mean is a truncated Neumann series.

        v = terms rate (I - rate H(batch p-1)) .. (I - rate H(batch 0)) b,   p uniform on 0 .. terms - 1

    The mean is the sum of the first `terms` terms of the series, that of `neumann(terms - 1, rate)`;
    the noise is much larger, and does not vanish on full data. `v0` plays no part.

    Args:
      terms: number K of terms, at least 1.
      rate: step eta, at most 1 / L.

    Returns:
      A `LinearSolver` of `terms - 1` minibatches (at least 1). It needs a key.

    Raises:
      ValueError: when `terms` < 1 or `rate` <= 0.

    Cost: `terms - 1` Hessian products, the worst case. A loop that stops after p of them would take half
    as many on average, but `vmap` over seeds or step sizes would undo that and reverse derivatives fail,
    so all are computed and those past p are not used.

    Reference: Ghadimi and Wang, Approximation Methods for Bilevel Programming, arXiv:1802.02246.
    """
    require(terms >= 1, "terms must be at least 1", terms)
    require(rate > 0, "rate must be positive", rate)

    def solve(operator, b, v0, key: Any = None):
        require(key is not None, "random_product needs a key", key)
        factors = jax.random.randint(key, (), 0, terms)

        def step(product, i):
            longer = tree.add_scale(product, -rate, operator(i)(product))
            return tree.where(i < factors, longer, product), None

        product, _ = lax.scan(step, b, jnp.arange(terms - 1))
        v = tree.scale(terms * rate, product)
        return v, relative_norm(tree.sub(b, operator(max(terms - 2, 0))(v)), b)

    return LinearSolver(solve, max(terms - 1, 1), terms - 1)
