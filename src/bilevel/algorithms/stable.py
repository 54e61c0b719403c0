"""STABLE: a single loop with recursive momentum on the second derivatives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import lu_factor, lu_solve

from bilevel.algorithms.record import describe
from bilevel.calculus import Products, products
from bilevel.combinators import move_outer
from bilevel.estimators import check_weight, remember
from bilevel.feasible import refuse_inner_projection
from bilevel.hypergradient import as_variables, measures
from bilevel.linear import relative_norm
from bilevel.optimizers import as_optimizer, move
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Point, Problem, PyTree, Schedule, require
from bilevel.widening import widened

tree = optax.tree


class StableState(NamedTuple):
    """State of STABLE.

    Attributes:
      x, y: outer and inner variable.
      matrices: the estimates of J, one row shaped like x for each of the q entries of y, and of
        H, a (q, q) matrix.
      last: x and y before the last step.
      optimizer: the states of the optimisers of x and y.
      count: number of steps made.
    """

    x: PyTree
    y: PyTree
    matrices: Products
    last: Point
    optimizer: Point
    count: jax.Array


@describe(
    family="single loop, implicit, stochastic, momentum",
    reference="Chen, Sun, Xiao and Yin, A Single-Timescale Method for Stochastic Bilevel Optimization, 2021, "
    "arXiv:2102.04671, STABLE",
    problem_facts=("inner_size",),
)
def stable(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    weight: float | Schedule = 0.5,
    convexity: float | None = None,
    inner_size: int = 1,
) -> Algorithm:
    """Return STABLE: recursive momentum on H and J themselves; y follows x.

        H <- H(now) + (1 - weight) (H - H(before)),   J likewise
        x+ = x - outer_optimizer(f_x - J H^-1 f_y)
        y+ = y - inner_optimizer(g_y) - H^-1 J' (x+ - x)

    The last term predicts how the inner solution moves with x. Both points of the momentum see the
    same minibatch. The first H and J are the plain ones.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      weight: share of the fresh derivatives, in (0, 1], or a schedule `step -> weight`, capped at 1.
      convexity: positive lower bound (the mu of g) to which smaller eigenvalues of H are raised; None leaves
        H as it is.
      inner_size: number q of entries of y. Only `cost` uses it, because it must be known before y is.

    Returns:
      An `Algorithm` that reads one minibatch at each level per step. It stores q (q + p) numbers for q
      entries of y and p of x, so it is meant for small y.

    Raises:
      ValueError: if a constant `weight` is not in (0, 1], `convexity` is not positive or
        `inner_size` < 1, or the problem has an inner projection.

    Cost per step: 2 gradients, 2 q Hessian products, 2 q cross products (each pair in one pass).

    Equations: recalled, not checked against the paper's text.

    >>> from bilevel import tasks
    >>> stable(tasks.quadratic().problem, inner_size=10).cost
    Cost(gradients=2, hessian_products=20, cross_products=20)
    """
    reason = "its step along the change of x leaves it"
    refuse_inner_projection(problem, "stable", reason, "use aid_bio or soba")
    check_weight(weight)
    require(convexity is None or convexity > 0, "convexity must be positive", convexity)
    require(inner_size >= 1, "inner_size must be at least 1", inner_size)
    optimizers = Point(as_optimizer(outer_optimizer), as_optimizer(inner_optimizer), None)

    # The method factorises a matrix, so this is the only place in the library that flattens y.
    def matrices_at(x, y, minibatch):
        vector, shaped = ravel_pytree(y)

        def row(basis):
            cross, hessian = products(problem.inner, x, y, minibatch, shaped(basis))
            return Products(cross, ravel_pytree(hessian)[0])

        return jax.vmap(row)(jnp.eye(vector.size, dtype=vector.dtype))

    def projected(hessian):
        if convexity is None:
            return hessian
        values, vectors = jnp.linalg.eigh(widened(hessian))
        return ((vectors * jnp.maximum(values, convexity)[None]) @ vectors.T).astype(hessian.dtype)

    def init(x, y):
        x, y = as_variables(x, y)
        vector, _ = ravel_pytree(y)
        cross = jax.tree.map(lambda leaf: jnp.zeros((vector.size, *leaf.shape), leaf.dtype), x)
        matrices = Products(cross, jnp.zeros((vector.size, vector.size), vector.dtype))
        states = Point(optimizers.x.init(x), optimizers.y.init(y), ())
        return StableState(
            x=x,
            y=y,
            matrices=matrices,
            last=Point(x, y, ()),
            optimizer=states,
            count=jnp.zeros((), jnp.int32),
        )

    def step(state, batch, key):
        x, y = state.x, state.y
        f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, y, batch.outer[0])
        g_y = jax.grad(problem.inner, argnums=1)(x, y, batch.inner[0])
        f_y, shaped = ravel_pytree(f_y)
        fresh = matrices_at(x, y, batch.inner[0])
        drift = tree.sub(state.matrices, matrices_at(state.last.x, state.last.y, batch.inner[0]))
        cross, hessian = remember(fresh, drift, weight, state.count)
        hessian = projected(hessian)
        factors = lu_factor(widened(hessian))

        def solve(right):
            return lu_solve(factors, widened(right)).astype(right.dtype)

        v = solve(f_y)
        gradient = jax.tree.map(lambda f, J: f - jnp.tensordot(v, J, axes=1), f_x, cross)
        residual = relative_norm(f_y - fresh.hessian @ v, f_y)
        metrics = measures(problem, x, y, batch, 0, gradient, residual)
        new_x, x_state = move_outer(problem, optimizers.x, gradient, state.optimizer.x, x, metrics)
        moved_y, y_state = move(optimizers.y, g_y, state.optimizer.y, y, value=metrics["inner_loss"])
        # The prediction follows the actual move of x, which a projection may have changed.
        push = jax.vmap(lambda row: tree.vdot(row, tree.sub(new_x, x)))(cross)
        new_y = tree.sub(moved_y, shaped(solve(push)))
        new_state = StableState(
            x=new_x,
            y=new_y,
            matrices=Products(cross, hessian),
            last=Point(x, y, ()),
            optimizer=Point(x_state, y_state, ()),
            count=state.count + 1,
        )
        return new_state, metrics

    cost = Cost(2, 2 * inner_size, 2 * inner_size)
    return Algorithm(init=init, step=step, draws=Draws(1, 1), cost=cost, name="stable")
