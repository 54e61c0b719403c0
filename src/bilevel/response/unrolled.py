"""The response by reverse mode through the inner optimiser."""

from collections.abc import Callable

import jax

from bilevel.inner import InnerSolver
from bilevel.response.types import Pulled, Response, no_adjoint
from bilevel.types import PyTree


def unrolled(solver: InnerSolver, *, start: Callable[[PyTree], PyTree] | None = None) -> Response:
    """Return the response of reverse mode through the inner solver (ITD).

    This is back-propagation: the derivative of the last iterate, not of the exact solution. With T
    steps of gradient descent its error falls like (1 - step mu)^T. It is the only response with a
    derivative with respect to the starting point.

    Args:
      solver: an inner solver with a reverse derivative, for example `descend(...)`. The reverse pass
        stores one copy of y and of the optimiser's state for each step that is differentiated.
        Truncated back-propagation is `descend(..., last=...)`.
      start: `x -> y0`, the starting point of the path; its derivative is included (MAML: the identity).
        Default: start at the y that the caller passes.

    Returns:
      A `Response` that carries no adjoint.

    Cost: the cost of the solver, and one Hessian and one cross product for each step that is
    differentiated.

    Reference: Franceschi et al., Forward and reverse gradient-based hyperparameter optimization,
    ICML 2017, arXiv:1703.01785.
    """

    def respond(x, y0, batch, key):
        def path(x):
            return solver.solve(x, y0 if start is None else start(x), batch)

        y, vjp = jax.vjp(path, x)

        def pullback(w, v):
            try:
                return Pulled(vjp(w)[0], (), 0.0)
            except ValueError as error:
                if "while_loop" not in str(error):
                    raise
                raise ValueError(
                    "this inner solver has a loop of unknown length, such as a line search, and no reverse "
                    "derivative; use `implicit`, or an optimiser without it (`optax.lbfgs(linesearch=None)`)"
                ) from error

        return y, pullback

    return Response(
        respond=respond,
        adjoint=no_adjoint,
        draws=solver.draws,
        cost=solver.cost.plus(solver.back_cost),
        residual=solver.residual,
    )
