"""MRBO: a single loop with recursive momentum on both levels."""

from bilevel.algorithms.record import describe
from bilevel.combinators import single_loop
from bilevel.directions import neumann_direction
from bilevel.estimators import storm
from bilevel.linear import neumann
from bilevel.optimizers import as_rate, decayed, power
from bilevel.types import Algorithm, Optimizer, Point, Problem, require


@describe(
    family="single loop, implicit, stochastic, momentum",
    reference="Yang, Ji and Liang, Provably Faster Algorithms for Bilevel Optimization, NeurIPS 2021, "
    "arXiv:2106.04692, MRBO",
)
def mrbo(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    terms: int = 10,
    rate: float | None = None,
    inner_weight: float = 1.0,
    outer_weight: float = 1.0,
    scale: float = 2.0,
    offset: float = 8.0,
    exponent: float = 1 / 3,
) -> Algorithm:
    """Return MRBO: inner gradient and hypergradient with recursive momentum.

        P = f_x - J v,   v by `neumann(terms, rate)`,   s_k = scale / (offset + k)^exponent
        d_x <- P(now) + (1 - a_k) (d_x - P(before)),       a_k = outer_weight s_{k-1}^2
        d_y <- g_y(now) + (1 - b_k) (d_y - g_y(before)),   b_k = inner_weight s_{k-1}^2
        x <- x - outer_optimizer(s_k d_x),   y <- y - inner_optimizer(s_k d_y)

    Both points see the same minibatches, also in every factor of the series. a_k and b_k are capped at 1.
    The first d_x and d_y are the plain P and g_y. x and y move at the same time.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`; they receive s_k d.
      terms: number Q of Hessian products of the series.
      rate: step size of the series, at most 1/L; default: `inner_optimizer`, which must then be a number.
      inner_weight, outer_weight: positive factors of b_k and a_k, the shares of the fresh directions.
      scale, offset, exponent: constants of s_k; by default s_0 = 1. With `exponent=0, scale=1`, s_k = 1
        and the weights themselves are the shares.

    Returns:
      An `Algorithm` that reads Q + 2 inner minibatches per step.

    Raises:
      ValueError: if a weight, `scale` or `offset` is not positive, or if `rate` is None and
        `inner_optimizer` is not a number.

    Cost per step: 4 gradients, 2 Q Hessian products, 2 cross products.

    Equations: recalled, not checked against the paper's text.

    Differs from the paper: defaults of our own replace the constants of its theorem.

    >>> from bilevel import tasks
    >>> mrbo(tasks.quadratic().problem).cost
    Cost(gradients=4, hessian_products=20, cross_products=2)
    """
    require(inner_weight > 0, "inner_weight must be positive", inner_weight)
    require(outer_weight > 0, "outer_weight must be positive", outer_weight)
    require(scale > 0, "scale must be positive", scale)
    require(offset > 0, "offset must be positive", offset)
    factor = power(exponent, scale=scale, offset=offset)

    def share(weight):
        # The weight of step k comes from the step size of step k - 1.
        return lambda count: weight * factor(count - 1) ** 2

    oracle = neumann_direction(problem, neumann(terms, as_rate(rate, inner_optimizer)))
    weights = Point(share(outer_weight), share(inner_weight), 1.0)
    optimizers = Point(decayed(outer_optimizer, factor), decayed(inner_optimizer, factor), 0.0)
    return single_loop(problem, oracle, storm(weights), optimizers, name="mrbo")
