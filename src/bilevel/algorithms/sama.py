"""SAMA: the diagonal scaling of the inner optimiser as inverse Hessian."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.algorithms.record import describe
from bilevel.calculus import cross_difference
from bilevel.combinators import move_outer
from bilevel.feasible import face
from bilevel.hypergradient import as_variables, measures
from bilevel.optimizers import as_optimizer, move
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, require

tree = optax.tree


class SamaState(NamedTuple):
    """State of SAMA.

    Attributes:
      x, y: outer and inner variable.
      optimizer: the states of the optimisers of x and y; both are kept from step to step.
    """

    x: PyTree
    y: PyTree
    optimizer: Any


@describe(
    family="double loop, identity in place of the inverse Hessian, finite differences",
    reference="Choe, Mehta, Ahn, Neiswanger, Xie, Strubell and Xing, Making Scalable Meta Learning "
    "Practical, NeurIPS 2023, arXiv:2310.05674, SAMA",
)
def sama(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    adaptation: Callable[[Any, PyTree], PyTree] | None = None,
    difference: float = 1.0,
) -> Algorithm:
    """Return SAMA: the inner optimiser's own scaling replaces the inverse Hessian.

        y: T steps of inner_optimizer on g(x, .)
        u = D f_y,   D = d update / d gradient at the last of these steps, a diagonal
        x <- x - outer_optimizer(f_x - (g_x(x, y + eps u) - g_x(x, y - eps u)) / (2 eps))

        eps = difference / |u|

    Since the identity replaces H^-1, the indirect term has another length than in the hypergradient, and
    the direction is biased.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of inner steps between two outer steps, at least 1.
      adaptation: `(state of the inner optimiser before the last step, its gradient) -> D`, shaped like y;
        `adam_derivative(...)` for Adam. None means D = 1, for gradient descent.
      difference: length of the finite difference in y, positive. The default is the authors'; where
        g_x is not quadratic in y it is far outside the linear range.

    Returns:
      An `Algorithm` that reads T inner minibatches and 1 outer minibatch per step. The difference is
      evaluated on the last inner minibatch.

    Raises:
      ValueError: if `inner_steps` < 1 or `difference` is not positive.

    Cost per step: T + 3 gradients, no products.

    Equations: taken from the authors' code (leopard-ai/betty).

    >>> from bilevel import tasks
    >>> sama(tasks.quadratic().problem).cost
    Cost(gradients=13, hessian_products=0, cross_products=0)
    """
    require(inner_steps >= 1, "inner_steps must be at least 1", inner_steps)
    require(difference > 0, "difference must be positive", difference)
    outer_optimizer, inner_optimizer = as_optimizer(outer_optimizer), as_optimizer(inner_optimizer)

    def init(x, y):
        x, y = as_variables(x, y)
        return SamaState(x, y, (outer_optimizer.init(x), inner_optimizer.init(y)))

    def step(state, batch, key):
        x, (x_state, y_state) = state.x, state.optimizer

        def train(carry, t):
            y, y_state, *_ = carry

            def loss(y):
                return problem.inner(x, y, batch.inner[t])

            g_y = jax.grad(loss)(y)
            moved = move(inner_optimizer, g_y, y_state, y, problem.inner_projection, loss=loss)
            return (*moved, y_state, g_y), None

        carry = state.y, y_state, y_state, tree.zeros_like(state.y)
        (y, y_state, before, g_y), _ = lax.scan(train, carry, jnp.arange(inner_steps))
        f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, y, batch.outer[0])
        last = inner_steps - 1
        u = f_y if adaptation is None else tree.mul(adaptation(before, g_y), f_y)
        u = face(problem, x, y, batch.inner[last]).project(u)
        cross = cross_difference(problem.inner, x, y, batch.inner[last], u, difference)
        direction = tree.sub(f_x, cross)
        metrics = measures(problem, x, y, batch, last, direction, 0.0)
        x, x_state = move_outer(problem, outer_optimizer, direction, x_state, x, metrics)
        return SamaState(x, y, (x_state, y_state)), metrics

    cost = Cost(gradients=inner_steps + 3)
    return Algorithm(init=init, step=step, draws=Draws(1, inner_steps), cost=cost, name="sama")


def adam_derivative(learning_rate: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Callable:
    """Return the diagonal derivative of Adam's update in the gradient, for `sama`.

        D = learning_rate ((1 - b1) b2 nu - b1 (1 - b2) g mu) / (sqrt(b2 nu + (1 - b2) g^2) + eps)^3

    g is the gradient; mu and nu are Adam's moments before the update. As in the authors' code their bias
    is not corrected, so D is exact only after many steps, and 0 at the first.

    Args:
      learning_rate, b1, b2, eps: as in `optax.adam`.

    Returns:
      `(state, gradient) -> D`, where `state` is the state of a chain that contains one Adam.

    >>> state = optax.tree.set(optax.adam(0.1).init(jnp.zeros(1)), nu=jnp.ones(1))
    >>> adam_derivative(0.1)(state, jnp.zeros(1))
    Array([0.010005], dtype=float32)
    """

    def derivative(state, gradient):
        def leaf(g, mu, nu):
            slope = (1 - b1) * b2 * nu - b1 * (1 - b2) * g * mu
            return learning_rate * slope / (jnp.sqrt(b2 * nu + (1 - b2) * g**2) + eps) ** 3

        return jax.tree.map(leaf, gradient, tree.get(state, "mu"), tree.get(state, "nu"))

    return derivative
