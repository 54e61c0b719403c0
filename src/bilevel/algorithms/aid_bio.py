"""AID-BiO: implicit differentiation with conjugate gradients and two warm starts."""

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.linear import LinearSolver, cg
from bilevel.response import implicit
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, implicit",
    reference="Ji, Yang and Liang, Bilevel Optimization: Convergence Analysis and Enhanced Design, "
    "ICML 2021, arXiv:2010.07962, AID-BiO",
)
def aid_bio(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    linear_solver: LinearSolver | None = None,
    warm_y: bool = True,
    warm_v: bool = True,
) -> Algorithm:
    """Return AID-BiO: inner steps, a linear solve, one outer step.

        y: T steps of inner_optimizer on g(x, .), from the last y
        v: linear_solver on H v = f_y, from the last v
        x <- x - outer_optimizer(f_x - J v)

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of steps of each inner solve.
      linear_solver: solver of the adjoint system; default: `cg(10)`. `richardson` gives the
        fixed-point variant.
      warm_y, warm_v: start y and v at their last values. Without both, the error has a floor.

    Returns:
      An `Algorithm` that reads T + 2 inner minibatches per step.

    Raises:
      ValueError: if `inner_steps` is negative.

    Cost per step: T + 1 gradients, N + 1 Hessian products for N steps of `cg`, 1 cross product.

    Equations: recalled, not checked against the paper's text.

    >>> from bilevel import tasks
    >>> aid_bio(tasks.quadratic().problem).cost
    Cost(gradients=11, hessian_products=11, cross_products=1)
    """
    linear_solver = cg(10) if linear_solver is None else linear_solver
    response = implicit(problem, descend(problem, inner_optimizer, inner_steps), linear_solver, warm=warm_v)
    return nested(problem, response, outer_optimizer, warm=warm_y, name="aid_bio")
