"""Implicit differentiation with the inverse Hessian that a quasi-Newton solver leaves behind."""

from collections.abc import Callable

import optax
from jax import lax

from bilevel.calculus import hessian_operator, products
from bilevel.linear import relative_norm
from bilevel.quasi_newton import QuasiNewtonSolver
from bilevel.response.types import Pulled, Response, no_adjoint
from bilevel.sampling import Shifted
from bilevel.types import Cost, Problem

tree = optax.tree


def shared_inverse(
    problem: Problem,
    solver: QuasiNewtonSolver,
    adjoint: Callable,
    *,
    draws: int = 0,
    hessian_products: int = 0,
    warm: bool = False,
) -> Response:
    """The implicit response whose adjoint starts from the inverse of the inner solver.

        x_bar = -J v,   v = adjoint(memory, operator, w, last v)

    For `nested`: its y is a constant to `jax.grad`.

    Args:
      problem: the two losses.
      solver: trains y.
      adjoint: finds v; `operator(i)` is the Hessian of its i-th minibatch.
      draws, hessian_products: what `adjoint` reads and makes.
      warm: carry v from step to step.

    Returns:
      A `Response`; minibatches go to the solver first, then to `adjoint`, one more to the cross product.
    """

    def respond(x, y0, batch, key):
        y, memory = lax.stop_gradient(solver.solve(x, y0, batch))

        def pullback(w, v):
            operator = hessian_operator(problem.inner, x, y, Shifted(batch.inner, solver.draws))
            v = adjoint(memory, operator, w, v)
            product = products(problem.inner, x, y, batch.inner[solver.draws + draws], v)
            residual = relative_norm(tree.sub(w, product.hessian), w)
            return Pulled(tree.scale(-1, product.cross), v if warm else (), residual)

        return y, pullback

    cost = solver.cost.plus(Cost(0, hessian_products, 1))
    return Response(respond, tree.zeros_like if warm else no_adjoint, solver.draws + draws + 1, cost)
