"""PZOBO: hypergradients from differences between inner paths."""

from collections.abc import Callable

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.response import gaussian, zeroth_order
from bilevel.types import Algorithm, Optimizer, Problem


@describe(
    family="double loop, zeroth order",
    reference="following Sow, Ji and Liang, On the Convergence Theory for Hessian-Free Bilevel Algorithms, "
    "NeurIPS 2022, arXiv:2110.07004, PZOBO; equations as in published code, not checked against the paper",
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
    """Hessian-free: the response is estimated along random directions of x.

        d_j = (y^N(x + smoothing u_j) - y^N(x)) / smoothing,   u_j ~ N(0, I)
        x <- x - outer_optimizer (f_x + (1/Q) sum_j <d_j, f_y> u_j)

    All paths read the same minibatches: on minibatches it is `pzobo_s`. The squared error of the
    estimated term is (p + 1)/Q times its square, p the entries of x.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes.
      inner_steps: steps N of every path.
      directions: number of directions Q.
      smoothing: length mu of the perturbation.
      warm: start all paths at the last y, else at the first.
      law: of the directions, see `zeroth_order`.

    Returns:
      An `Algorithm` that needs a key.

    Cost per step: (Q + 1) N + 1 gradients, no products.

    Differs from the paper's code: directions are not normalised tensor by tensor, which shrinks
    the estimated term to about 1/p of its size.

    >>> from bilevel import tasks
    >>> pzobo(tasks.quadratic().problem).cost
    Cost(gradients=111, hessian_products=0, cross_products=0)
    """
    solver = descend(problem, inner_optimizer, inner_steps)
    response = zeroth_order(solver, directions, smoothing=smoothing, law=law)
    return nested(problem, response, outer_optimizer, warm=warm, name="pzobo")
