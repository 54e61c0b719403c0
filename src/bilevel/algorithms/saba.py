"""SABA: SOBA's directions with a SAGA memory of every minibatch."""

from bilevel.algorithms.record import describe
from bilevel.combinators import single_loop
from bilevel.directions import implicit_direction
from bilevel.estimators import saga
from bilevel.types import Algorithm, Optimizer, Point, Problem


@describe(
    family="single loop, implicit, stochastic, variance reduction",
    reference="Dagréou, Ablin, Vaiter and Moreau, A framework for bilevel optimization that enables "
    "stochastic and global variance reduction algorithms, NeurIPS 2022, arXiv:2201.13409, SABA",
    cheap=True,
)
def saba(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    adjoint_optimizer: Optimizer | None = None,
) -> Algorithm:
    """Return SABA: SOBA with a SAGA memory of every minibatch.

        y <- y - inner_optimizer(SAGA(g_y))
        v <- v - adjoint_optimizer(SAGA(H v) - SAGA(f_y))
        x <- x - outer_optimizer(SAGA(f_x) - SAGA(J v)),   all at the same (x, y, v)

    SAGA(.) is the mean of the stored values plus (fresh value - stored value of this minibatch). On a
    finite sum SABA converges to a stationary point with constant steps; SOBA does not.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      adjoint_optimizer: optimiser of v; default: `inner_optimizer`.

    Returns:
      An `Algorithm` that reads one minibatch at each level per step. Its memory holds one value of x, of
      y and of v for each minibatch.

    Cost per step: 2 gradients, 1 Hessian product, 1 cross product, in one pass.

    >>> from bilevel import tasks
    >>> saba(tasks.quadratic().problem).cost
    Cost(gradients=2, hessian_products=1, cross_products=1)
    """
    adjoint_optimizer = inner_optimizer if adjoint_optimizer is None else adjoint_optimizer
    optimizers = Point(x=outer_optimizer, y=inner_optimizer, v=adjoint_optimizer)
    return single_loop(problem, implicit_direction(problem), saga(), optimizers, name="saba")
