"""Stationary linear solvers: gradient steps with and without momentum."""

import jax.numpy as jnp
import optax
from jax import lax

from bilevel.linear.types import LinearSolver, check_system, implicitly_differentiable, relative_norm
from bilevel.optimizers import as_optimizer, move
from bilevel.types import Optimizer, require

tree = optax.tree


def richardson(
    steps: int, step_size: Optimizer, *, damping: float = 0.0, fresh: bool = False
) -> LinearSolver:
    """Return `steps` gradient steps on the quadratic `v'Hv / 2 - b'v`.

        v <- v - step_size ((H + damping I) v - b)

    From `v0 = 0` and on one minibatch this is the sum of the first `steps` terms of the Neumann series.
    If H + damping I has a negative eigenvalue, v and the reported residual grow with the steps.

    Args:
      steps: number of iterations, at least 1.
      step_size: a number below 2 / L, where L is the largest eigenvalue of H; or an optax optimiser,
        whose state is new at every solve.
      damping: added to the diagonal of H.
      fresh: read an independent minibatch at every step, instead of one for all steps.

    Returns:
      A `LinearSolver` that reads one minibatch, or `steps` minibatches if `fresh`.

    Raises:
      ValueError: when `steps` < 1 or `damping` < 0.

    Cost: `steps` Hessian products, one fewer with `v0=None`.
    """
    check_system(steps, damping)
    optimizer = as_optimizer(step_size)

    def iterate(operator, b, v0):
        def step(carry, i):
            v, state = carry
            return move(optimizer, tree.sub(operator(i)(v), b), state, v), None

        start = tree.zeros_like(b) if v0 is None else v0
        carry, first = (start, optimizer.init(start)), 0
        if v0 is None:
            carry, first = move(optimizer, tree.scale(-1, b), carry[1], start), 1
        return lax.scan(step, carry, jnp.arange(first, steps))[0][0]

    def solve(operator, b, v0, key=None):
        def damped(i):
            return lambda w: tree.add_scale(operator(i)(w), damping, w)

        v = iterate(damped, b, v0)
        return v, relative_norm(tree.sub(b, damped(steps - 1)(v)), b)

    if fresh:
        return LinearSolver(solve=solve, draws=steps, products=steps, start_products=1)
    repeated = implicitly_differentiable(lambda matvec, b, v0: iterate(lambda i: matvec, b, v0), damping)
    return LinearSolver(solve=repeated, draws=1, products=steps, start_products=1)


def heavy_ball(steps: int, smoothness: float, convexity: float, *, damping: float = 0.0) -> LinearSolver:
    """Return `steps` heavy-ball steps on the quadratic `v'Hv / 2 - b'v`.

        v_{t+1} = v_t - step ((H + damping I) v_t - b) + momentum (v_t - v_{t-1}),   v_{-1} = v_0
        step = 4 / (sqrt L + sqrt mu)^2,   momentum = ((sqrt L - sqrt mu) / (sqrt L + sqrt mu))^2

    Each step multiplies the error by about `1 - 2 sqrt(mu / L)`; a step of `richardson` multiplies it
    by about `1 - mu / L`. If H + damping I has a negative eigenvalue, v and the reported residual grow
    with the steps.

    Args:
      steps: number of iterations, at least 1.
      smoothness: L, at least the largest eigenvalue of H. The iteration diverges if it is much smaller.
      convexity: mu, positive, at most the smallest eigenvalue of H.
      damping: added to the diagonal of H, to L and to mu.

    Returns:
      A `LinearSolver` that reads one minibatch.

    Raises:
      ValueError: when `steps` < 1, `damping` < 0, or `convexity` is not in (0, `smoothness`].

    Cost: `steps` Hessian products.

    >>> import jax.numpy as jnp
    >>> heavy_ball(1, 1.0, 1.0).solve(lambda i: lambda w: w, jnp.ones(2), jnp.zeros(2))[0]
    Array([1., 1.], dtype=float32)

    Reference: Polyak, Some methods of speeding up the convergence of iteration methods, USSR
    Computational Mathematics and Mathematical Physics 1964.
    """
    check_system(steps, damping)
    require((convexity > 0) & (convexity <= smoothness), f"convexity must be in (0, {smoothness}]", convexity)
    high, low = (smoothness + damping) ** 0.5, (convexity + damping) ** 0.5
    step_size, momentum = 4 / (high + low) ** 2, ((high - low) / (high + low)) ** 2

    def iterate(matvec, b, v0):
        v0 = tree.zeros_like(b) if v0 is None else v0

        def step(carry, _):
            v, last = carry
            ahead = tree.add_scale(v, momentum, tree.sub(v, last))
            return (tree.add_scale(ahead, -step_size, tree.sub(matvec(v), b)), v), None

        return lax.scan(step, (v0, v0), length=steps)[0][0]

    return LinearSolver(solve=implicitly_differentiable(iterate, damping), draws=1, products=steps)


def nesterov(steps: int, step_size: float, momentum: float, *, damping: float = 0.0) -> LinearSolver:
    """Return `steps` of Nesterov's accelerated gradient on `v'Hv / 2 - b'v`.

        v_{t+1} = p_t - step_size ((H + damping I) p_t - b),   p_0 = v0
        p_{t+1} = v_{t+1} + momentum (v_{t+1} - v_t)

    `momentum=0` is `richardson`. With step 1 / L and momentum (sqrt L - sqrt mu) / (sqrt L + sqrt mu)
    each step multiplies the error by about `1 - sqrt(mu / L)`. If H + damping I has a negative eigenvalue,
    v and the reported residual grow with the steps.

    Args:
      steps: number of iterations, at least 1.
      step_size: at most 1 / L, where L is the largest eigenvalue of H.
      momentum: weight of the last move, in [0, 1).
      damping: added to the diagonal of H.

    Returns:
      A `LinearSolver` that reads one minibatch.

    Raises:
      ValueError: when `steps` < 1, `damping` < 0 or `momentum` is not in [0, 1).

    Cost: `steps` Hessian products.

    >>> nesterov(1, 0.5, 0.9).solve(lambda i: lambda w: w, jnp.ones(2), jnp.zeros(2))[0]
    Array([0.5, 0.5], dtype=float32)

    Reference: Nesterov, Introductory Lectures on Convex Optimization, Kluwer 2004, section 2.2.
    """
    check_system(steps, damping)
    require((momentum >= 0) & (momentum < 1), "momentum must be in [0, 1)", momentum)

    def iterate(matvec, b, v0):
        v0 = tree.zeros_like(b) if v0 is None else v0

        def step(carry, _):
            v, ahead = carry
            new = tree.add_scale(ahead, -step_size, tree.sub(matvec(ahead), b))
            return (new, tree.add_scale(new, momentum, tree.sub(new, v))), None

        return lax.scan(step, (v0, v0), length=steps)[0][0]

    return LinearSolver(solve=implicitly_differentiable(iterate, damping), draws=1, products=steps)
