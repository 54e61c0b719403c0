"""The response that ignores how the inner solution depends on `x`."""

from collections.abc import Callable

import jax
import optax

from bilevel.inner import InnerSolver
from bilevel.response.types import Pulled, Response, no_adjoint, with_pullback
from bilevel.types import PyTree


def first_order(solver: InnerSolver, *, start: Callable[[PyTree], PyTree] | None = None) -> Response:
    """Return the response that sets every second derivative to zero.

        x_bar = (d start / dx)' w,   or zero without `start`

    Without `start` the hypergradient is f_x alone. It is biased whenever y*(x) depends on x. It is a
    baseline for the other responses.

    Args:
      solver: trains y.
      start: `x -> y0`, the starting point of the solver (first-order MAML: the identity); default:
        start at the y that the caller passes.

    Returns:
      A `Response` that carries no adjoint.

    Cost: the cost of the solver.
    """

    def solve(x, y0, batch):
        return solver.solve(x, y0 if start is None else start(x), batch)

    def pullback_at(x, y0, y, batch, key):
        def pullback(w, v):
            x_bar = optax.tree.zeros_like(x) if start is None else jax.vjp(start, x)[1](w)[0]
            return Pulled(x_bar, (), 0.0)

        return pullback

    return Response(
        respond=with_pullback(solve, pullback_at),
        adjoint=no_adjoint,
        draws=solver.draws,
        cost=solver.cost,
        residual=solver.residual,
    )
