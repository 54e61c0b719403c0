"""NSBO-SAGA: NSBO with a SAGA memory of every minibatch."""

from bilevel.algorithms.record import describe
from bilevel.estimators import saga
from bilevel.newton import fixed_sides, gradient_steps, newton_loop
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem


@describe(
    family="single loop, implicit, Newton, stochastic, variance reduction",
    reference="following Dong, Yang, Yao and Zhang, Efficient Curvature-Aware Hypergradient Approximation "
    "for Bilevel Optimization, ICML 2025, arXiv:2505.02101, NSBO-SAGA; equations put together by us from a "
    "summary, not checked against the paper",
    cheap=True,
)
def nsbo_saga(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    extra_steps: int = 1,
) -> Algorithm:
    """Stochastic Newton steps whose sides and hypergradient lose their noise.

        p = SAGA(g_y),  q = SAGA(H v) - SAGA(f_y),  at (x, y, v);   s = inner_optimizer p, e the like
        T times: s <- s - inner_optimizer (H s - p);   e <- e - inner_optimizer (H e - q)
        y <- y - s;   v <- v - e
        x <- x - outer_optimizer (SAGA(f_x) - SAGA(J v))             at the new y and v

    SAGA(.) is mean + (fresh - its value when this minibatch came last). The T further products have
    a plain minibatch each: s and e start at zero in every step, so a table of H s would be stale at
    once, and their noise vanishes with s and e.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes.
      extra_steps: steps T beyond the first.

    Returns:
      An `Algorithm` that reads T + 2 inner and 2 outer minibatches a step. Memory: a value of x and
      two of y for each minibatch.

    Raises:
      ValueError: when `extra_steps` < 0.

    Cost per step: 3 gradients, 2 T + 1 Hessian products, 1 cross product.

    Differs from the paper: how its memory meets the T further steps is not known to us.

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
        draws=Draws(2, extra_steps + 2),
        cost=Cost(3, 1 + 2 * extra_steps, 1),
        name="nsbo_saga",
    )
