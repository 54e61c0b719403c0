"""Derivatives of the path that the inner optimiser took."""

from collections.abc import Callable

import jax

from bilevel.inner import InnerSolver
from bilevel.response.types import Pulled, Response, no_adjoint


def unrolled(solver: InnerSolver, *, start: Callable | None = None) -> Response:
    """Reverse mode through every step of the inner solver (back-propagation, ITD).

    The derivative of the last iterate, not of the exact solution: with T steps of gradient
    descent its error against the exact one falls like (1 - step mu)^T. The only response with a
    derivative with respect to the starting point.

    Args:
      solver: from `descend`; stores one copy of y (and of the optimiser's state) a step
        differentiated. Truncated back-propagation is `descend(..., last=...)`.
      start: `x -> y0`, where the path starts, its derivative included (MAML: the identity); None
        starts at the y that it is given.

    Returns:
      A `Response` that carries no adjoint.

    Cost: that of the solver, and one Hessian and one cross product for each step differentiated.

    Reference: Franceschi et al., Forward and reverse gradient-based hyperparameter optimization,
    ICML 2017, arXiv:1703.01785.
    """

    def respond(x, y0, batch, key):
        def path(x):
            return solver.solve(x, y0 if start is None else start(x), batch)

        y, vjp = jax.vjp(path, x)
        return y, lambda w, v: Pulled(vjp(w)[0], (), 0.0)

    return Response(respond, no_adjoint, solver.draws, solver.cost.plus(solver.back_cost))
