"""Reverse mode through gradient descent, one factor at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from bilevel.calculus import inner_gradient
from bilevel.inner import descend
from bilevel.optimizers import as_optimizer, move
from bilevel.response.types import Pulled, Response, following, no_adjoint
from bilevel.safe_derivatives import safely_differentiable
from bilevel.types import Cost, Optimizer, Problem, PyTree

tree = optax.tree


def stepwise(
    problem: Problem,
    optimizer: Optimizer,
    steps: int,
    *,
    start: Callable[[PyTree], PyTree] | None = None,
    recompute: bool = False,
    independent: bool = False,
) -> Response:
    """Return the response of `unrolled` with less memory or with unbiased factors.

        v_N = w;   for j = N-1 .. 0:   m <- m + step J_j v_{j+1},   v_j = v_{j+1} - step H_j v_{j+1}
        x_bar = -m + (d start / dx)' v_0

    With an inner projection, every step ends with it, and every factor includes its derivative.

    Args:
      problem: the two losses.
      optimizer: an optax optimiser without a state (gradient descent), or a step size.
      steps: number N of inner steps.
      start: `x -> y0`, the starting point of the path; default: start at the y that the caller passes.
      recompute: do not store the path, but recompute it from its start for every factor. There are then
        no second derivatives.
      independent: factor j reads minibatch N + j, not minibatch j of its step. Its Hessians are then
        independent of the path, and their product is unbiased on quadratics.

    Returns:
      A `Response` that carries no adjoint.

    Raises:
      ValueError: when the optimiser has a state.

    Cost: N gradients, N Hessian and N cross products; N (N - 1) / 2 more gradients with `recompute`.
    """
    solver, optimizer = descend(problem, optimizer, steps), safely_differentiable(as_optimizer(optimizer))
    gradient = inner_gradient(problem.inner)

    def step(x, y, minibatch):
        state = optimizer.init(y)

        def loss(y):
            return problem.inner(x, y, minibatch)

        if jax.tree.leaves(state):
            raise ValueError(
                f"the inner optimiser must have no state, got {state}; use gradient descent, or `unrolled` "
                "with `descend`"
            )
        return move(optimizer, gradient(x, y, minibatch), state, y, problem.inner_projection, loss=loss)[0]

    def respond(x, y0, batch, key):
        first, start_vjp = (y0, None) if start is None else jax.vjp(start, x)

        def forward(y, i):
            return step(x, y, batch.inner[i]), None if recompute else y

        y, path = lax.scan(forward, first, jnp.arange(steps))

        def pullback(w, v):
            def backward(carry, place):
                (w, total), (j, y) = carry, place
                if recompute:
                    y = lax.fori_loop(0, j, lambda i, y: forward(y, i)[0], first)
                minibatch = batch.inner[steps + j if independent else j]
                cross, w = jax.vjp(lambda x, y: step(x, y, minibatch), x, y)[1](w)
                return (w, tree.add(total, cross)), None

            carry = w, tree.zeros_like(x)
            (w, total), _ = lax.scan(backward, carry, (jnp.arange(steps), path), reverse=True)
            return Pulled(total if start_vjp is None else tree.add(total, *start_vjp(w)), (), 0.0)

        return y, pullback

    again = Cost(gradients=steps * (steps - 1) // 2 if recompute else 0)
    return Response(
        respond=following(respond, no_adjoint),
        adjoint=no_adjoint,
        draws=(1 + independent) * steps,
        cost=solver.cost.plus(solver.back_cost).plus(again),
        residual=solver.residual,
    )
