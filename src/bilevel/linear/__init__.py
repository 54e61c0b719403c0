"""Linear solvers for the adjoint: `H v = b`, where H is seen through products only.

A solver receives `operator(i)`, the map `w -> H w` on the i-th minibatch, and returns `(v, residual)`
with `residual = ||b - H v|| / ||b||` on the minibatch it used last, so that an unconverged solve is
told. `neumann` and `random_product` use a minibatch for every factor; every other solver uses one, and
derivatives of its solution are those of the exact solution (`lax.custom_linear_solve`).
"""

from bilevel.linear.adaptor import lineax_solver
from bilevel.linear.cg import cg
from bilevel.linear.iterations import heavy_ball, nesterov, richardson
from bilevel.linear.neumann import decreasing_batches, neumann, random_product
from bilevel.linear.types import LinearSolver, relative_norm

__all__ = [
    "LinearSolver",
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
