"""stocBiO: stochastic implicit differentiation with a minibatch Neumann series."""

from collections.abc import Sequence

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import as_rate, descend
from bilevel.linear import neumann
from bilevel.response import implicit
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, implicit, stochastic",
    reference="following Ji, Yang and Liang, Bilevel Optimization: Convergence Analysis and Enhanced "
    "Design, ICML 2021, arXiv:2010.07962, stocBiO",
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
    """Warm-started inner steps, then a Neumann series of independent minibatches.

        y: inner_steps steps of inner_optimizer, each on its own minibatch, from the last y
        r_Q = f_y,  r_{i-1} = r_i - rate H(B_i) r_i,  v = rate (r_Q + .. + r_0)
        x <- x - outer_optimizer (f_x - J v)

    The sum has Q + 1 terms; the B_i, the batch of f and that of J are independent.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes.
      inner_steps: steps D of each inner solve.
      terms: Hessian products Q.
      rate: step eta of the series, at most 1/L; None takes `inner_optimizer`, which then must be
        a number.
      counts: how many minibatches B_Q, .., B_1 consist of, in this order, that of use;
        `decreasing_batches` gives those of the theory. One each when None.

    Returns:
      An `Algorithm` that reads D + Q + 1 inner minibatches a step, with `counts` their sum in place
      of Q.

    Raises:
      ValueError: when `rate` is None and `inner_optimizer` is not a number, or `counts` are not
        `terms` positive numbers.

    Cost per step: D + 1 gradients, Q (or the sum of `counts`) Hessian products, 1 cross product.

    Differs from the paper: factors of equal batches unless `counts` are given.

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
