"""SHINE: the quasi-Newton inverse of the inner solver also gives the adjoint."""

import jax.numpy as jnp
import optax

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.feasible import refuse_inner_projection
from bilevel.linear import LinearSolver
from bilevel.quasi_newton import apply_inverse, quasi_newton
from bilevel.response.shared_inverse import shared_inverse
from bilevel.types import Algorithm, Optimizer, Problem, require

tree = optax.tree


@describe(
    family="double loop, implicit, quasi-Newton",
    reference="Ramzi, Mannel, Bai, Starck, Ciuciu and Moreau, SHINE: SHaring the INverse Estimate from the "
    "forward pass for bi-level optimization and implicit models, ICLR 2022, arXiv:2106.00553",
)
def shine(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    memory: int = 10,
    refine: LinearSolver | None = None,
    fallback: float | None = None,
    warm: bool = False,
) -> Algorithm:
    """Return SHINE: the adjoint uses the inverse Hessian estimate of the inner solver.

        y: one step of inner_optimizer, then T steps of L-BFGS on g(x, .)
        v = B^-1 f_y,   B the last matrix of L-BFGS
        x <- x - outer_optimizer(f_x - J v)

    No Hessian product is made. B is accurate along the last steps of y, and need not be along f_y: on a
    quadratic g, v is poor until there are as many steps (and pairs) as y has entries.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`; the inner one makes only the
        first step of each solve.
      inner_steps: number T of quasi-Newton steps of each inner solve.
      memory: number of pairs (a step, the change of the gradient along it) that define B.
      refine: linear solver that starts at v, such as `cg(3)`.
      fallback: sets v = f_y where `||B^-1 f_y||` exceeds `fallback` times `||f_y||`; None means never.
      warm: start each inner solve at the last y; otherwise at the y given to `init`. The memory always starts
        empty. From a start near the solution the steps are short, and B learns little or nothing from them.

    Returns:
      An `Algorithm` that reads T + 2 inner minibatches per step, and those of `refine`.

    Raises:
      ValueError: if `inner_steps` < 0, `memory` < 1 or `fallback` <= 0, or the problem has an inner
        projection.

    Cost per step: 2 T + 3 gradients, 1 cross product, and the Hessian products of `refine`.

    Equations: recalled, not checked against the paper's text.

    Differs from the paper: the length of a step is fitted to the slopes at both ends of a unit step, while
    the paper uses a line search; B gets no extra updates in the directions of J (OPA).

    >>> from bilevel import tasks
    >>> shine(tasks.quadratic().problem).cost
    Cost(gradients=23, hessian_products=0, cross_products=1)
    """
    refuse_inner_projection(problem, "shine", "its quasi-Newton steps leave it", "use aid_bio or itd_bio")
    require(fallback is None or fallback > 0, "fallback must be positive", fallback)

    def adjoint(pairs, operator, w, v):
        v = apply_inverse(pairs, w)
        if fallback is not None:
            v = tree.where(jnp.less(tree.norm(v), fallback * tree.norm(w)), v, w)
        return v if refine is None else refine.solve(operator, w, v)[0]

    solver = quasi_newton(problem, inner_optimizer, inner_steps, memory=memory)
    draws, count = (0, 0) if refine is None else (refine.draws, refine.products)
    response = shared_inverse(problem, solver, adjoint, draws=draws, hessian_products=count)
    return nested(problem, response, outer_optimizer, warm=warm, name="shine")
