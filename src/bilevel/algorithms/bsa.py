"""BSA: inner steps, a random Hessian product, one outer step, all with decreasing steps."""

from bilevel.algorithms.record import describe
from bilevel.combinators import decayed, nested, power
from bilevel.inner import as_rate, descend
from bilevel.linear import random_product
from bilevel.response import implicit
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, implicit, stochastic",
    reference="Ghadimi and Wang, Approximation Methods for Bilevel Programming, arXiv:1802.02246, following "
    "benchopt's bilevel benchmark",
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
    """Warm-started inner steps, and a random product in place of the inverse Hessian.

        y: inner_steps steps of inner_optimizer (g_y / (k + 1)^inner_exponent), from the last y
        v = terms rate prod_{i < p} (I - rate H(B_i)) f_y,   p uniform on 0 .. terms - 1
        x <- x - outer_optimizer ((f_x - J v) / (k + 1)^outer_exponent)

    Every inner step, every factor and J read a minibatch of their own.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes, of the scaled directions; the
        inner one starts afresh at every k.
      inner_steps: steps T of each inner solve.
      terms: terms K of the series that the random product stands for.
      rate: its step, at most 1/L; None takes `inner_optimizer`, which then must be a number.
      inner_exponent, outer_exponent: how fast the steps decay with k; 0 keeps them.

    Returns:
      An `Algorithm` that reads T + K inner minibatches a step (K at least 2). It needs a key.

    Raises:
      ValueError: when `inner_steps` < 0, `terms` < 1, or `rate` is None and `inner_optimizer` is not a
        number.

    Cost per step: T + 1 gradients, K - 1 Hessian products (the worst case), 1 cross product.

    Differs from the paper: the number of inner steps does not grow with k.
    Differs from the benchmark: y is trained before x moves and not after.

    >>> from bilevel import tasks
    >>> bsa(tasks.quadratic().problem).cost
    Cost(gradients=11, hessian_products=9, cross_products=1)
    """
    linear = random_product(terms, as_rate(rate, inner_optimizer))
    inner_factor = power(inner_exponent)
    outer = decayed(outer_optimizer, power(outer_exponent))

    def loop(k):
        solver = descend(problem, decayed(inner_optimizer, lambda _: inner_factor(k)), inner_steps)
        return nested(problem, implicit(problem, solver, linear, warm=False), outer, name="bsa")

    def step(state, batch, key):
        # The outer optimiser counts the steps for both.
        return loop(state.optimizer[0].count).step(state, batch, key)

    return loop(0)._replace(step=step)
