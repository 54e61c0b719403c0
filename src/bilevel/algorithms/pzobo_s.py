"""PZOBO-S: PZOBO on minibatches, with common random numbers."""

from collections.abc import Callable

from bilevel.algorithms.pzobo import pzobo
from bilevel.algorithms.record import describe
from bilevel.response import gaussian
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, zeroth order, stochastic",
    reference="following Sow, Ji and Liang, On the Convergence Theory for Hessian-Free Bilevel Algorithms, "
    "NeurIPS 2022, arXiv:2110.07004, PZOBO-S; equations as in published code, not checked against the paper",
)
def pzobo_s(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    directions: int = 10,
    smoothing: float = 0.01,
    warm: bool = True,
    law: Callable = gaussian,
) -> Algorithm:
    """Hessian-free on minibatches: all inner paths of a step read the same ones.

        z_j: N steps of inner SGD at x + smoothing u_j, step t on S_t;   y: the same at x
        d_j = (z_j - y) / smoothing
        x <- x - outer_optimizer (f_x(D) + (1/Q) sum_j <d_j, f_y(D)> u_j)

    The paths differ in x alone, so that the minibatch noise of their difference is not divided by
    the smoothing; both gradients of f are taken on one minibatch D.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes.
      inner_steps: steps N of every path.
      directions: number of directions Q.
      smoothing: length mu of the perturbation.
      warm: start all paths at the last y, else at the first.
      law: of the directions, see `zeroth_order`.

    Returns:
      An `Algorithm` that reads N inner minibatches a step. It needs a key.

    Cost per step: (Q + 1) N + 1 gradients, no products.

    >>> from bilevel import tasks
    >>> pzobo_s(tasks.quadratic().problem, directions=1).cost
    Cost(gradients=21, hessian_products=0, cross_products=0)
    """
    # One solver for all paths: the minibatches are shared by construction.
    algorithm = pzobo(
        problem,
        inner_optimizer=inner_optimizer,
        outer_optimizer=outer_optimizer,
        inner_steps=inner_steps,
        directions=directions,
        smoothing=smoothing,
        warm=warm,
        law=law,
    )
    return algorithm._replace(name="pzobo_s")
