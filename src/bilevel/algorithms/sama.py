"""SAMA: the inverse Hessian replaced by the inner optimiser's own diagonal scaling."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.algorithms.record import describe
from bilevel.calculus import cross_difference
from bilevel.combinators import move
from bilevel.hypergradient import as_variables, measures
from bilevel.inner import as_optimizer
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, require

tree = optax.tree


class SamaState(NamedTuple):
    """State of SAMA.

    Attributes:
      x, y: outer and inner variable.
      optimizer: the states of both optimisers; that of y goes on from step to step.
    """

    x: PyTree
    y: PyTree
    optimizer: Any


@describe(
    family="double loop, identity in place of the inverse Hessian, finite differences",
    reference="Choe et al., Making Scalable Meta Learning Practical, NeurIPS 2023, arXiv:2310.05674, "
    "following the authors' code in betty (leopard-ai/betty)",
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
    """Inner steps, an adjoint without a linear solve, a finite difference.

        y: T steps of inner_optimizer on g(x, .), the last with gradient g
        u = D f_y,   D = d update / d gradient at that last step, a diagonal
        x <- x - outer_optimizer (f_x - (g_x(x, y + eps u) - g_x(x, y - eps u)) / (2 eps))

        eps = difference / |u|

    H^-1 is replaced by the identity: the length of the indirect term is not that of the
    hypergradient, and the answer is biased.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes.
      inner_steps: steps T between two outer steps, at least 1.
      adaptation: `(state of the inner optimiser before the last step, its gradient) -> D`, shaped as y;
        `adam_derivative(...)` for Adam. None is D = 1, for gradient descent.
      difference: length of the finite difference in y, positive. The default is the authors'; where
        g_x is not quadratic in y it is far outside the linear range.

    Returns:
      An `Algorithm` that reads T inner minibatches and 1 outer minibatch a step. The difference is
      taken on the last inner one.

    Raises:
      ValueError: when `inner_steps` < 1 or `difference` is not positive.

    Cost per step: T + 3 gradients, no products.

    >>> from bilevel import tasks
    >>> sama(tasks.quadratic().problem).cost
    Cost(gradients=13, hessian_products=0, cross_products=0)
    """
    require(inner_steps >= 1, "inner steps must be at least 1", inner_steps)
    require(difference > 0, "difference must be positive", difference)
    outer_optimizer, inner_optimizer = as_optimizer(outer_optimizer), as_optimizer(inner_optimizer)

    def init(x, y):
        x, y = as_variables(x, y)
        return SamaState(x, y, (outer_optimizer.init(x), inner_optimizer.init(y)))

    def step(state, batch, key):
        x, (x_state, y_state) = state.x, state.optimizer

        def train(carry, t):
            y, y_state, *_ = carry
            g_y = jax.grad(problem.inner, argnums=1)(x, y, batch.inner[t])
            return (*move(inner_optimizer, g_y, y_state, y), y_state, g_y), None

        carry = state.y, y_state, y_state, tree.zeros_like(state.y)
        (y, y_state, before, g_y), _ = lax.scan(train, carry, jnp.arange(inner_steps))
        f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, y, batch.outer[0])
        u = f_y if adaptation is None else tree.mul(adaptation(before, g_y), f_y)
        last = inner_steps - 1
        cross = cross_difference(problem.inner, x, y, batch.inner[last], u, difference)
        direction = tree.sub(f_x, cross)
        metrics = measures(problem, x, y, batch, last, direction, 0.0)
        x, x_state = move(outer_optimizer, direction, x_state, x)
        return SamaState(x, y, (x_state, y_state)), metrics

    return Algorithm(init, step, Draws(1, inner_steps), Cost(inner_steps + 3), "sama")


def adam_derivative(learning_rate: float, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> Callable:
    """The diagonal derivative of Adam's update in the gradient, for `sama`.

        D = learning_rate ((1 - b1) b2 nu - b1 (1 - b2) g mu) / (sqrt(b2 nu + (1 - b2) g^2) + eps)^3

    mu and nu are Adam's moments before the update. As in the authors' code there is no correction
    of their bias, so D is exact after many steps only, and 0 at the first.

    Args:
      learning_rate, b1, b2, eps: those of `optax.adam`.

    Returns:
      `(state, gradient) -> D`, where the state is that of any chain with one Adam in it.

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
