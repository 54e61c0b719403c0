"""Derivatives of the path that the inner optimiser took."""

import jax

from bilevel.inner import InnerSolver, descend
from bilevel.response.types import Pulled, Response, no_adjoint
from bilevel.types import Problem


def unrolled(solver: InnerSolver) -> Response:
    """Reverse mode through every step of the inner solver (back-propagation, ITD).

    The derivative of the last iterate, not of the exact solution: with T steps of gradient
    descent its error against the exact one falls like (1 - step mu)^T. The only response with a
    derivative with respect to the starting point.

    Args:
      solver: from `descend`; stores one copy of y (and of the optimiser's state) a step.

    Returns:
      A `Response` that carries no adjoint.

    Cost: that of the solver, and one Hessian and one cross product for each of its steps.

    Reference: Franceschi et al., Forward and reverse gradient-based hyperparameter optimization,
    ICML 2017, arXiv:1703.01785.
    """

    def respond(x, y0, batch, key):
        y, vjp = jax.vjp(lambda x: solver.solve(x, y0, batch), x)
        return y, lambda w, v: Pulled(vjp(w)[0], (), 0.0)

    return Response(respond, no_adjoint, solver.draws, solver.cost.plus(solver.back_cost))


def truncated(problem: Problem, optimizer, steps: int, *, last: int) -> Response:
    """Reverse mode through the last steps of the inner optimiser only.

    Args:
      problem: the two losses.
      optimizer: an optax optimiser, or a step size for gradient descent.
      steps: inner steps.
      last: how many of them are differentiated, in 0..steps.

    Returns:
      A `Response` that carries no adjoint.

    Raises:
      ValueError: when `last` is not in 0..steps.

    Cost: `steps` gradients, `last` Hessian products and `last` cross products.

    Reference: Shaban et al., Truncated back-propagation for bilevel optimization, AISTATS 2019,
    arXiv:1810.10667.
    """
    return unrolled(descend(problem, optimizer, steps, last=last))
