"""Feasible sets: projected gradients, and the directions in which the inner solution can move.

With an inner projection the inner solution is the fixed point `y = project(y - s g_y)`, for every s > 0. Let
P be the Jacobian of the projection there: a symmetric matrix, for a polyhedron the orthogonal projector
onto the directions that no active constraint blocks. The adjoint is `v = P u`, and the hypergradient is
`f_x - J v`, where

    A u = P f_y,   A = P H P + P (I - P) / s

For a polyhedron P (I - P) = 0, and s does not matter. On a curved set the second term is its curvature.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.calculus import gradient_and_hessian
from bilevel.types import Problem, PyTree

tree = optax.tree
Linear = Callable[[PyTree], PyTree]


class Face(NamedTuple):
    """The directions in which the inner solution can move, and the adjoint system on them.

    Attributes:
      project: the map `w -> P w`.
      image: `(u, H P u) -> A u`, completes a Hessian product to a product with A.
    """

    project: Linear
    image: Callable[[PyTree, PyTree], PyTree]

    def restrict(self, hessian: Linear) -> Linear:
        """Return the map `u -> A u` for the Hessian `w -> H w`."""
        return lambda u: self.image(u, hessian(self.project(u)))

    def operator(self, operator: Callable[[Any], Linear]) -> Callable[[Any], Linear]:
        """Return `i -> (u -> A u)` for the Hessians `i -> (w -> H w)` of minibatches."""
        return lambda i: self.restrict(operator(i))


EVERYWHERE = Face(project=lambda w: w, image=lambda u, product: product)
"""The face of a problem without an inner projection."""


def face(problem: Problem, x: PyTree, y: PyTree, minibatch: Any) -> Face:
    """Return the face of the inner feasible set on which `y` lies.

    A constraint is active where the projection stops the step `y - s g_y`. The step is short: at most the
    inverse of the curvature along g_y, and no entry of y moves by more than a share eps^(1/3) of the largest
    one. So a large multiplier of an active constraint does not carry free entries across their bounds. On a
    minibatch the active constraints are those of its gradient, which noise can change.

    Args:
      problem: the two losses and the inner projection.
      x, y: the point.
      minibatch: data of g.

    Returns:
      A `Face`; `EVERYWHERE` if the problem has no inner projection.

    Cost: 1 gradient and 1 Hessian product, and one derivative of the projection for each call; nothing
    without an inner projection.
    """
    if problem.inner_projection is None:
        return EVERYWHERE
    g_y, hessian = gradient_and_hessian(problem.inner, x, y, minibatch)
    step = jax.lax.stop_gradient(_short_step(y, g_y, hessian(g_y)))
    _, project = jax.linearize(problem.inner_projection, tree.add_scale(y, -step, g_y))

    def image(u, product):
        blocked = tree.sub(u, project(u))
        return project(tree.add_scale(product, 1 / step, blocked))

    return Face(project, image)


def _short_step(y, g_y, image):
    """Return the step s of `face` from g_y and `H g_y`; 1 where both are zero."""
    length, curved = tree.norm(g_y), tree.norm(image)
    largest, size = (jnp.asarray(tree.max(jax.tree.map(jnp.abs, variable))) for variable in (g_y, y))
    reach = jnp.finfo(size.dtype).eps ** (1 / 3) * jnp.where(size > 0, size, 1)
    short = jnp.where(largest > 0, reach / jnp.where(largest > 0, largest, 1), 1)
    return jnp.where(curved > 0, jnp.minimum(short, length / jnp.where(curved > 0, curved, 1)), short)


def projected_gradient(
    projection: Callable[[PyTree], PyTree] | None, variable: PyTree, gradient: PyTree
) -> PyTree:
    """Return `variable - projection(variable - gradient)`, zero where the variable is stationary.

    Without a projection it is the gradient.
    """
    if projection is None:
        return gradient
    return tree.sub(variable, projection(tree.sub(variable, gradient)))


def refuse_inner_projection(problem: Problem, name: str, reason: str, remedy: str) -> None:
    """Raise `ValueError` if the problem has an inner projection, which the algorithm cannot keep."""
    if problem.inner_projection is not None:
        raise ValueError(
            f"{name} cannot keep y in a feasible set ({reason}), got a problem with an inner_projection; "
            f"{remedy}"
        )
