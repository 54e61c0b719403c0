"""The truncated Neumann series, and one random term of it."""

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
    """Return the truncated Neumann series, with a fresh minibatch for each factor.

        r_0 = b,   r_i = r_{i-1} - rate H(B_i) r_{i-1},   v = rate (r_0 + .. + r_terms)

    The sum has `terms + 1` terms, and `v0` is ignored. The factors must be independent: products of
    one minibatch are biased, since E[H^2] is not E[H]^2. The residual is measured on the last minibatch.

    Args:
      terms: number of factors Q, at least 0.
      rate: step eta, at most 1 / L.
      counts: number of minibatches averaged in each of H(B_1), .., H(B_Q), for example
        `decreasing_batches(...)`; default: one each.

    Returns:
      A `LinearSolver` that reads `terms` minibatches, or `sum(counts)`; at least 1, for the residual.

    Raises:
      ValueError: when `terms` < 0, `rate` <= 0, or `counts` are not `terms` positive numbers.

    Cost: one Hessian product per minibatch.

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

        # A scan over `arange` would make one more slice per step.
        return lax.fori_loop(0, terms, step, (b, b))[1]

    def sum_of_means(operator, b):
        def step(carry, read):
            # `moved` becomes the next term when the last minibatch of its factor has been read.
            term, moved, total = carry
            i, share, end = read
            moved = jax.tree.map(
                lambda m, h: m - rate * (share.astype(h.dtype) * h), moved, operator(i)(term)
            )
            term = tree.where(end, moved, term)
            return (term, moved, tree.where(end, tree.add(total, moved), total)), None

        reads = jnp.arange(draws), jnp.asarray(shares), jnp.asarray(ends)
        return lax.scan(step, (b, b, b), reads)[0][2]

    def solve(operator, b, v0, key=None):
        # With one minibatch per factor, the shorter loop takes two thirds of the time of the other.
        v = tree.scale(rate, (sum_of_terms if counts is None else sum_of_means)(operator, b))
        return v, relative_norm(tree.sub(b, operator(max(draws, 1) - 1)(v)), b)

    return LinearSolver(solve=solve, draws=max(draws, 1), products=draws)


def decreasing_batches(terms: int, base: float, rate: float, convexity: float) -> tuple[int, ...]:
    """Return the numbers of minibatches for the factors of `neumann`, decreasing.

        n_j = base terms (1 - rate convexity)^{j-1},   j = 1 .. terms, rounded, at least 1

    The first factor enters every later term of the series; the last factor enters only the last term.

    Args:
      terms: number of factors Q.
      base: n_1 / Q, the B of the paper, in minibatches.
      rate: step eta of the series.
      convexity: mu, the smallest eigenvalue of H.

    >>> decreasing_batches(5, base=1.2, rate=0.5, convexity=0.4)
    (6, 5, 4, 3, 2)

    Reference: following Ji, Yang and Liang, Bilevel Optimization: Convergence Analysis and Enhanced Design,
    ICML 2021, arXiv:2010.07962.
    """
    return tuple(max(1, round(base * terms * (1 - rate * convexity) ** j)) for j in range(terms))


def random_product(terms: int, rate: float) -> LinearSolver:
    """Return a random product of independent factors, a random Neumann term.

        v = terms rate (I - rate H(batch p-1)) .. (I - rate H(batch 0)) b,   p uniform on 0 .. terms - 1

    The mean is the sum of the first `terms` terms of the series, the mean of `neumann(terms - 1, rate)`.
    The noise is much larger, and it does not vanish on full data. `v0` is ignored.

    Args:
      terms: number K of terms, at least 1.
      rate: step eta, at most 1 / L.

    Returns:
      A `LinearSolver` that reads `terms - 1` minibatches, at least 1. It needs a key.

    Raises:
      ValueError: when `terms` < 1 or `rate` <= 0, and in `solve` when there is no key.

    Cost: `terms - 1` Hessian products, of which the last `terms - 1 - p` are not used. A loop that stops
    after p products would save half of them on average, but `vmap` over seeds would undo that, and such
    a loop has no reverse derivative.

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

    return LinearSolver(solve=solve, draws=max(terms - 1, 1), products=terms - 1)
