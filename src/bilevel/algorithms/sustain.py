"""SUSTAIN: a single loop with recursive momentum and a random Hessian product."""

from bilevel.algorithms.record import describe
from bilevel.combinators import decayed, power, single_loop
from bilevel.directions import neumann_direction
from bilevel.estimators import check_weight, storm
from bilevel.inner import as_rate
from bilevel.linear import random_product
from bilevel.types import Algorithm, Optimizer, Point, Problem


@describe(
    family="single loop, implicit, stochastic, momentum",
    reference="Khanduri, Zeng, Hong, Wai, Wang and Yang, A Near-Optimal Algorithm for Stochastic Bilevel "
    "Optimization via Double-Momentum, NeurIPS 2021, arXiv:2102.07367, following benchopt's bilevel "
    "benchmark",
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
    """Recursive momentum on inner gradient and hypergradient, v by a random product.

        P = f_x - J v,   v = `random_product(terms, rate)` of f_y
        d_x <- P(now) + (1 - w_k) (d_x - P(before)),   d_y <- g_y(now) + (1 - w_k) (d_y - g_y(before))
        x <- x - outer_optimizer (d_x / (k + 1)^exponent),   y <- y - inner_optimizer (d_y / (k + 1)^exponent)
        w_k = weight / (k + 1)^weight_exponent

    Both points see the same minibatches and the same number of factors; d starts as the plain P and
    g_y. x and y move at once.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes, of the scaled directions.
      terms: terms K of the series that the random product stands for.
      rate: its step, at most 1/L; None takes `inner_optimizer`, which then must be a number.
      weight: share of the fresh directions at first, in (0, 1].
      weight_exponent, exponent: how fast weight and steps decay; 0 keeps them.

    Returns:
      An `Algorithm` that reads K + 1 inner minibatches a step (at least 3). It needs a key.

    Raises:
      ValueError: when `weight` is not in (0, 1], `terms` < 1, or `rate` is None and `inner_optimizer`
        is not a number.

    Cost per step: 4 gradients, 2 (K - 1) Hessian products (the worst case), 2 cross products.

    Differs from the benchmark: starts from the plain directions and not from zeros, and J reads a
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
