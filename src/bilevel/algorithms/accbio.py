"""AccBiO: acceleration at both levels and in the linear solve."""

from typing import Any, NamedTuple

import optax

from bilevel.algorithms.record import describe
from bilevel.combinators import move
from bilevel.hypergradient import as_variables, hypergradient, measures
from bilevel.inner import accelerate, as_optimizer, as_rate, momentum_weight
from bilevel.linear import heavy_ball
from bilevel.response import Response, implicit
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, require

tree = optax.tree


class AccbioState(NamedTuple):
    """State of AccBiO.

    Attributes:
      x: the outer variable, z in the lines that are followed.
      ahead: x moved on by its momentum, where the next hypergradient is taken.
      y: the inner variable, trained at the last `ahead`.
      optimizer: state of the outer optimiser.
      start: where every inner solve starts, `()` when it starts at y.
    """

    x: PyTree
    ahead: PyTree
    y: PyTree
    optimizer: Any
    start: PyTree


@describe(
    family="double loop, implicit, accelerated",
    reference="following Ji and Liang, Lower Bounds and Accelerated Algorithms for Bilevel Optimization, "
    "JMLR 2023, arXiv:2102.03926, AccBiO (its lines from memory, checked by their rates)",
    problem_facts=("inner_condition", "outer_condition"),
)
def accbio(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_condition: float = 10.0,
    outer_condition: float = 10.0,
    inner_steps: int = 50,
    linear_steps: int = 50,
    rate: float | None = None,
    ridge: float = 0.0,
    warm: bool = False,
) -> Algorithm:
    """Nesterov's momentum on x and on y, heavy ball for the adjoint.

        y: inner_steps steps of `accelerate` on g(ahead, .), from the first y
        v: linear_steps steps of `heavy_ball` on H v = f_y, from 0
        x_new = ahead - outer_optimizer (f_x - J v + ridge ahead)             all at (ahead, y)
        ahead = x_new + m (x_new - x),   m = (sqrt(outer_condition) - 1) / (sqrt(outer_condition) + 1)

    Both step counts are needed for accuracy: about 15 sqrt(inner_condition) each end at rounding,
    fewer leave a floor that rises geometrically.

    Args:
      problem: the two losses.
      inner_optimizer: optax optimiser, or the step size 1/L; L at least the largest eigenvalue of H.
      outer_optimizer: optax optimiser, or the step size 1/L_Phi; Phi(x) = f(x, y*(x)).
      inner_condition, outer_condition: L/mu of g in y, and of Phi in x.
      inner_steps, linear_steps: steps N of each inner and M of each linear solve.
      rate: 1/L for heavy ball; None takes `inner_optimizer`, which then must be a number.
      ridge: adds `ridge |x|^2 / 2` to f, for a Phi that is convex and no more: eps / R for an accuracy
        eps and R about |x*|^2, with outer_condition = (L_Phi + ridge) / ridge.
      warm: start each inner solve at the last y, else at the first.

    Returns:
      An `Algorithm` that reads N + 2 inner minibatches a step. Its metrics are those at `ahead`.

    Raises:
      ValueError: when a condition is below 1, `ridge` < 0, or `rate` is None and `inner_optimizer` no
        number.

    Cost per step: N + 1 gradients, M Hessian products, 1 cross product.

    >>> from bilevel import tasks
    >>> accbio(tasks.quadratic().problem).cost
    Cost(gradients=51, hessian_products=50, cross_products=1)
    """
    require(ridge >= 0, "ridge must be at least 0", ridge)
    response = accelerated(problem, inner_optimizer, inner_condition, inner_steps, linear_steps, rate)
    optimizer, weight = as_optimizer(outer_optimizer), momentum_weight(outer_condition)

    def init(x, y):
        x, y = as_variables(x, y)
        return AccbioState(x, x, y, optimizer.init(x), () if warm else y)

    def step(state, batch, key):
        ahead, start = state.ahead, state.y if warm else state.start
        gradient, y, info = hypergradient(problem, response, ahead, start, batch, key, ())
        gradient = tree.add_scale(gradient, ridge, ahead)
        metrics = measures(problem, ahead, y, batch, response.draws - 1, gradient, info.linear_residual)
        x, optimizer_state = move(optimizer, gradient, state.optimizer, ahead)
        ahead = tree.add_scale(x, weight, tree.sub(x, state.x))
        return AccbioState(x, ahead, y, optimizer_state, state.start), metrics

    return Algorithm(init, step, Draws(1, response.draws), Cost(gradients=1).plus(response.cost), "accbio")


def accelerated(problem, inner_optimizer, condition, inner_steps, linear_steps, rate) -> Response:
    """The response of both accelerated methods: Nesterov's momentum for y, heavy ball for v from 0."""
    rate = as_rate(rate, inner_optimizer)
    solver = accelerate(problem, inner_optimizer, inner_steps, condition=condition)
    return implicit(problem, solver, heavy_ball(linear_steps, 1 / rate, 1 / (rate * condition)), warm=False)
