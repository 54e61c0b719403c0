"""AmIGO: inner steps and adjoint steps, both warm-started."""

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.linear import LinearSolver, richardson
from bilevel.response import implicit
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, implicit, stochastic",
    reference="Arbel and Mairal, Amortized Implicit Differentiation for Stochastic Bilevel Optimization, "
    "ICLR 2022, arXiv:2111.14580, AmIGO",
)
def amigo(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    linear_solver: LinearSolver | None = None,
) -> Algorithm:
    """Return AmIGO: warm-started steps on y, then on the adjoint, then one on x.

        y <- y - inner_optimizer(g_y)           T times, each on its own minibatch
        v <- v - inner_optimizer(H v - f_y)     T times, each H on its own minibatch, f_y on one
        x <- x - outer_optimizer(f_x - J v)     f_x on the minibatch of f_y

    Args:
      problem: the two losses.
      inner_optimizer: optimiser of y and of v, see `Optimizer`; its state is reset for each of them at
        every step.
      outer_optimizer: optimiser of x.
      inner_steps: number T of steps on y, and of steps on v.
      linear_solver: replaces the steps on v, from the last v; `cg(5)` gives AmIGO-CG.

    Returns:
      An `Algorithm` that reads 2 T + 1 inner minibatches per step.

    Raises:
      ValueError: if `inner_steps` is negative, or 0 without a linear solver.

    Cost per step: T + 1 gradients, T Hessian products (N + 1 for N steps of `cg`), 1 cross product.

    Equations: taken from published code of others, not checked against the paper's text.

    >>> from bilevel import tasks
    >>> amigo(tasks.quadratic().problem).cost
    Cost(gradients=11, hessian_products=10, cross_products=1)
    """
    if linear_solver is None:
        linear_solver = richardson(inner_steps, inner_optimizer, fresh=True)
    response = implicit(problem, descend(problem, inner_optimizer, inner_steps), linear_solver)
    return nested(problem, response, outer_optimizer, name="amigo")
