"""SubBiO: the best adjoint in a subspace of two vectors."""

import jax.numpy as jnp
import optax

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.linear import LinearSolver, relative_norm
from bilevel.linear.cg import is_convex, largest_curvature
from bilevel.response import implicit
from bilevel.types import Algorithm, Optimizer, Problem

tree = optax.tree


@describe(
    family="double loop, implicit, Krylov subspace",
    reference="Yang, Gao and Yuan, LancBiO: dynamic Lanczos-aided bilevel optimization via Krylov subspace, "
    "ICLR 2025, arXiv:2404.03331",
)
def subbio(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 5,
    rate: float = 0.1,
) -> Algorithm:
    """Return SubBiO: inner steps, then the best adjoint in a subspace of two vectors.

        y: T steps of inner_optimizer on g(x, .), from the last y
        v <- W (W'HW)^-1 W'f_y,   W = [f_y, v - rate H v]
        x <- x - outer_optimizer(f_x - J v)

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of steps of each inner solve.
      rate: step size of the second vector of W.

    Returns:
      An `Algorithm` that reads T + 2 inner minibatches per step.

    Raises:
      ValueError: if `inner_steps` < 0.

    Cost per step: T + 1 gradients, 3 Hessian products, 1 cross product.

    Differs from the paper: an orthonormal basis of the span of W replaces W, so that parallel vectors are
    harmless.

    >>> from bilevel import tasks
    >>> subbio(tasks.quadratic().problem).cost
    Cost(gradients=6, hessian_products=3, cross_products=1)
    """
    response = implicit(problem, descend(problem, inner_optimizer, inner_steps), _plane(rate))
    return nested(problem, response, outer_optimizer, name="subbio")


def _plane(rate) -> LinearSolver:
    """Return the Galerkin solver in the plane of b and `v0 - rate H v0`."""

    def solve(operator, b, v0, key=None):
        matvec = operator(0)
        first = _unit(b, 0.0)
        step = tree.add_scale(v0, -rate, matvec(v0))
        across = tree.sub(step, tree.scale(tree.vdot(first, step), first))
        # If the two vectors are parallel, `across` is rounding error: the plane is then a line.
        second = _unit(across, jnp.sqrt(jnp.finfo(tree.norm(b).dtype).eps) * tree.norm(step))
        images = matvec(first), matvec(second)
        pairs = (first, images[0]), (first, images[1]), (second, images[1])
        a, c, d = (jnp.asarray(tree.vdot(*pair)) for pair in pairs)
        # W'b = (||b||, 0). Where H is not positive definite on the plane, as with a zero second vector, only
        # the line of b is left, or nothing.
        largest = largest_curvature(largest_curvature(jnp.zeros_like(a), a, images[0]), d, images[1])
        line = is_convex(a, jnp.ones_like(a), largest)
        plane = line & is_convex(d - c * c / jnp.where(line, a, 1), jnp.ones_like(a), largest)
        c, d = jnp.where(plane, c, 0), jnp.where(plane, d, 1)
        determinant = jnp.where(line, a * d - c * c, 1)
        scale = jnp.where(line, tree.norm(b), 0) / determinant
        v = tree.add(tree.scale(scale * d, first), tree.scale(-scale * c, second))
        image = tree.add(tree.scale(scale * d, images[0]), tree.scale(-scale * c, images[1]))
        return v, relative_norm(tree.sub(b, image), b)

    return LinearSolver(solve=solve, draws=1, products=3)


def _unit(vector, floor):
    """Return the vector scaled to length 1, or zero if it is not longer than `floor`."""
    length = tree.norm(vector)
    kept = length > floor
    return tree.scale(jnp.where(kept, 1 / jnp.where(kept, length, 1), 0), vector)
