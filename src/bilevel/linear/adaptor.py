"""Linear solvers of another package."""

from typing import Any

import jax

from bilevel.linear.types import LinearSolver, implicitly_differentiable


def lineax_solver(solver: Any) -> LinearSolver:
    """Any linear solver of the `lineax` package, on one minibatch.

    Args:
      solver: for example `lineax.CG(rtol=1e-6, atol=1e-6)`; those that can start at v0.

    Returns:
      A `LinearSolver`. H is declared positive semidefinite. The number of products is the
      solver's own choice and is not counted in `products`.
    """
    import lineax as lx

    def iterate(matvec, b, v0):
        structure = jax.eval_shape(lambda: b)
        operator = lx.FunctionLinearOperator(matvec, structure, lx.positive_semidefinite_tag)
        options = {} if v0 is None else {"y0": v0}
        return lx.linear_solve(operator, b, solver, options=options, throw=False).value

    return LinearSolver(implicitly_differentiable(iterate, 0.0), 1, 0)
