"""The oracle of SOBA: one gradient of each of the three problems."""

import jax
import optax

from bilevel.calculus import gradient_and_products
from bilevel.directions.types import Oracle, Terms
from bilevel.feasible import face
from bilevel.linear import relative_norm
from bilevel.types import Cost, Draws, Point, Problem

tree = optax.tree


def implicit_direction(problem: Problem) -> Oracle:
    """Return the oracle of the three implicit directions at one point.

        D_y = g_y,   D_v = H v - f_y,   D_x = f_x - J v

    With an inner projection the adjoint is restricted to the free directions, see `bilevel.feasible`:
    D_v = A v - P f_y and D_x = f_x - J P v.

    Args:
      problem: the two losses.

    Returns:
      An `Oracle` that reads one minibatch at each level.

    Cost: 2 gradients (one of f, one of g), 1 Hessian and 1 cross product, in one pass.

    Reference: Dagreou, Ablin, Vaiter and Moreau, A framework for bilevel optimization that enables
    stochastic and global variance reduction algorithms, NeurIPS 2022, arXiv:2201.13409.
    """

    def evaluate(point, batch, key):
        x, y, v = point
        f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, y, batch.outer[0])
        free = face(problem, x, y, batch.inner[0])
        f_y, passed = free.project(f_y), free.project(v)
        g_y, product = gradient_and_products(problem.inner, x, y, batch.inner[0], passed)
        image = free.image(v, product.hessian)
        outer = Point(f_x, tree.zeros_like(y), tree.scale(-1, f_y))
        inner = Point(tree.scale(-1, product.cross), g_y, image)
        return Terms(outer, inner, relative_norm(tree.sub(image, f_y), f_y))

    return Oracle(evaluate=evaluate, adjoint=tree.zeros_like, draws=Draws(1, 1), cost=Cost(2, 1, 1))
