"""NSBO-SAGA: NSBO with a SAGA memory of every minibatch."""

from bilevel.algorithms.record import describe
from bilevel.estimators import saga
from bilevel.newton import fixed_sides, gradient_steps, newton_loop
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem


@describe(
    family="single loop, implicit, Newton, stochastic, variance reduction",
    reference="Dong, Yang, Yao and Zhang, Efficient Curvature-Aware Hypergradient Approximation for Bilevel "
    "Optimization, ICML 2025, arXiv:2505.02101, NSBO-SAGA",
    cheap=True,
)
def nsbo_saga(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    adjoint_optimizer: Optimizer | None = None,
    extra_steps: int = 1,
) -> Algorithm:
    """Return NSBO-SAGA: stochastic Newton steps with a SAGA memory of every minibatch.

        p = SAGA(g_y),   q = SAGA(H v) - SAGA(f_y),   at (x, y, v)
        s = inner_optimizer(p),   e = inner_optimizer(q)
        E times:   s <- s - inner_optimizer(H s - p),   e <- e - inner_optimizer(H e - q)
        y <- y - s;   v <- v - e
        x <- x - outer_optimizer(SAGA(f_x) - SAGA(J v)),   at the new y and v

    SAGA(.) is the mean of the stored values plus (fresh value - stored value of this minibatch). The
    products of the E extra steps use no memory; each reads a plain minibatch. s and e start at zero in every
    step, so stored values of H s would be out of date at once, and the noise of H s vanishes with s.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      adjoint_optimizer: optimiser of v; default: `inner_optimizer`.
      extra_steps: number E of steps on the two systems after the first one.

    Returns:
      An `Algorithm` that reads E + 2 inner and 2 outer minibatches per step. Its memory holds one value
      of x and two of y for each minibatch.

    Raises:
      ValueError: if `extra_steps` < 0.

    Cost per step: 3 gradients, 2 E + 1 Hessian products, 1 cross product.

    Equations: assembled by us from a summary, not checked against the paper's text. We do not know how
    the paper uses its memory in the E extra steps.

    >>> from bilevel import tasks
    >>> nsbo_saga(tasks.quadratic().problem).cost
    Cost(gradients=3, hessian_products=3, cross_products=1)
    """
    return newton_loop(
        problem,
        gradient_steps(extra_steps, fixed_sides(problem, fresh=True)),
        (saga(), saga()),
        inner_optimizer=inner_optimizer,
        outer_optimizer=outer_optimizer,
        adjoint_optimizer=adjoint_optimizer,
        draws=Draws(2, extra_steps + 2),
        cost=Cost(3, 1 + 2 * extra_steps, 1),
        name="nsbo_saga",
    )
