"""The oracle of methods that solve for a new adjoint at every step."""

import jax
import optax

from bilevel.calculus import hessian_operator, products
from bilevel.directions.types import Oracle, Terms
from bilevel.feasible import face
from bilevel.linear import LinearSolver
from bilevel.sampling import Shifted
from bilevel.types import Cost, Draws, Point, Problem

tree = optax.tree


def neumann_direction(problem: Problem, linear: LinearSolver) -> Oracle:
    """Return the oracle of the inner gradient and of the hypergradient.

        D_y = g_y,   D_x = f_x - J v,   where v solves H v = f_y, started at zero

    With an inner projection the system is restricted to the free directions, see `bilevel.feasible`.

    Args:
      problem: the two losses.
      linear: usually `neumann(terms, rate)` or `random_product(terms, rate)`.

    Returns:
      An `Oracle` that carries no adjoint: `v` is `()`. Its outer terms are f_x; all others are inner
      terms. The inner minibatches are one for D_y, those of the linear solver, and one for the cross
      product.

    Cost: 2 gradients, the products of the linear solver, 1 cross product.
    """

    def evaluate(point, batch, key):
        x, y, _ = point
        f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, y, batch.outer[0])
        free = face(problem, x, y, batch.inner[0])
        operator = free.operator(hessian_operator(problem.inner, x, y, Shifted(batch.inner, 1)))
        v, residual = linear.solve(operator, free.project(f_y), tree.zeros_like(y), key)
        cross = products(problem.inner, x, y, batch.inner[1 + linear.draws], free.project(v)).cross
        g_y = jax.grad(problem.inner, argnums=1)(x, y, batch.inner[0])
        outer = Point(f_x, tree.zeros_like(y), ())
        return Terms(outer, Point(tree.scale(-1, cross), g_y, ()), residual)

    return Oracle(
        evaluate=evaluate,
        adjoint=lambda y: (),
        draws=Draws(1, linear.draws + 2),
        cost=Cost(2, linear.products, 1),
    )
