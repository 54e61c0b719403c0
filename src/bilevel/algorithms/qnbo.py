"""qNBO: quasi-Newton steps on the inner problem and on the adjoint's quadratic."""

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.feasible import refuse_inner_projection
from bilevel.quasi_newton import quasi_newton, solve_quadratic
from bilevel.response.shared_inverse import shared_inverse
from bilevel.types import Algorithm, Optimizer, Problem, require


@describe(
    family="double loop, implicit, quasi-Newton",
    reference="Fang, Liu, Yao, Yu and Zhang, qNBO: quasi-Newton Meets Bilevel Optimization, ICLR 2025, "
    "arXiv:2502.01076",
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
    """Return qNBO: quasi-Newton steps on y and on the adjoint, with shared pairs.

        y <- y - inner_optimizer(g_y),         P times, from the last y
        y <- y - step_size B^-1 g_y,           T times, B by L-BFGS
        v <- v - step B^-1 (H v - f_y),        Q times, from the last v, step by exact line search
        x <- x - outer_optimizer(f_x - J v)

    The steps on v add their pairs (d, H d) to those of the steps on y, so B becomes accurate in the
    directions where v needs it. `adjoint_steps=0` would be SHINE.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`; the inner one makes the
        plain steps only.
      plain_steps: number P of gradient steps of each inner solve, at least 1.
      inner_steps: number T of quasi-Newton steps of each inner solve.
      adjoint_steps: number Q of quasi-Newton steps on `v'Hv / 2 - f_y'v`, at least 1.
      step_size: step size of the quasi-Newton steps on y; None fits it to two slopes, as `shine` does.
      memory: number of pairs (a step, the change of the gradient along it) that define B.

    Returns:
      An `Algorithm` that reads P + T + 2 inner minibatches per step.

    Raises:
      ValueError: if `plain_steps`, `adjoint_steps` or `memory` is below 1, or `inner_steps` below 0,
        or the problem has an inner projection.

    Cost per step: P + 2 T + 2 gradients, Q + 1 Hessian products, 1 cross product.

    Equations: assembled from published summaries. The three parts are the paper's; the recursion for v is
    ours.

    >>> from bilevel import tasks
    >>> qnbo(tasks.quadratic().problem).cost
    Cost(gradients=17, hessian_products=6, cross_products=1)
    """
    refuse_inner_projection(problem, "qnbo", "its quasi-Newton steps leave it", "use aid_bio or itd_bio")
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
