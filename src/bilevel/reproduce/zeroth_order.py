"""What the entries on PZOBO share: its official directions, HOZOG, and all that it is compared with."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bilevel.combinators import NestedState, move, nested
from bilevel.hypergradient import as_variables, measures
from bilevel.inner import as_optimizer, descend
from bilevel.linear import cg, richardson
from bilevel.response import first_order, gaussian, implicit, unrolled, zeroth_order
from bilevel.types import Algorithm, Cost, Draws, Problem, PyTree

tree = optax.tree

DIRECT, CODE, ONE, HOZOG = "direct term only", "PZOBO, official code", "PZOBO, Q = 1", "HOZOG"
AID_FP, AID_CG, ITD = "AID-FP", "AID-CG", "ITD"


def contestants(
    problem: Problem,
    inner_step: float,
    inner_steps: int,
    *,
    smoothing: float,
    counts: Sequence[int],
    cg_steps: int | None = None,
    optimizer: Callable[[Any], Any] = optax.adam,
) -> dict[str, Callable[..., Algorithm]]:
    """By label, `(outer_optimizer=step size) -> Algorithm`, all with gradient descent inside.

    Every inner solve starts at the first y.

    Args:
      problem: the two losses.
      inner_step, inner_steps: of every inner solve.
      smoothing: length of the perturbations.
      counts: of the directions of PZOBO.
      cg_steps: inner steps and steps of conjugate gradients of AID-CG, `inner_steps` when None.
      optimizer: the outer optimiser of a step size.
    """
    cg_steps = cg_steps or inner_steps
    solver = descend(problem, inner_step, inner_steps)
    estimated = {f"PZOBO, Q = {count}": zeroth_order(solver, count, smoothing=smoothing) for count in counts}
    responses = {
        DIRECT: first_order(solver),
        CODE: zeroth_order(solver, 1, smoothing=smoothing, law=unit_tensors),
        ITD: unrolled(solver),
        AID_FP: implicit(problem, solver, richardson(inner_steps, inner_step), warm=False),
        AID_CG: implicit(problem, descend(problem, inner_step, cg_steps), cg(cg_steps), warm=False),
        **estimated,
    }

    def builder(response):
        return lambda outer_optimizer: nested(problem, response, optimizer(outer_optimizer), warm=False)

    def differences(outer_optimizer):
        rates = {"inner_optimizer": inner_step, "outer_optimizer": optimizer(outer_optimizer)}
        return hozog(problem, **rates, inner_steps=inner_steps, smoothing=smoothing, warm=False)

    return {label: builder(response) for label, response in responses.items()} | {HOZOG: differences}


def unit_tensors(key: Any, x: PyTree, count: int) -> PyTree:
    """Gaussian directions, each tensor of x scaled to length 1, as in the official code of PZOBO.

    With p entries in a tensor the mean of the estimate is 1/p of the indirect term there.
    """

    def unit(u):
        return jax.tree.map(lambda leaf: leaf / jnp.linalg.norm(leaf.ravel()), u)

    return jax.vmap(unit)(gaussian(key, x, count))


def hozog(
    problem: Problem,
    *,
    inner_optimizer=0.1,
    outer_optimizer=0.1,
    inner_steps: int = 10,
    directions: int = 1,
    smoothing: float = 0.01,
    warm: bool = True,
) -> Algorithm:
    """The whole hypergradient from differences of the outer loss after training.

        F(x) = f(x, y^N(x));   h = (1/Q) sum_j (F(x + smoothing u_j) - F(x)) / smoothing  u_j

    Arguments as of `pzobo`; all values of a step are taken on the same minibatches.

    Cost per step: (Q + 1) (N + 1) gradients, a value of f counted as one.

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
        along = gaussian(key, state.x, directions)
        moved = jax.vmap(lambda u: trained(tree.add_scale(state.x, smoothing, u))[0])(along)
        slopes = (moved - value) / smoothing
        gradient = jax.tree.map(lambda u: jnp.tensordot(slopes, u, axes=1) / directions, along)
        metrics = measures(problem, state.x, y, batch, solver.draws - 1, gradient, 0.0)
        x, optimizer_state = move(optimizer, gradient, state.optimizer, state.x)
        return NestedState(x, y, (), optimizer_state, state.start), metrics

    cost = solver.cost.plus(Cost(gradients=1)).times(directions + 1)
    return Algorithm(init, step, Draws(1, solver.draws), cost, "hozog")


def angles(
    judge: Callable[..., Algorithm], methods: dict[str, Callable[..., Algorithm]]
) -> dict[str, Callable]:
    """By label, `(state, data) -> cosine` between a method's direction and that of `judge`.

    All must move x by plain descent and start every inner solve at the first y: their directions
    are then what one step of size 1 takes off x.
    """

    def direction(build, state, data, key):
        algorithm = build(outer_optimizer=1.0)
        return tree.sub(state.x, algorithm.step(algorithm.init(state.x, state.start), data, key)[0].x)

    def against(build):
        def angle(state, data):
            key = jax.random.fold_in(jax.random.key(0), state.optimizer[0].count)
            ours, best = direction(build, state, data, key), direction(judge, state, data, key)
            return tree.vdot(ours, best) / (tree.norm(ours) * tree.norm(best))

        return angle

    return {label: against(build) for label, build in methods.items()}
