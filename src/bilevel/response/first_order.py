"""The response that says that the inner solution does not move."""

from collections.abc import Callable

import jax
import optax

from bilevel.inner import InnerSolver
from bilevel.response.types import Pulled, Response, no_adjoint, with_pullback


def first_order(solver: InnerSolver, *, start: Callable | None = None) -> Response:
    """No second derivative: every Hessian and cross derivative counts as zero.

        x_bar = (d start / dx)' w,   zero without a start: the hypergradient is then f_x alone

    Biased whenever y*(x) depends on x; the honest baseline of every other response.

    Args:
      solver: trains y.
      start: `x -> y0`, where the solver starts (first-order MAML: the identity); None starts at
        the y that it is given.

    Returns:
      A `Response` that carries no adjoint.

    Cost: that of the solver.
    """

    def solve(x, y0, batch):
        return solver.solve(x, y0 if start is None else start(x), batch)

    def pullback_at(x, y0, y, batch, key):
        def pullback(w, v):
            x_bar = optax.tree.zeros_like(x) if start is None else jax.vjp(start, x)[1](w)[0]
            return Pulled(x_bar, (), 0.0)

        return pullback

    return Response(with_pullback(solve, pullback_at), no_adjoint, solver.draws, solver.cost)
