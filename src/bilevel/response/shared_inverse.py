"""Implicit differentiation with the inverse Hessian of a quasi-Newton solver."""

from collections.abc import Callable
from functools import partial

import optax
from jax import lax

from bilevel.calculus import hessian_operator, products
from bilevel.inner import residual_on
from bilevel.linear import Operator, relative_norm
from bilevel.quasi_newton import Memory, QuasiNewtonSolver
from bilevel.response.types import Pulled, Response, following, no_adjoint
from bilevel.sampling import Shifted
from bilevel.types import Cost, Problem, PyTree

tree = optax.tree


def shared_inverse(
    problem: Problem,
    solver: QuasiNewtonSolver,
    adjoint: Callable[[Memory, Operator, PyTree, PyTree], PyTree],
    *,
    draws: int = 0,
    hessian_products: int = 0,
    warm: bool = False,
) -> Response:
    """Return the implicit response that uses the inverse Hessian of the inner solver.

        x_bar = -J v,   v = adjoint(memory, operator, w, last v)

    Args:
      problem: the two losses.
      solver: trains y.
      adjoint: `(memory, operator, w, v) -> v`, finds the adjoint; `operator(i)` is the Hessian of the
        i-th minibatch of `adjoint`, and v the adjoint of the previous step, `()` unless `warm`.
      draws, hessian_products: number of minibatches and of Hessian products of `adjoint`.
      warm: carry v from step to step.

    Returns:
      A `Response`. The solver reads the first minibatches, `adjoint` the next ones, and the cross
      product one more.

    Cost: the cost of the solver, `hessian_products`, and 1 cross product.
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

    start = tree.zeros_like if warm else no_adjoint
    return Response(
        respond=following(respond, start),
        watched=partial(following, respond, start),
        adjoint=start,
        draws=solver.draws + draws + 1,
        cost=solver.cost.plus(Cost(0, hessian_products, 1)),
        residual=residual_on(problem, solver.draws + draws),
    )
