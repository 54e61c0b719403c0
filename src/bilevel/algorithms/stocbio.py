"""stocBiO: stochastic implicit differentiation with a minibatch Neumann series."""

from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.linear import neumann
from bilevel.response import implicit
from bilevel.types import Algorithm, Problem


def stocbio(
    problem: Problem,
    *,
    inner_optimizer=0.1,
    outer_optimizer=0.1,
    inner_steps: int = 10,
    terms: int = 10,
    rate: float | None = None,
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

    Returns:
      An `Algorithm` that reads D + Q + 1 inner minibatches a step.

    Raises:
      ValueError: when `rate` is None and `inner_optimizer` is not a number.

    Cost per step: D + 1 gradients, Q Hessian products, 1 cross product.

    Family: double loop, implicit, stochastic.
    Reference: Ji, Yang and Liang, Bilevel Optimization: Convergence Analysis and Enhanced Design,
    ICML 2021, arXiv:2010.07962, stocBiO.
    Differs from the paper: batches of equal size unless you bring your own schedule.

    >>> from bilevel import tasks
    >>> stocbio(tasks.quadratic().problem).cost
    Cost(gradients=11, hessian_products=10, cross_products=1)
    """
    if rate is None:
        if callable(inner_optimizer) or isinstance(inner_optimizer, tuple):
            raise ValueError("rate must be given (at most 1/L) when inner_optimizer is not a step size")
        rate = inner_optimizer
    response = implicit(
        problem, descend(problem, inner_optimizer, inner_steps), neumann(terms, rate), warm=False
    )
    return nested(problem, response, outer_optimizer, name="stocbio")
