"""PZOBO-S: PZOBO on minibatches, with common random numbers."""

from collections.abc import Callable

from bilevel.algorithms.pzobo import pzobo
from bilevel.algorithms.record import describe
from bilevel.response import gaussian
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, zeroth order, stochastic",
    reference="Sow, Ji and Liang, On the Convergence Theory for Hessian-Free Bilevel Algorithms, "
    "NeurIPS 2022, arXiv:2110.07004, PZOBO-S",
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
    """Return PZOBO-S: PZOBO whose inner paths read the same minibatches.

        z_j: T steps of inner SGD at x + mu u_j, step t on S_t;   y: the same at x;   mu = smoothing
        d_j = (z_j - y) / mu,   u_j ~ N(0, I),   j = 1 .. Q
        x <- x - outer_optimizer(f_x(D) + (1/Q) sum_j <d_j, f_y(D)> u_j)

    The paths differ in x alone, so the noise of the minibatches is not divided by the smoothing. Both
    gradients of f are evaluated on one minibatch D.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of steps of every inner path.
      directions: number Q of directions.
      smoothing: length mu of the perturbation.
      warm: start all paths at the last y; otherwise at the y given to `init`.
      law: distribution of the directions, see `zeroth_order`.

    Returns:
      An `Algorithm` that reads T inner minibatches per step. It needs a key.

    Raises:
      ValueError: if `inner_steps` is negative, `directions` is below 1 or `smoothing` is not positive.

    Cost per step: (Q + 1) T + 1 gradients, no products.

    Equations: taken from published code, not checked against the paper's text.

    >>> from bilevel import tasks
    >>> pzobo_s(tasks.quadratic().problem, directions=1).cost
    Cost(gradients=21, hessian_products=0, cross_products=0)
    """
    # `pzobo` already runs all paths on the same minibatches.
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
