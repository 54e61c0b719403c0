"""The oracle of SOBA: one gradient of each of the three problems."""

import jax
import optax

from bilevel.calculus import gradient_and_products
from bilevel.directions.types import Oracle, Terms
from bilevel.linear import relative_norm
from bilevel.types import Cost, Draws, Point, Problem

tree = optax.tree


def implicit_direction(problem: Problem) -> Oracle:
    """Return the oracle of the three implicit directions at one point.

        D_y = g_y,   D_v = H v - f_y,   D_x = f_x - J v

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
        g_y, product = gradient_and_products(problem.inner, x, y, batch.inner[0], v)
        outer = Point(f_x, tree.zeros_like(y), tree.scale(-1, f_y))
        inner = Point(tree.scale(-1, product.cross), g_y, product.hessian)
        return Terms(outer, inner, relative_norm(tree.sub(product.hessian, f_y), f_y))

    return Oracle(evaluate=evaluate, adjoint=tree.zeros_like, draws=Draws(1, 1), cost=Cost(2, 1, 1))
