"""stocBiO: stochastic implicit differentiation with a minibatch Neumann series."""

from collections.abc import Sequence

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.linear import neumann
from bilevel.optimizers import as_rate
from bilevel.response import implicit
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, implicit, stochastic",
    reference="Ji, Yang and Liang, Bilevel Optimization: Convergence Analysis and Enhanced Design, "
    "ICML 2021, arXiv:2010.07962, stocBiO",
)
def stocbio(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    terms: int = 10,
    rate: float | None = None,
    counts: Sequence[int] | None = None,
) -> Algorithm:
    """Return stocBiO: inner steps, then a Neumann series of independent minibatches.

        y: T steps of inner_optimizer on g(x, .), each on its own minibatch, from the last y
        r_Q = f_y,   r_{i-1} = r_i - rate H(B_i) r_i,   v = rate (r_Q + .. + r_0)
        x <- x - outer_optimizer(f_x - J v)

    The sum has Q + 1 terms. The B_i, the minibatch of f and the minibatch of J are independent.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of steps of each inner solve.
      terms: number Q of Hessian products of the series.
      rate: step size of the series, at most 1/L; default: `inner_optimizer`, which must then be a number.
      counts: numbers of minibatches that B_Q, .., B_1 consist of, in the order of use;
        `decreasing_batches` gives the numbers of the theory. Default: one each.

    Returns:
      An `Algorithm` that reads T + Q + 1 inner minibatches per step; with `counts`, their sum replaces Q.

    Raises:
      ValueError: if `inner_steps` is negative, `rate` is None and `inner_optimizer` is not a number, or
        `counts` are not `terms` positive numbers.

    Cost per step: T + 1 gradients, Q (or the sum of `counts`) Hessian products, 1 cross product.

    Equations: recalled, not checked against the paper's text.

    Differs from the paper: all factors read equal batches unless `counts` are given.

    >>> from bilevel import tasks
    >>> stocbio(tasks.quadratic().problem).cost
    Cost(gradients=11, hessian_products=10, cross_products=1)
    """
    rate = as_rate(rate, inner_optimizer)
    response = implicit(
        problem,
        descend(problem, inner_optimizer, inner_steps),
        neumann(terms, rate, counts=counts),
        warm=False,
    )
    return nested(problem, response, outer_optimizer, name="stocbio")
