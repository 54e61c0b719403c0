"""LancBiO: one Lanczos vector per step, kept while x and y move."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.algorithms.record import describe
from bilevel.calculus import hessian_operator, products
from bilevel.combinators import move_outer
from bilevel.feasible import face
from bilevel.hypergradient import as_variables, measures
from bilevel.inner import descend
from bilevel.linear import relative_norm
from bilevel.linear.cg import ROUNDING
from bilevel.optimizers import as_optimizer
from bilevel.sampling import Shifted
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, require
from bilevel.widening import widened

tree = optax.tree


class LancbioState(NamedTuple):
    """State of LancBiO.

    Attributes:
      x, y, v: outer and inner variable, adjoint.
      base, image: the adjoint v at the last restart, and H v there.
      basis: the Lanczos vectors q since the last restart, stacked in order.
      rest: the next Lanczos vector before normalisation.
      diagonal, beside: the tridiagonal matrix R; `beside[j]` couples the vectors j - 1 and j.
      optimizer: state of the outer optimiser.
      count: number of steps made.
    """

    x: PyTree
    y: PyTree
    v: PyTree
    base: PyTree
    image: PyTree
    basis: PyTree
    rest: PyTree
    diagonal: jax.Array
    beside: jax.Array
    optimizer: Any
    count: jax.Array


@describe(
    family="double loop, implicit, Krylov subspace",
    reference="Yang, Gao and Yuan, LancBiO: dynamic Lanczos-aided bilevel optimization via Krylov subspace, "
    "ICLR 2025, arXiv:2404.03331",
    cheap=True,
)
def lancbio(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 5,
    period: int = 10,
) -> Algorithm:
    """Return LancBiO: one Lanczos step, then the best adjoint in the subspace so far.

        y: T steps of inner_optimizer on g(x, .), from the last y
        every `period` steps: base = v, w = H base, q = (f_y - w) / |f_y - w|, empty Q and R
        u = H q - beta q_last, alpha = q'u; append q to Q, and alpha and beta to the tridiagonal R
        v = base + Q s,   R s = Q'(f_y - w)
        q_last = q,   r = (I - Q Q') u,   beta = |r|,   q = r / beta
        x <- x - outer_optimizer(f_x - J v)

    While x and y stand still, v takes the iterates of conjugate gradients started at base.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of steps of each inner solve.
      period: number of steps from one restart to the next; values above the number of entries of y count as
        that number. The state stores as many vectors.

    Returns:
      An `Algorithm` that reads T + 2 inner minibatches per step.

    Raises:
      ValueError: if `inner_steps` < 0 or `period` < 1.

    Cost per step: T + 1 gradients, 1 Hessian product, 1 cross product. A restart takes one more
    Hessian product, which is not counted; the first restart takes none.

    Differs from the paper's code: the period is constant, while theirs grows; every new q is made orthogonal
    to all of Q, not to the last two vectors alone; a vanishing beta ends the growth of the subspace.

    >>> from bilevel import tasks
    >>> lancbio(tasks.quadratic().problem).cost
    Cost(gradients=6, hessian_products=1, cross_products=1)
    """
    require(period >= 1, "period must be at least 1", period)
    optimizer = as_optimizer(outer_optimizer)
    solver = descend(problem, inner_optimizer, inner_steps)

    def init(x, y):
        x, y = as_variables(x, y)
        zero = tree.zeros_like(y)
        # The number of independent vectors is at most the number of entries of y.
        room = min(period, tree.size(y))
        basis = jax.tree.map(lambda leaf: jnp.zeros((room, *leaf.shape), leaf.dtype), y)
        band = jnp.zeros(room, tree.norm(y).dtype)
        count = jnp.zeros((), jnp.int32)
        return LancbioState(
            x=x,
            y=y,
            v=zero,
            base=zero,
            image=zero,
            basis=basis,
            rest=zero,
            diagonal=band,
            beside=band,
            optimizer=optimizer.init(x),
            count=count,
        )

    def step(state, batch, key):
        x = state.x
        y = solver.solve(x, state.y, batch)
        f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, y, batch.outer[0])
        free = face(problem, x, y, batch.inner[inner_steps])
        f_y = free.project(f_y)
        matvec = free.operator(hessian_operator(problem.inner, x, y, Shifted(batch.inner, inner_steps)))(0)

        room = state.diagonal.size
        place = state.count % room
        restart = place == 0
        base = tree.where(restart, state.v, state.base)
        # At the first step v = 0, so its image is zero and takes no product.
        image = lax.cond(restart & (state.count > 0), matvec, lambda v: state.image, base)
        defect = tree.sub(f_y, image)

        raw = tree.where(restart, defect, state.rest)
        length = tree.norm(raw)
        q = tree.scale(1 / jnp.where(length > 0, length, 1), raw)
        last = jax.tree.map(lambda ring: ring[place - 1], state.basis)
        # A restart empties the basis, so the places after this one are zero.
        basis = tree.where(restart, tree.zeros_like(state.basis), state.basis)
        basis = jax.tree.map(lambda ring, leaf: ring.at[place].set(leaf), basis, q)
        beta = jnp.where(restart, 0, length)
        u = tree.sub(matvec(q), tree.scale(beta, last))
        alpha = tree.vdot(q, u)
        # H changes from step to step, so after a few steps the recursion alone is no longer orthogonal to Q.
        # A second pass removes the rounding errors of the first.
        rest = _orthogonal(basis, _orthogonal(basis, u))
        # In an invariant subspace the rest is rounding error, not orthogonal to Q: the subspace stops here.
        grows = tree.norm(rest) > jnp.sqrt(jnp.finfo(beta.dtype).eps) * tree.norm(u)
        rest = tree.where(grows, rest, tree.zeros_like(rest))

        diagonal, beside = state.diagonal.at[place].set(alpha), state.beside.at[place].set(beta)
        right = sum(jax.tree.leaves(jax.tree.map(_dots, basis, defect)))
        shares = _solve_tridiagonal(diagonal, beside, right, jnp.arange(room, dtype=jnp.int32) <= place)
        v = tree.add(base, jax.tree.map(lambda ring: jnp.tensordot(shares, ring, axes=1), basis))

        product = products(problem.inner, x, y, batch.inner[inner_steps + 1], free.project(v))
        gradient = tree.sub(f_x, product.cross)
        residual = relative_norm(tree.sub(f_y, free.image(v, product.hessian)), f_y)
        metrics = measures(problem, x, y, batch, inner_steps + 1, gradient, residual)
        x, optimizer_state = move_outer(problem, optimizer, gradient, state.optimizer, x, metrics)
        new_state = LancbioState(
            x=x,
            y=y,
            v=v,
            base=base,
            image=image,
            basis=basis,
            rest=rest,
            diagonal=diagonal,
            beside=beside,
            optimizer=optimizer_state,
            count=state.count + 1,
        )
        return new_state, metrics

    draws, cost = Draws(1, inner_steps + 2), solver.cost.plus(Cost(1, 1, 1))
    return Algorithm(init=init, step=step, draws=draws, cost=cost, name="lancbio")


def _orthogonal(basis, vector):
    """Return a vector without its part in the span of an orthonormal basis."""
    parts = sum(jax.tree.leaves(jax.tree.map(_dots, basis, vector)))
    return jax.tree.map(lambda leaf, ring: leaf - jnp.tensordot(parts, ring, axes=1), vector, basis)


def _dots(ring, leaf):
    """Return the dot product of a leaf with every entry of a stack."""
    return jnp.tensordot(ring, leaf, axes=leaf.ndim)


def _solve_tridiagonal(diagonal, beside, right, used):
    """Solve `R s = right` on the places in use.

    s is 0 elsewhere, and along eigenvectors of R whose eigenvalue is not positive: there H is singular or
    indefinite, and the solution would grow without bound.
    """
    diagonal = jnp.where(used, diagonal, 0)
    beside = jnp.where(used, beside, 0)[1:]
    matrix = widened(jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1))
    values, vectors = jnp.linalg.eigh(matrix)
    least = ROUNDING * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
    convex = values > least
    shares = vectors.T @ widened(jnp.where(used, right, 0))
    shares = jnp.where(convex, shares / jnp.where(convex, values, 1), 0)
    return (vectors @ shares).astype(right.dtype)
