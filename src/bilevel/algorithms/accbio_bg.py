"""AccBiO-BG: the accelerated method for losses f of bounded gradient."""

from typing import Any, NamedTuple

import optax

from bilevel.algorithms.accbio import accelerated
from bilevel.algorithms.record import describe
from bilevel.combinators import move
from bilevel.hypergradient import as_variables, hypergradient, measures
from bilevel.inner import as_optimizer
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, require

tree = optax.tree


class AccbioBgState(NamedTuple):
    """State of AccBiO-BG.

    Attributes:
      x: the outer variable, z in the lines that are followed, the output.
      slow: the other outer sequence, x in those lines, to which x is drawn.
      y: the inner variable, trained at a point between the two.
      optimizer: state of the outer optimiser.
    """

    x: PyTree
    slow: PyTree
    y: PyTree
    optimizer: Any


@describe(
    family="double loop, implicit, accelerated",
    reference="following Ji and Liang, Lower Bounds and Accelerated Algorithms for Bilevel Optimization, "
    "JMLR 2023, arXiv:2102.03926, AccBiO-BG (its lines from memory, checked by their rates)",
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
    """Two outer sequences coupled for acceleration; inner solves start at the last y.

        between = eta slow + (1 - eta) x
        y: inner_steps steps of `accelerate` on g(between, .), from the last y
        v: linear_steps steps of `heavy_ball` on H v = f_y, from 0
        x = between - alpha G,   G = f_x - J v                                all at (between, y)
        slow = tau between + (1 - tau) slow - beta G

    With s = sqrt(alpha mu) = 1 / sqrt(2 outer_condition): eta = s / (s + 2), tau = s / 2,
    beta = alpha / s. `outer_optimizer` makes the step alpha G, and beta G is 1 / s times it.

    Args:
      problem: the two losses.
      inner_optimizer: optax optimiser, or the step size 1/L; L at least the largest eigenvalue of H.
      outer_optimizer: optax optimiser, or the step size alpha = 1/(2 L_Phi); Phi(x) = f(x, y*(x)).
      inner_condition, outer_condition: L/mu of g in y, and of Phi in x.
      inner_steps, linear_steps: steps N of each inner and M of each linear solve.
      rate: 1/L for heavy ball; None takes `inner_optimizer`, which then must be a number.

    Returns:
      An `Algorithm` that reads N + 2 inner minibatches a step. Its metrics are those at `between`.

    Raises:
      ValueError: when a condition is below 1, or `rate` is None and `inner_optimizer` no number.

    Cost per step: N + 1 gradients, M Hessian products, 1 cross product.

    >>> from bilevel import tasks
    >>> accbio_bg(tasks.quadratic().problem).cost
    Cost(gradients=51, hessian_products=50, cross_products=1)
    """
    require(outer_condition >= 1, "a condition number must be at least 1", outer_condition)
    response = accelerated(problem, inner_optimizer, inner_condition, inner_steps, linear_steps, rate)
    optimizer, s = as_optimizer(outer_optimizer), (2 * outer_condition) ** -0.5
    eta, tau = s / (s + 2), s / 2

    def init(x, y):
        x, y = as_variables(x, y)
        return AccbioBgState(x, x, y, optimizer.init(x))

    def step(state, batch, key):
        between = tree.add_scale(state.x, eta, tree.sub(state.slow, state.x))
        gradient, y, info = hypergradient(problem, response, between, state.y, batch, key, ())
        metrics = measures(problem, between, y, batch, response.draws - 1, gradient, info.linear_residual)
        x, optimizer_state = move(optimizer, gradient, state.optimizer, between)
        slow = tree.add_scale(state.slow, tau, tree.sub(between, state.slow))
        # Under a constraint the step that was really made takes the place of alpha G.
        slow = tree.add_scale(slow, 1 / s, tree.sub(x, between))
        return AccbioBgState(x, slow, y, optimizer_state), metrics

    return Algorithm(init, step, Draws(1, response.draws), Cost(gradients=1).plus(response.cost), "accbio_bg")
