"""The response that says that the inner solution does not move."""

import optax

from bilevel.inner import InnerSolver
from bilevel.response.types import Pulled, Response, no_adjoint, with_pullback


def first_order(solver: InnerSolver) -> Response:
    """No indirect term: the hypergradient is the direct gradient f_x alone.

    Biased whenever y*(x) depends on x; the honest baseline of every other response.

    Args:
      solver: trains y.

    Returns:
      A `Response` that carries no adjoint.

    Cost: that of the solver.
    """

    def pullback_at(x, y0, y, batch, key):
        return lambda w, v: Pulled(optax.tree.zeros_like(x), (), 0.0)

    return Response(with_pullback(solver.solve, pullback_at), no_adjoint, solver.draws, solver.cost)
