"""Proximal AID: accelerated implicit differentiation and a proximal outer step."""

from collections.abc import Callable

from bilevel.algorithms.record import describe
from bilevel.combinators import nested
from bilevel.inner import descend
from bilevel.linear import nesterov
from bilevel.optimizers import as_rate
from bilevel.response import implicit
from bilevel.types import Algorithm, Optimizer, Problem, PyTree


@describe(
    family="double loop, implicit, proximal",
    reference="Chen, Kailkhura and Zhou, An Accelerated Proximal Algorithm for Regularized Nonconvex and "
    "Nonsmooth Bi-level Optimization, Machine Learning 2023, arXiv:2203.16615",
)
def prox_aid(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    linear_steps: int = 10,
    rate: float | None = None,
    momentum: float = 0.5,
    prox: Callable[[PyTree], PyTree] | None = None,
) -> Algorithm:
    """Return proximal AID: implicit differentiation with a nonsmooth outer penalty.

        min over x of f(x, y*(x)) + h(x)

        y: T steps of inner_optimizer on g(x, .), from the last y
        v: N accelerated gradient steps on v'Hv / 2 - f_y'v, from the last v
        x <- prox(x - outer_optimizer(f_x - J v))

    Args:
      problem: the two losses; f does not contain h.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of steps of each inner solve.
      linear_steps: number N of steps on the adjoint.
      rate: step size on the adjoint, at most 1/L; default: `inner_optimizer`, which must then be a number.
      momentum: momentum on the adjoint; the best value is (sqrt L - sqrt mu) / (sqrt L + sqrt mu).
      prox: proximal operator of `alpha h`, where alpha is the outer step size. For `h = c |x|_1` it returns
        `sign(x) max(|x| - alpha c, 0)`. None means h = 0.

    Returns:
      An `Algorithm` that reads T + 2 inner minibatches per step.

    Raises:
      ValueError: if `inner_steps` is negative, `rate` is None and `inner_optimizer` is not a number, or
        `momentum` is not in [0, 1).

    Cost per step: T + 1 gradients, N Hessian products, 1 cross product.

    Equations: recalled, not checked against the paper's text.

    >>> from bilevel import tasks
    >>> prox_aid(tasks.quadratic().problem).cost
    Cost(gradients=11, hessian_products=10, cross_products=1)
    """
    linear = nesterov(linear_steps, as_rate(rate, inner_optimizer), momentum)
    response = implicit(problem, descend(problem, inner_optimizer, inner_steps), linear)
    return nested(problem, response, outer_optimizer, prox=prox, name="prox_aid")
