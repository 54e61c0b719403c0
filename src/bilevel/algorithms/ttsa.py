"""TTSA: one inner step and one outer step on two time scales."""

from bilevel.algorithms.bsa import bsa
from bilevel.algorithms.record import describe
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="two time scales, implicit, stochastic",
    reference="Hong, Wai, Wang and Yang, A Two-Timescale Stochastic Algorithm Framework for Bilevel "
    "Optimization: Complexity Analysis and Application to Actor-Critic, SIAM Journal on Optimization 2023, "
    "arXiv:2007.05170, TTSA",
)
def ttsa(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    terms: int = 10,
    rate: float | None = None,
    inner_exponent: float = 0.4,
    outer_exponent: float = 0.6,
) -> Algorithm:
    """Return TTSA: an inner step, then an outer step that decays faster.

        y <- y - inner_optimizer(g_y / (k + 1)^inner_exponent)
        v = K rate prod_{i < p} (I - rate H(B_i)) f_y,   p uniform on 0 .. K - 1, at the new y
        x <- x - outer_optimizer((f_x - J v) / (k + 1)^outer_exponent)

    This is `bsa` with one inner step. The inner step, every factor and J each read their own minibatch.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`; they receive the scaled
        directions, and the state of the inner one is reset at every k.
      terms: number K of terms of the series that the random product estimates.
      rate: step size of the product, at most 1/L; default: `inner_optimizer`, which must then be a number.
      inner_exponent, outer_exponent: rates at which the steps decay with k; 0 keeps them constant.

    Returns:
      An `Algorithm` that reads K + 1 inner minibatches per step (at least 3). It needs a key.

    Raises:
      ValueError: if `terms` < 1, or if `rate` is None and `inner_optimizer` is not a number.

    Cost per step: 2 gradients, at most K - 1 Hessian products, 1 cross product.

    Equations: taken from benchopt's bilevel benchmark.

    Differs from the benchmark: J reads a minibatch of its own, and not the minibatch of the inner step, on
    which y already depends.

    >>> from bilevel import tasks
    >>> ttsa(tasks.quadratic().problem).cost
    Cost(gradients=2, hessian_products=9, cross_products=1)
    """
    return bsa(
        problem,
        inner_optimizer=inner_optimizer,
        outer_optimizer=outer_optimizer,
        inner_steps=1,
        terms=terms,
        rate=rate,
        inner_exponent=inner_exponent,
        outer_exponent=outer_exponent,
    )._replace(name="ttsa")
