"""NSBO-SGD: NBO on minibatches."""

import jax
import optax

from bilevel.algorithms.record import describe
from bilevel.calculus import gradient_and_hessian
from bilevel.estimators import plain
from bilevel.feasible import face
from bilevel.newton import fixed_sides, gradient_steps, newton_loop
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Point, Problem

tree = optax.tree


@describe(
    family="single loop, implicit, Newton, stochastic",
    reference="Dong, Yang, Yao and Zhang, Efficient Curvature-Aware Hypergradient Approximation for Bilevel "
    "Optimization, ICML 2025, arXiv:2505.02101, NSBO-SGD",
)
def nsbo(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    adjoint_optimizer: Optimizer | None = None,
    extra_steps: int = 1,
    fresh: bool = True,
    damping: float = 0.0,
    warm_up: int = 0,
) -> Algorithm:
    """Return NSBO-SGD: a stochastic Newton step of y and of its adjoint, then x.

        s = e = 0;   E + 1 times, each on a minibatch of its own at each level:
        s <- s - inner_optimizer(H(x, y) s - g_y(x, y))
        e <- e - inner_optimizer(H(x, y) (e - v) + f_y(x, y))
        y <- y - s;   v <- v - e
        x <- x - outer_optimizer(f_x - J v),   at the new y and v, on one more minibatch

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`. The inner one keeps its
        state, so a schedule counts its steps over the whole run.
      adjoint_optimizer: optimiser of v; default: `inner_optimizer`.
      extra_steps: number E of steps on the two systems after the first one.
      fresh: draw a minibatch for each of the E + 1 steps, so that s and e have the same means as on full
        data; otherwise one minibatch serves all of them, which is cheaper and biased.
      damping: added to the diagonal of H in both systems; it shifts the adjoint.
      warm_up: number of first steps in which y and v make one step of `inner_optimizer` and x stays.

    Returns:
      An `Algorithm` that reads E + 2 minibatches at each level per step, or 2 without `fresh`.

    Raises:
      ValueError: if `extra_steps`, `damping` or `warm_up` is negative.

    Cost per step: 2 E + 3 gradients (3 without `fresh`), 2 E + 1 Hessian products, 1 cross product.

    Equations: assembled from published summaries, not checked against the paper's text. We do not know
    which minibatches the paper shares, nor whether it damps or warms up.

    >>> from bilevel import tasks
    >>> nsbo(tasks.quadratic().problem).cost
    Cost(gradients=5, hessian_products=3, cross_products=1)
    """

    def fresh_slopes(point, sides, batch):
        def at(i, y, v):
            g_y, hessian = gradient_and_hessian(problem.inner, point.x, point.y, batch.inner[i])
            f_y = jax.grad(problem.outer, argnums=1)(point.x, point.y, batch.outer[i])
            free = face(problem, point.x, point.y, batch.inner[i])
            s = tree.sub(y, point.y)
            slope = tree.add(g_y, tree.add_scale(hessian(s), damping, s))
            image = tree.add_scale(free.restrict(hessian)(v), damping, v)
            return Point((), slope, tree.sub(image, free.project(f_y)))

        return at

    redrawn = extra_steps if fresh else 0
    return newton_loop(
        problem,
        gradient_steps(extra_steps, fresh_slopes if fresh else fixed_sides(problem, damping)),
        (plain(), plain()),
        inner_optimizer=inner_optimizer,
        outer_optimizer=outer_optimizer,
        adjoint_optimizer=adjoint_optimizer,
        draws=Draws(redrawn + 2, redrawn + 2),
        cost=Cost(3 + 2 * redrawn, 1 + 2 * extra_steps, 1),
        damping=damping,
        warm_up=warm_up,
        name="nsbo",
    )
