"""AccBiO-BG: the accelerated method for outer losses with a bounded gradient."""

from typing import Any, NamedTuple

import optax

from bilevel.algorithms.accbio import accelerated
from bilevel.algorithms.record import describe
from bilevel.combinators import move_outer
from bilevel.hypergradient import as_variables, measures, undiagnosed
from bilevel.optimizers import as_optimizer
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, require

tree = optax.tree


class AccbioBgState(NamedTuple):
    """State of AccBiO-BG.

    Attributes:
      x: outer variable (z in the recalled equations), the output.
      slow: the second outer sequence (x in the recalled equations), which follows `x` slowly.
      y: inner variable, trained at a point between the two.
      optimizer: state of the outer optimiser.
    """

    x: PyTree
    slow: PyTree
    y: PyTree
    optimizer: Any


@describe(
    family="double loop, implicit, accelerated",
    reference="Ji and Liang, Lower Bounds and Accelerated Algorithms for Bilevel Optimization, JMLR 2023, "
    "arXiv:2102.03926, AccBiO-BG",
    problem_facts=("inner_condition", "outer_condition"),
)
def accbio_bg(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_condition: float = 10.0,
    outer_condition: float = 10.0,
    inner_steps: int = 50,
    linear_steps: int = 50,
    rate: float | None = None,
) -> Algorithm:
    """Return AccBiO-BG: two coupled outer sequences, inner solves from the last y.

        between = eta slow + (1 - eta) x
        y: T steps of `accelerate` on g(between, .), from the last y
        v: N steps of `heavy_ball` on H v = f_y, from 0
        x <- between - outer_optimizer(G),   G = f_x - J v                    at (between, y)
        slow <- tau between + (1 - tau) slow - beta G

    With a step size alpha as `outer_optimizer` and s = sqrt(alpha mu) = 1 / sqrt(2 outer_condition):
    eta = s / (s + 2), tau = s / 2, beta = alpha / s. In general beta G is 1 / s times the step of x.

    With an outer projection x is projected, but `slow` and `between` are not: the losses must be defined
    outside the set.

    Args:
      problem: the two losses.
      inner_optimizer: optimiser of y, see `Optimizer`; as a step size 1/L, with L at least the largest
        eigenvalue of H.
      outer_optimizer: optimiser of x; as a step size alpha = 1/(2 L_Phi), with Phi(x) = f(x, y*(x)).
      inner_condition: condition number L/mu of g in y.
      outer_condition: condition number of Phi in x.
      inner_steps: number T of steps of each inner solve.
      linear_steps: number N of steps of each linear solve.
      rate: 1/L for heavy ball; default: `inner_optimizer`, which must then be a number.

    Returns:
      An `Algorithm` that reads T + 2 inner minibatches per step. Its metrics are evaluated at `between`.

    Raises:
      ValueError: if a condition number is below 1, or `rate` is None and `inner_optimizer` is not a
        number.

    Cost per step: T + 1 gradients, N Hessian products, 1 cross product.

    Equations: recalled, not checked against the paper's text. The tests check the resulting rates.

    >>> from bilevel import tasks
    >>> accbio_bg(tasks.quadratic().problem).cost
    Cost(gradients=51, hessian_products=50, cross_products=1)
    """
    require(outer_condition >= 1, "outer_condition must be at least 1", outer_condition)
    response = accelerated(problem, inner_optimizer, inner_condition, inner_steps, linear_steps, rate)
    optimizer, s = as_optimizer(outer_optimizer), (2 * outer_condition) ** -0.5
    eta, tau = s / (s + 2), s / 2

    def init(x, y):
        x, y = as_variables(x, y)
        return AccbioBgState(x=x, slow=x, y=y, optimizer=optimizer.init(x))

    def step(state, batch, key):
        between = tree.add_scale(state.x, eta, tree.sub(state.slow, state.x))
        gradient, y, info = undiagnosed(problem, response, between, state.y, batch, key, ())
        metrics = measures(problem, between, y, batch, response.draws - 1, gradient, info.linear_residual)
        x, optimizer_state = move_outer(problem, optimizer, gradient, state.optimizer, between, metrics)
        slow = tree.add_scale(state.slow, tau, tree.sub(between, state.slow))
        # Under a constraint, the actual step of x replaces alpha G.
        slow = tree.add_scale(slow, 1 / s, tree.sub(x, between))
        return AccbioBgState(x=x, slow=slow, y=y, optimizer=optimizer_state), metrics

    cost = Cost(gradients=1).plus(response.cost)
    return Algorithm(init=init, step=step, draws=Draws(1, response.draws), cost=cost, name="accbio_bg")
