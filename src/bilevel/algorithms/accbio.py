"""AccBiO: acceleration at both levels and in the linear solve."""

from typing import Any, NamedTuple

import optax

from bilevel.algorithms.record import describe
from bilevel.combinators import move_outer
from bilevel.hypergradient import as_variables, measures, undiagnosed
from bilevel.inner import accelerate, momentum_weight
from bilevel.linear import heavy_ball
from bilevel.optimizers import as_optimizer, as_rate
from bilevel.response import Response, implicit
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, require

tree = optax.tree


class AccbioState(NamedTuple):
    """State of AccBiO.

    Attributes:
      x: outer variable (z in the recalled equations).
      ahead: `x` extrapolated by momentum; the next hypergradient is evaluated here.
      y: inner variable, trained at the last `ahead`.
      optimizer: state of the outer optimiser.
      start: start of every inner solve; `()` if each solve starts at the last `y`.
    """

    x: PyTree
    ahead: PyTree
    y: PyTree
    optimizer: Any
    start: PyTree


@describe(
    family="double loop, implicit, accelerated",
    reference="Ji and Liang, Lower Bounds and Accelerated Algorithms for Bilevel Optimization, JMLR 2023, "
    "arXiv:2102.03926, AccBiO",
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
    """Return AccBiO: Nesterov momentum on x and y, heavy ball for the adjoint.

        y: T steps of `accelerate` on g(ahead, .), from the first y
        v: N steps of `heavy_ball` on H v = f_y, from 0
        x' = ahead - outer_optimizer(f_x - J v + ridge ahead)                 at (ahead, y)
        ahead <- x' + m (x' - x),   m = (sqrt(outer_condition) - 1) / (sqrt(outer_condition) + 1)
        x <- x'

    About 15 sqrt(inner_condition) steps in each of the two solves reach rounding error. Fewer steps leave
    an error floor, which rises geometrically with every step that is left out.

    With an outer projection x is projected, but `ahead` is not: the losses must be defined outside the set.

    Args:
      problem: the two losses.
      inner_optimizer: optimiser of y, see `Optimizer`; as a step size 1/L, with L at least the largest
        eigenvalue of H.
      outer_optimizer: optimiser of x; as a step size 1/L_Phi, with Phi(x) = f(x, y*(x)).
      inner_condition: condition number L/mu of g in y.
      outer_condition: condition number of Phi in x.
      inner_steps: number T of steps of each inner solve.
      linear_steps: number N of steps of each linear solve.
      rate: 1/L for heavy ball; default: `inner_optimizer`, which must then be a number.
      ridge: adds `ridge |x|^2 / 2` to f. Use it where Phi is convex but not strongly convex: for an accuracy
        eps and R about |x*|^2, take `ridge = eps / R` and `outer_condition = (L_Phi + ridge) / ridge`.
      warm: start each inner solve at the last y; otherwise at the y given to `init`.

    Returns:
      An `Algorithm` that reads T + 2 inner minibatches per step. Its metrics are evaluated at `ahead`.

    Raises:
      ValueError: if a condition number is below 1, `ridge` is negative, or `rate` is None and
        `inner_optimizer` is not a number.

    Cost per step: T + 1 gradients, N Hessian products, 1 cross product.

    Equations: recalled, not checked against the paper's text. The tests check the resulting rates.

    >>> from bilevel import tasks
    >>> accbio(tasks.quadratic().problem).cost
    Cost(gradients=51, hessian_products=50, cross_products=1)
    """
    require(ridge >= 0, "ridge must be at least 0", ridge)
    response = accelerated(problem, inner_optimizer, inner_condition, inner_steps, linear_steps, rate)
    optimizer, weight = as_optimizer(outer_optimizer), momentum_weight(outer_condition)

    def init(x, y):
        x, y = as_variables(x, y)
        return AccbioState(x=x, ahead=x, y=y, optimizer=optimizer.init(x), start=() if warm else y)

    def step(state, batch, key):
        ahead, start = state.ahead, state.y if warm else state.start
        gradient, y, info = undiagnosed(problem, response, ahead, start, batch, key, ())
        gradient = tree.add_scale(gradient, ridge, ahead)
        metrics = measures(problem, ahead, y, batch, response.draws - 1, gradient, info.linear_residual)
        x, optimizer_state = move_outer(problem, optimizer, gradient, state.optimizer, ahead, metrics)
        ahead = tree.add_scale(x, weight, tree.sub(x, state.x))
        return AccbioState(x=x, ahead=ahead, y=y, optimizer=optimizer_state, start=state.start), metrics

    cost = Cost(gradients=1).plus(response.cost)
    return Algorithm(init=init, step=step, draws=Draws(1, response.draws), cost=cost, name="accbio")


def accelerated(
    problem: Problem,
    inner_optimizer: Optimizer,
    condition: float,
    inner_steps: int,
    linear_steps: int,
    rate: float | None,
) -> Response:
    """Return the accelerated response: Nesterov for y, heavy ball from 0 for v."""
    rate = as_rate(rate, inner_optimizer)
    solver = accelerate(problem, inner_optimizer, inner_steps, condition=condition)
    return implicit(problem, solver, heavy_ball(linear_steps, 1 / rate, 1 / (rate * condition)), warm=False)
