"""First-order hypergradients under linear equality constraints on y."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.algorithms.record import describe
from bilevel.combinators import move_outer
from bilevel.hypergradient import as_variables, measures
from bilevel.optimizers import as_optimizer, move
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, require
from bilevel.whole_models import Opening

tree = optax.tree


class ConstrainedState(NamedTuple):
    """State of `constrained_first_order`.

    Attributes:
      x: outer variable.
      y: inner variable, which solves the inner problem; the model to report.
      z: second inner variable, which solves the problem perturbed by f, so it sees the outer data too.
      multipliers: Lagrange multipliers of the constraints on y and on z.
      optimizer: states of the optimisers of x, and of y and z.
    """

    x: PyTree
    y: PyTree
    z: PyTree
    multipliers: tuple[PyTree, PyTree]
    optimizer: Any


@describe(
    family="double loop, penalty, inner constraints",
    reference="Kornowski, Padmanabhan, Wang, Zhang and Sra, First-Order Methods for Linearly Constrained "
    "Bilevel Optimization, NeurIPS 2024, arXiv:2406.12771, the method for equality constraints",
)
def constrained_first_order(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    constraint: Callable[[PyTree, PyTree], PyTree] | None = None,
    dual_step: float = 0.1,
    perturbation: float = 0.01,
) -> Algorithm:
    """Return a first-order method for linear equality constraints on y.

        y*(x) = argmin over y of g(x, y)   subject to h(x, y) = 0,   h linear: A y - B x - c

        (y, l): T primal-dual steps on g + <l, h>,   (z, m): T on g + perturbation f + <m, h>:
          y <- y - inner_optimizer(g_y + h_y' (l + dual_step h)),   l <- l + dual_step h(x, y) at the new y
        x <- x - outer_optimizer(f_x(x, y) + (g_x(x, z) + h_x' m - g_x(x, y) - h_x' l) / perturbation)

    With exact inner solves the error is O(perturbation). Without constraints it is `f2sa` with penalty
    1 / perturbation, except that f_x is evaluated at y. The term `dual_step h` (an augmented Lagrangian)
    speeds up the inner loop and leaves its solution unchanged.

    Args:
      problem: the two losses.
      inner_optimizer: optimiser of y and of z, see `Optimizer`.
      outer_optimizer: optimiser of x.
      inner_steps: number T of primal-dual steps of each inner solve.
      constraint: `(x, y) -> h`, a pytree of arrays, linear in x and y; default: no constraint.
      dual_step: step size of the multipliers, positive.
      perturbation: weight delta of f in the problem of z, positive.

    Returns:
      An `Algorithm` that reads T + 1 minibatches at each level per step.

    Raises:
      ValueError: if `inner_steps` is negative, or `dual_step` or `perturbation` is not positive.

    Cost per step: 3 T + 3 gradients, no products. Products with h are not counted.

    Differs from the paper: warm-started primal-dual steps, our choice, solve the inner problems.
    Equations: follow the paper's method for equality constraints, not checked against its text.

    >>> from bilevel import tasks
    >>> constrained_first_order(tasks.quadratic().problem).cost
    Cost(gradients=33, hessian_products=0, cross_products=0)
    """
    require(inner_steps >= 0, "inner_steps must be at least 0", inner_steps)
    require(dual_step > 0, "dual_step must be positive", dual_step)
    require(perturbation > 0, "perturbation must be positive", perturbation)
    outer_optimizer, inner_optimizer = as_optimizer(outer_optimizer), as_optimizer(inner_optimizer)
    h = (lambda x, y: ()) if constraint is None else Opening(constraint)

    def init(x, y):
        x, y = as_variables(x, y)
        zero = tree.zeros_like(jax.eval_shape(h, x, y))
        states = outer_optimizer.init(x), (inner_optimizer.init(y),) * 2
        return ConstrainedState(x=x, y=y, z=y, multipliers=(zero, zero), optimizer=states)

    def primal_dual(x, variable, multiplier, state, slope):
        value, pull = jax.vjp(lambda y: h(x, y), variable)
        (force,) = pull(tree.add_scale(multiplier, dual_step, value))
        slope = tree.add(slope, force)
        variable, state = move(inner_optimizer, slope, state, variable, problem.inner_projection)
        return variable, tree.add_scale(multiplier, dual_step, h(x, variable)), state

    def step(state, batch, key):
        x, (x_state, inner_states) = state.x, state.optimizer
        g_x, g_y = jax.grad(problem.inner), jax.grad(problem.inner, argnums=1)

        def train(carry, t):
            (y, y_multiplier, y_state), (z, z_multiplier, z_state) = carry
            # Both read the same minibatch, since their difference and its noise are divided by the
            # perturbation.
            minibatch = batch.inner[t]
            f_y = jax.grad(problem.outer, argnums=1)(x, z, batch.outer[t])
            z_slope = tree.add_scale(g_y(x, z, minibatch), perturbation, f_y)
            new_y = primal_dual(x, y, y_multiplier, y_state, g_y(x, y, minibatch))
            return (new_y, primal_dual(x, z, z_multiplier, z_state, z_slope)), None

        carry = tuple(zip((state.y, state.z), state.multipliers, inner_states, strict=True))
        carry, _ = lax.scan(train, carry, jnp.arange(inner_steps))
        (y, z), multipliers, inner_states = zip(*carry, strict=True)

        def slope(variable, multiplier):
            _, pull = jax.vjp(lambda x: h(x, variable), x)
            return tree.add(g_x(x, variable, batch.inner[inner_steps]), pull(multiplier)[0])

        change = tree.sub(slope(z, multipliers[1]), slope(y, multipliers[0]))
        f_x = jax.grad(problem.outer)(x, y, batch.outer[inner_steps])
        direction = tree.add_scale(f_x, 1 / perturbation, change)
        metrics = measures(problem, x, y, batch, inner_steps, direction, 0.0)
        x, x_state = move_outer(problem, outer_optimizer, direction, x_state, x, metrics)
        states = x_state, inner_states
        return ConstrainedState(x=x, y=y, z=z, multipliers=multipliers, optimizer=states), metrics

    draws, cost = Draws(inner_steps + 1, inner_steps + 1), Cost(gradients=3 * inner_steps + 3)
    return Algorithm(init=init, step=step, draws=draws, cost=cost, name="constrained_first_order")
