"""HOZOG: the whole hypergradient from differences of function values."""

import jax
import jax.numpy as jnp
import optax

from bilevel.combinators import NestedState
from bilevel.hypergradient import as_variables, measures
from bilevel.inner import descend
from bilevel.optimizers import as_optimizer, move
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem
from bilevel_claims.pzobo.laws import one_draw

tree = optax.tree


def hozog(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    directions: int = 1,
    smoothing: float = 0.01,
    warm: bool = True,
) -> Algorithm:
    """Return HOZOG, which estimates the hypergradient from differences of the outer loss.

        F(x) = f(x, y^N(x));   h = (1/Q) sum_j (F(x + smoothing u_j) - F(x)) / smoothing  u_j

    The arguments are those of `pzobo`. A step reads one set of minibatches and costs (Q + 1) (N + 1)
    gradients, a value of f counted as one.

    Reference: following Gu et al., Optimizing Large-Scale Hyperparameters via Automated Learning
    Algorithm, 2021, arXiv:2102.09026.
    """
    solver, optimizer = descend(problem, inner_optimizer, inner_steps), as_optimizer(outer_optimizer)

    def init(x, y):
        x, y = as_variables(x, y)
        return NestedState(x, y, (), optimizer.init(x), () if warm else y)

    def step(state, batch, key):
        def trained(x):
            y = solver.solve(x, state.y if warm else state.start, batch)
            return problem.outer(x, y, batch.outer[0]), y

        value, y = trained(state.x)
        along = one_draw(key, state.x, directions)
        moved = jax.vmap(lambda u: trained(tree.add_scale(state.x, smoothing, u))[0])(along)
        slopes = (moved - value) / smoothing
        gradient = jax.tree.map(lambda u: jnp.tensordot(slopes, u, axes=1) / directions, along)
        metrics = measures(problem, state.x, y, batch, solver.draws - 1, gradient, 0.0)
        x, optimizer_state = move(optimizer, gradient, state.optimizer, state.x, problem.outer_projection)
        return NestedState(x, y, (), optimizer_state, state.start), metrics

    cost = solver.cost.plus(Cost(gradients=1)).times(directions + 1)
    return Algorithm(init, step, Draws(1, solver.draws), cost, "hozog")
