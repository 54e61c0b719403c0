"""PZOBO: hypergradients from differences between inner paths."""

from collections.abc import Callable

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.response import gaussian, zeroth_order
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, zeroth order",
    reference="Sow, Ji and Liang, On the Convergence Theory for Hessian-Free Bilevel Algorithms, "
    "NeurIPS 2022, arXiv:2110.07004, PZOBO",
)
def pzobo(
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
    """Return PZOBO: hypergradients from differences between inner paths.

        d_j = (y_T(x + mu u_j) - y_T(x)) / mu,   u_j ~ N(0, I),   mu = smoothing,   j = 1 .. Q
        x <- x - outer_optimizer(f_x + (1/Q) sum_j <d_j, f_y> u_j)

    All paths read the same minibatches, so on minibatches this is `pzobo_s`. The squared error of the
    estimated term is (p + 1)/Q times its square, where p is the number of entries of x.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of steps of every inner path.
      directions: number Q of directions.
      smoothing: length mu of the perturbation.
      warm: start all paths at the last y; otherwise at the y given to `init`.
      law: distribution of the directions, see `zeroth_order`.

    Returns:
      An `Algorithm` that needs a key.

    Raises:
      ValueError: if `inner_steps` is negative, `directions` is below 1 or `smoothing` is not positive.

    Cost per step: (Q + 1) T + 1 gradients, no products.

    Equations: taken from published code, not checked against the paper's text.

    Differs from the paper's code: directions are not normalised tensor by tensor, since that shrinks
    the estimated term to about 1/p of its size.

    >>> from bilevel import tasks
    >>> pzobo(tasks.quadratic().problem).cost
    Cost(gradients=111, hessian_products=0, cross_products=0)
    """
    solver = descend(problem, inner_optimizer, inner_steps)
    response = zeroth_order(solver, directions, smoothing=smoothing, law=law)
    return nested(problem, response, outer_optimizer, warm=warm, name="pzobo")
