"""SUSTAIN: a single loop with recursive momentum and a random Hessian product."""

from bilevel.algorithms.record import describe
from bilevel.combinators import single_loop
from bilevel.directions import neumann_direction
from bilevel.estimators import check_weight, storm
from bilevel.linear import random_product
from bilevel.optimizers import as_rate, decayed, power
from bilevel.types import Algorithm, Optimizer, Point, Problem


@describe(
    family="single loop, implicit, stochastic, momentum",
    reference="Khanduri, Zeng, Hong, Wai, Wang and Yang, A Near-Optimal Algorithm for Stochastic Bilevel "
    "Optimization via Double-Momentum, NeurIPS 2021, arXiv:2102.07367, SUSTAIN",
)
def sustain(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    terms: int = 10,
    rate: float | None = None,
    weight: float = 0.5,
    weight_exponent: float = 2 / 3,
    exponent: float = 1 / 3,
) -> Algorithm:
    """Return SUSTAIN: recursive momentum on both levels, v by a random product.

        P = f_x - J v,   v by `random_product(terms, rate)` on f_y,   c_k = (k + 1)^exponent
        d_x <- P(now) + (1 - w_k) (d_x - P(before)),   w_k = weight / (k + 1)^weight_exponent
        d_y <- g_y(now) + (1 - w_k) (d_y - g_y(before))
        x <- x - outer_optimizer(d_x / c_k),   y <- y - inner_optimizer(d_y / c_k)

    Both points see the same minibatches and the same number of factors. The first d_x and d_y are the
    plain P and g_y. x and y move at the same time.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`; they receive d / c_k.
      terms: number K of terms of the series that the random product estimates.
      rate: step size of the product, at most 1/L; default: `inner_optimizer`, which must then be a number.
      weight: share w_0 of the fresh directions in the first step, in (0, 1].
      weight_exponent, exponent: rates at which the weight and the steps decay; 0 keeps them constant.

    Returns:
      An `Algorithm` that reads K + 1 inner minibatches per step (at least 3). It needs a key.

    Raises:
      ValueError: if `weight` is not in (0, 1], `terms` < 1, or `rate` is None and `inner_optimizer`
        is not a number.

    Cost per step: 4 gradients, at most 2 (K - 1) Hessian products, 2 cross products.

    Equations: taken from benchopt's bilevel benchmark.

    Differs from the benchmark: the momentum starts at the plain directions and not at zero, and J reads a
    minibatch of its own.

    >>> from bilevel import tasks
    >>> sustain(tasks.quadratic().problem).cost
    Cost(gradients=4, hessian_products=18, cross_products=2)
    """
    check_weight(weight)
    oracle = neumann_direction(problem, random_product(terms, as_rate(rate, inner_optimizer)))
    optimizers = Point(
        *(decayed(optimizer, power(exponent)) for optimizer in (outer_optimizer, inner_optimizer, 0.0))
    )
    return single_loop(
        problem, oracle, storm(power(weight_exponent, scale=weight)), optimizers, name="sustain"
    )
