"""AmIGO: inner steps and adjoint steps, both from where the step before left them."""

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.linear import LinearSolver, richardson
from bilevel.response import implicit
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, implicit, stochastic",
    reference="following Arbel and Mairal, Amortized Implicit Differentiation for Stochastic Bilevel "
    "Optimization, ICLR 2022, arXiv:2111.14580, AmIGO; equations as in published code of others, not "
    "checked against the paper",
)
def amigo(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    linear_solver: LinearSolver | None = None,
) -> Algorithm:
    """Warm-started steps on y, then on the adjoint's quadratic, then one of x.

        y <- y - inner_optimizer g_y,            Q times, each on its own minibatch
        v <- v - inner_optimizer (H v - f_y),    Q times, each on its own minibatch, f_y drawn once
        x <- x - outer_optimizer (f_x - J v),    f_x on the minibatch of f_y

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes; the inner one starts afresh
        for y and for v at every step.
      inner_steps: steps Q of either loop, at least 1.
      linear_solver: moves v instead, from its last value: `cg(5)` gives AmIGO-CG.

    Returns:
      An `Algorithm` that reads 2 Q + 1 inner minibatches a step.

    Raises:
      ValueError: when `inner_steps` is negative, or 0 without a linear solver.

    Cost per step: Q + 1 gradients, Q Hessian products (N + 1 for N steps of `cg`), 1 cross product.

    >>> from bilevel import tasks
    >>> amigo(tasks.quadratic().problem).cost
    Cost(gradients=11, hessian_products=10, cross_products=1)
    """
    if linear_solver is None:
        linear_solver = richardson(inner_steps, inner_optimizer, fresh=True)
    response = implicit(problem, descend(problem, inner_optimizer, inner_steps), linear_solver)
    return nested(problem, response, outer_optimizer, name="amigo")
