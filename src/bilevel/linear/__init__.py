"""Linear solvers for the adjoint system `H v = b`, by products with H only.

`LinearSolver` documents the protocol. `neumann`, `random_product` and `richardson(fresh=True)` read a
minibatch for every factor and are differentiated step by step. All others read one minibatch; the
derivatives of their solution are those of the exact solution (`lax.custom_linear_solve`).
"""

from bilevel.linear.adaptor import lineax_solver
from bilevel.linear.cg import cg
from bilevel.linear.iterations import heavy_ball, nesterov, richardson
from bilevel.linear.neumann import decreasing_batches, neumann, random_product
from bilevel.linear.types import LinearSolver, Operator, relative_norm

__all__ = [
    "LinearSolver",
    "Operator",
    "cg",
    "decreasing_batches",
    "heavy_ball",
    "lineax_solver",
    "nesterov",
    "neumann",
    "random_product",
    "relative_norm",
    "richardson",
]
