"""qNBO: quasi-Newton steps on the inner problem and on the adjoint's quadratic."""

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.quasi_newton import quasi_newton, solve_quadratic
from bilevel.response.shared_inverse import shared_inverse
from bilevel.types import Algorithm, Optimizer, Problem, require


@describe(
    family="double loop, implicit, quasi-Newton",
    reference="following Fang, Liu, Yao, Yu and Zhang, qNBO: quasi-Newton Meets Bilevel Optimization, ICLR "
    "2025, arXiv:2502.01076, by published summaries: the three parts are the paper's, the recursion for v "
    "is ours",
)
def qnbo(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    plain_steps: int = 5,
    inner_steps: int = 5,
    adjoint_steps: int = 5,
    step_size: float | None = 1.0,
    memory: int = 10,
) -> Algorithm:
    """Plain and quasi-Newton steps on y, then quasi-Newton steps on v.

        y <- y - inner_optimizer g_y,        plain_steps times, from the last y
        y <- y - step_size B^-1 g_y,         inner_steps times, B by L-BFGS
        v <- v + t B^-1 (f_y - H v),         adjoint_steps times, from the last v, t exact
        x <- x - outer_optimizer (f_x - J v)

    The steps on v add their pairs (d, H d) to those of the steps on y, so that B becomes right
    where it is used; `adjoint_steps=0` would be SHINE.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes; the inner one makes the plain steps.
      plain_steps: gradient steps P of each inner solve, at least 1.
      inner_steps: quasi-Newton steps T of each inner solve.
      adjoint_steps: quasi-Newton steps Q on `v'Hv / 2 - f_y'v`, at least 1.
      step_size: of the quasi-Newton steps on y; None fits a line to two slopes, as in `shine`.
      memory: pairs of a step and the change of the gradient along it that B is made of.

    Returns:
      An `Algorithm` that reads P + T + 2 inner minibatches a step.

    Raises:
      ValueError: when `plain_steps`, `adjoint_steps` or `memory` is below 1, or `inner_steps` below 0.

    Cost per step: P + 2 T + 2 gradients, Q + 1 Hessian products, 1 cross product.

    >>> from bilevel import tasks
    >>> qnbo(tasks.quadratic().problem).cost
    Cost(gradients=17, hessian_products=6, cross_products=1)
    """
    require(adjoint_steps >= 1, "adjoint_steps must be at least 1", adjoint_steps)

    def adjoint(pairs, operator, w, v):
        return solve_quadratic(pairs, operator(0), w, v, adjoint_steps)[0]

    solver = quasi_newton(
        problem, inner_optimizer, inner_steps, plain_steps=plain_steps, memory=memory, step_size=step_size
    )
    response = shared_inverse(
        problem, solver, adjoint, draws=1, hessian_products=adjoint_steps + 1, warm=True
    )
    return nested(problem, response, outer_optimizer, name="qnbo")
