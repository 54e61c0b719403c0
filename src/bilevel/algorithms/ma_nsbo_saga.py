"""MA-NSBO-SAGA: NSBO-SAGA with a moving average of the outer direction."""

from bilevel.algorithms.record import describe
from bilevel.estimators import momentum, saga
from bilevel.newton import fixed_sides, gradient_steps, newton_loop
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, Schedule


@describe(
    family="single loop, implicit, Newton, stochastic, variance reduction, momentum",
    reference="Dong, Yang, Yao and Zhang, Efficient Curvature-Aware Hypergradient Approximation for Bilevel "
    "Optimization, ICML 2025, arXiv:2505.02101, MA-NSBO-SAGA",
    cheap=True,
)
def ma_nsbo_saga(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    adjoint_optimizer: Optimizer | None = None,
    extra_steps: int = 1,
    weight: float | Schedule = 0.1,
) -> Algorithm:
    """Return MA-NSBO-SAGA: NSBO-SAGA with a moving average of the outer direction.

        y, v as in `nsbo_saga`;   d = SAGA(f_x) - SAGA(J v) at the new y and v
        h <- (1 - weight) h + weight d,   h = d at the first step
        x <- x - outer_optimizer(h)

    `weight=1` is `nsbo_saga`.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      adjoint_optimizer: optimiser of v; default: `inner_optimizer`.
      extra_steps: number E of steps on the two systems after the first one.
      weight: share of the fresh direction, in (0, 1], or a schedule `step -> weight`, capped at 1.

    Returns:
      An `Algorithm` that reads E + 2 inner and 2 outer minibatches per step. Its memory holds one value
      of x and two of y for each minibatch.

    Raises:
      ValueError: if `extra_steps` < 0 or a constant `weight` is not in (0, 1].

    Cost per step: 3 gradients, 2 E + 1 Hessian products, 1 cross product.

    Equations: assembled by us from a summary, not checked against the paper's text. We do not know how
    the paper uses its memory in the E extra steps.

    >>> from bilevel import tasks
    >>> ma_nsbo_saga(tasks.quadratic().problem).cost
    Cost(gradients=3, hessian_products=3, cross_products=1)
    """
    return newton_loop(
        problem,
        gradient_steps(extra_steps, fixed_sides(problem, fresh=True)),
        (saga(), momentum(weight, of=saga())),
        inner_optimizer=inner_optimizer,
        outer_optimizer=outer_optimizer,
        adjoint_optimizer=adjoint_optimizer,
        draws=Draws(2, extra_steps + 2),
        cost=Cost(3, 1 + 2 * extra_steps, 1),
        name="ma_nsbo_saga",
    )
