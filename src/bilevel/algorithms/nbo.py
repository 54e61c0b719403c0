"""NBO: the Newton step of y and the adjoint, two linear systems with one Hessian."""

import optax

from bilevel.algorithms.record import describe
from bilevel.estimators import plain
from bilevel.feasible import refuse_inner_projection
from bilevel.linear import LinearSolver
from bilevel.newton import Pair, fixed_sides, gradient_steps, newton_loop, systems
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, require

tree = optax.tree


@describe(
    family="single loop, implicit, Newton",
    reference="Dong, Yang, Yao and Zhang, Efficient Curvature-Aware Hypergradient Approximation for Bilevel "
    "Optimization, ICML 2025, arXiv:2505.02101, NBO",
    cheap=True,
)
def nbo(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    adjoint_optimizer: Optimizer | None = None,
    extra_steps: int = 1,
    linear_solver: LinearSolver | None = None,
    damping: float = 0.0,
    warm_up: int = 0,
) -> Algorithm:
    """Return NBO: an inexact Newton step of y and of its adjoint, then a step of x.

        H s = g_y   and   H e = H v - f_y,   all at the old (x, y), solved inexactly from s = e = 0
        y <- y - s;   v <- v - e
        x <- x - outer_optimizer(f_x - J v),   at the new y and v

    Two methods solve the systems. By default E + 1 steps of `inner_optimizer` descend on their quadratics:
    s <- s - inner_optimizer(H s - g_y), and likewise for e (NBO-GD). `linear_solver` replaces these steps,
    for example by `cg(3)` (NBO-CG). With E = 0, y and v move as in `soba`, but x moves at the new y and v.
    The Newton step is local: far from y*(x) exact solutions can diverge where E = 0 is safe.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`; an inner step size should be
        at most 1/L.
      adjoint_optimizer: optimiser of v; default: `inner_optimizer`.
      extra_steps: number E of steps on the two systems after the first one, each with one Hessian product
        for y and one for v.
      linear_solver: solver of both systems that reads a single minibatch, such as `cg` or `richardson`.
        `inner_optimizer` is then used in the warm-up only. Default: steps of `inner_optimizer`.
      damping: added to the diagonal of H in both systems; it shifts the adjoint.
      warm_up: number of first steps in which y and v make one step of `inner_optimizer` and x stays.

    Returns:
      An `Algorithm` that reads one minibatch at each level per step. It is meant for full data.

    Raises:
      ValueError: if `extra_steps`, `damping` or `warm_up` is negative, if `linear_solver` needs several
        minibatches, or if there is one and the problem has an inner projection.

    Cost per step: 3 gradients, 1 + 2 E Hessian products (1 + 2 N for N steps of `cg`), 1 cross product.

    Equations: assembled from published summaries, not checked against the paper's text. The steps of
    conjugate gradients, damping and warm-up are our choice.

    >>> from bilevel import cg, tasks
    >>> nbo(tasks.quadratic().problem, linear_solver=cg(3)).cost
    Cost(gradients=3, hessian_products=7, cross_products=1)
    """
    require(extra_steps >= 0, "extra_steps must be at least 0", extra_steps)

    if linear_solver is None:
        solve, count = gradient_steps(extra_steps, fixed_sides(problem, damping)), extra_steps
    else:
        rule = "linear_solver must read a single minibatch, as cg does"
        require(linear_solver.draws == 1, rule, f"a solver that reads {linear_solver.draws}")
        reason, remedy = "a linear solver makes full Newton steps", "use nbo without linear_solver"
        refuse_inner_projection(problem, "nbo with linear_solver", reason, remedy)
        solve = _solve_by(problem, linear_solver, damping)
        count = linear_solver.products - linear_solver.start_products
    return newton_loop(
        problem,
        solve,
        (plain(), plain()),
        inner_optimizer=inner_optimizer,
        outer_optimizer=outer_optimizer,
        adjoint_optimizer=adjoint_optimizer,
        draws=Draws(1, 1),
        cost=Cost(3, 1 + 2 * count, 1),
        damping=damping,
        warm_up=warm_up,
        name="nbo",
    )


def _solve_by(problem, linear_solver, damping):
    def solve(point, sides, batch, started, descend):
        hessian, _ = systems(problem, point, batch.inner[0], damping)
        s, _ = linear_solver.solve(lambda i: hessian, sides.y, None)
        e, _ = linear_solver.solve(lambda i: hessian, sides.v, None)
        return Pair(tree.sub(point.y, s), tree.sub(point.v, e), started.states)

    return solve
