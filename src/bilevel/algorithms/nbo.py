"""NBO: the Newton step of y and the adjoint, two linear systems with one Hessian."""

import optax

from bilevel.algorithms.record import describe
from bilevel.estimators import plain
from bilevel.linear import LinearSolver
from bilevel.newton import Pair, damped_hessian, fixed_sides, gradient_steps, newton_loop
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, require

tree = optax.tree


@describe(
    family="single loop, implicit, Newton",
    reference="following Dong, Yang, Yao and Zhang, Efficient Curvature-Aware Hypergradient Approximation "
    "for Bilevel Optimization, ICML 2025, arXiv:2505.02101, NBO; equations put together from published "
    "summaries, not checked against the paper",
    cheap=True,
)
def nbo(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    extra_steps: int = 1,
    linear_solver: LinearSolver | None = None,
    damping: float = 0.0,
    warm_up: int = 0,
) -> Algorithm:
    """An inexact Newton step of y and of its adjoint, then x at the new y and v.

        H s = g_y   and   H e = H v - f_y,   all at the old (x, y), inexactly from s = e = 0
        y <- y - s;   v <- v - e
        x <- x - outer_optimizer (f_x - J v)                         at the new y and v

    The systems are solved by T + 1 steps of inner_optimizer on their quadratics, s <- s - rate (H s -
    g_y) and the like for e (NBO-GD); or by `linear_solver`, such as `cg(3)` (NBO-CG). With T = 0 y
    and v move as in `soba`; x does not, which sees them after their step. The Newton step is local:
    far from y*(x) exact solutions can diverge where T = 0 is safe.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes; the inner one at most 1/L.
      extra_steps: steps T beyond the first, each with one Hessian product for y and one for v.
      linear_solver: solves both systems instead, on the one minibatch (`cg`, `richardson`);
        inner_optimizer is then that of the warm-up only.
      damping: added to the diagonal of H in both systems; it shifts the adjoint.
      warm_up: first steps in which y and v make one step of inner_optimizer and x none.

    Returns:
      An `Algorithm` that reads one minibatch at each level a step; it is meant for full data.

    Raises:
      ValueError: when `extra_steps`, `damping` or `warm_up` is negative, or `linear_solver` needs
        several minibatches.

    Cost per step: 3 gradients, 1 + 2 T Hessian products (1 + 2 N for N steps of `cg`), 1 cross product.

    Differs from the paper: the steps of conjugate gradients, damping and warm-up are our choice.

    >>> from bilevel import cg, tasks
    >>> nbo(tasks.quadratic().problem, linear_solver=cg(3)).cost
    Cost(gradients=3, hessian_products=7, cross_products=1)
    """
    require(extra_steps >= 0, "extra_steps must be at least 0", extra_steps)

    if linear_solver is None:
        solve, products = gradient_steps(extra_steps, fixed_sides(problem, damping)), extra_steps
    else:
        rule = "linear_solver must be one of a single minibatch, such as cg"
        require(linear_solver.draws == 1, rule, f"one of {linear_solver.draws}")
        solve = _solve_by(problem, linear_solver, damping)
        products = linear_solver.products - linear_solver.start_products
    return newton_loop(
        problem,
        solve,
        (plain(), plain()),
        inner_optimizer=inner_optimizer,
        outer_optimizer=outer_optimizer,
        draws=Draws(1, 1),
        cost=Cost(3, 1 + 2 * products, 1),
        damping=damping,
        warm_up=warm_up,
        name="nbo",
    )


def _solve_by(problem, linear_solver, damping):
    def solve(point, sides, batch, started, descend):
        hessian = damped_hessian(problem, point, batch.inner[0], damping)
        s, _ = linear_solver.solve(lambda i: hessian, sides.y, None)
        e, _ = linear_solver.solve(lambda i: hessian, sides.v, None)
        return Pair(tree.sub(point.y, s), tree.sub(point.v, e), started.states)

    return solve
