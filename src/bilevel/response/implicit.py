"""The response by implicit differentiation."""

from functools import partial

import optax

from bilevel.calculus import hessian_operator, products
from bilevel.feasible import face
from bilevel.inner import InnerSolver, residual_on
from bilevel.linear import LinearSolver
from bilevel.response.types import Pulled, Response, no_adjoint, with_pullback
from bilevel.sampling import Shifted
from bilevel.types import Cost, Problem

tree = optax.tree


def implicit(problem: Problem, solver: InnerSolver, linear: LinearSolver, *, warm: bool = True) -> Response:
    """Return the response of an exact inner solution, by one linear solve.

        H v = w,   x_bar = -J v,   both at the last iterate of the inner solver

    With an inner projection the system is restricted to the directions that no active constraint blocks:
    `A u = P w`, `v = P u`, see `bilevel.feasible`.

    If the inner solve has not converged, the hypergradient is wrong and may have the wrong sign: watch
    `inner_residual` and `linear_residual` in the metrics.

    Args:
      problem: the two losses.
      solver: trains y.
      linear: finds v.
      warm: start the linear solve at the adjoint of the previous step. Otherwise it starts at zero,
        which saves `linear.start_products` products.

    Returns:
      A `Response`. The inner solver reads the first minibatches, the linear solver the next ones, and
      the cross product one more.

    Cost: the cost of the two solvers, and 1 cross product.

    Reference: Pedregosa, Hyperparameter optimization with approximate gradient, ICML 2016,
    arXiv:1602.02355.
    """

    def pullback_at(x, y0, y, batch, key):
        def pullback(w, v):
            start = v if warm else None
            last = batch.inner[solver.draws + linear.draws]
            free = face(problem, x, y, last)
            operator = hessian_operator(problem.inner, x, y, Shifted(batch.inner, solver.draws))
            v, residual = linear.solve(free.operator(operator), free.project(w), start, key)
            cross = products(problem.inner, x, y, last, free.project(v)).cross
            return Pulled(tree.scale(-1, cross), v if warm else (), residual)

        return pullback

    hessian_products = linear.products - (0 if warm else linear.start_products)
    return Response(
        respond=with_pullback(solver.solve, pullback_at),
        watched=partial(with_pullback, solver.solve, pullback_at),
        residual=residual_on(problem, solver.draws + linear.draws),
        adjoint=tree.zeros_like if warm else no_adjoint,
        draws=solver.draws + linear.draws + 1,
        cost=solver.cost.plus(Cost(0, hessian_products, 1)),
    )
