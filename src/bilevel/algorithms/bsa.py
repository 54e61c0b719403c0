"""BSA: inner steps, a random Hessian product, one outer step; all steps decay."""

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.linear import random_product
from bilevel.optimizers import as_rate, decayed, power
from bilevel.response import implicit
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, implicit, stochastic",
    reference="Ghadimi and Wang, Approximation Methods for Bilevel Programming, 2018, arXiv:1802.02246, BSA",
)
def bsa(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    terms: int = 10,
    rate: float | None = None,
    inner_exponent: float = 0.5,
    outer_exponent: float = 0.5,
) -> Algorithm:
    """Return BSA: warm-started inner steps, a random Hessian product, one outer step.

        y: T steps of inner_optimizer(g_y / (k + 1)^inner_exponent), from the last y
        v = K rate prod_{i < p} (I - rate H(B_i)) f_y,   p uniform on 0 .. K - 1
        x <- x - outer_optimizer((f_x - J v) / (k + 1)^outer_exponent)

    Here k counts the outer steps. Every inner step, every factor and J read their own minibatch.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`. They receive the scaled
        directions; the state of the inner one is reset at every outer step.
      inner_steps: number T of steps of each inner solve.
      terms: number K of terms of the Neumann series that the random product estimates.
      rate: step size of the series, at most 1/L; default: `inner_optimizer`, which must then be a number.
      inner_exponent, outer_exponent: rates at which the steps decay with k; 0 keeps them constant.

    Returns:
      An `Algorithm` that reads T + K inner minibatches per step, for K at least 2. It needs a key.

    Raises:
      ValueError: if `inner_steps` is negative, `terms` is below 1, or `rate` is None and `inner_optimizer`
        is not a number.

    Cost per step: T + 1 gradients, at most K - 1 Hessian products, 1 cross product.

    Differs from the paper: the number of inner steps does not grow with k. Equations: taken from benchopt's
    bilevel benchmark, which moves x before it trains y; here y is trained first.

    >>> from bilevel import tasks
    >>> bsa(tasks.quadratic().problem).cost
    Cost(gradients=11, hessian_products=9, cross_products=1)
    """
    linear_solver = random_product(terms, as_rate(rate, inner_optimizer))
    inner_factor = power(inner_exponent)
    outer_optimizer = decayed(outer_optimizer, power(outer_exponent))

    def loop(k):
        solver = descend(problem, decayed(inner_optimizer, lambda _: inner_factor(k)), inner_steps)
        response = implicit(problem, solver, linear_solver, warm=False)
        return nested(problem, response, outer_optimizer, name="bsa")

    def step(state, batch, key):
        # The step counter of the outer optimiser serves both schedules.
        return loop(state.optimizer[0].count).step(state, batch, key)

    return loop(0)._replace(step=step)
