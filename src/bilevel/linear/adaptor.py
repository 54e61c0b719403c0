"""An adaptor for the linear solvers of the `lineax` package."""

from typing import Any

import jax

from bilevel.extras import extra
from bilevel.linear.types import LinearSolver, implicitly_differentiable


def lineax_solver(solver: Any) -> LinearSolver:
    """Return a linear solver that calls a solver of the `lineax` package.

    Args:
      solver: a lineax solver that accepts a starting point, for example
        `lineax.CG(rtol=1e-6, atol=1e-6)`.

    Returns:
      A `LinearSolver` that reads one minibatch. It tags H as positive semidefinite. The lineax solver
      chooses its number of products, so `products` is 0.
    """
    with extra("lineax"):
        import lineax as lx

    def iterate(matvec, b, v0):
        structure = jax.eval_shape(lambda: b)
        operator = lx.FunctionLinearOperator(matvec, structure, lx.positive_semidefinite_tag)
        options = {} if v0 is None else {"y0": v0}
        return lx.linear_solve(operator, b, solver, options=options, throw=False).value

    return LinearSolver(solve=implicitly_differentiable(iterate, 0.0), draws=1, products=0)
