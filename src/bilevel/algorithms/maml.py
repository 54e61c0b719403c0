"""Multi-step MAML: learn the point from which a few gradient steps fit any task."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from bilevel.algorithms.record import describe
from bilevel.inner import descend
from bilevel.many_tasks import drawn_by, from_start, nested_over_tasks, over_tasks, whole_task
from bilevel.optimizers import step_size_of
from bilevel.response import stepwise, unrolled
from bilevel.types import Algorithm, Cost, Optimizer, Problem, PyTree, require


@describe(
    family="double loop over tasks, unrolled",
    reference="Ji, Yang and Liang, Theoretical Convergence of Multi-Step Model-Agnostic Meta-Learning, "
    "JMLR 2022, arXiv:2002.07836",
    learns_start=True,
)
def maml(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 5,
    resample: Callable[[PyTree, Any], PyTree] | None = None,
    smoothness: float | None = None,
    hessian_smoothness: float = 1.0,
    caution: float = 4.0,
    recompute: int = 0,
    vectorize: bool = True,
) -> Algorithm:
    """Return multi-step MAML: back-propagation to the start, averaged over tasks.

        y_0 = x;   y_{t+1} = y_t - inner_optimizer(g_y(y_t; S_t)),   t = 0 .. T - 1,   for each task
        G = prod_t (I - a H(y_t; D_t)) f_y(y_T; O),   a the inner step size
        x <- x - outer_optimizer(mean over tasks of G)

    Without `resample` (finite sums) S_t = D_t and O are the whole task, and G is the exact gradient.
    With `resample` all 2T + 1 minibatches are drawn independently: only the noise of y_T biases G.

    With `smoothness` L (and `hessian_smoothness` rho, the Lipschitz constant of the Hessians) the mean of G
    is divided by an estimate of the local smoothness of the objective, which has no global bound:

        caution ((1 + a L)^(2T) L + C mean over other tasks of |g_y(x)|)
        C = [(1 + a L)^(T-1) a rho + (rho / L) (1 + a L)^T ((1 + a L)^(T-1) - 1)] (1 + a L)^T

    With an outer step size of 1 this is the step of the theory, which also requires a of order 1/(T L).

    Args:
      problem: the two losses; x is where y starts, and both losses get a single task as `batch`.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`.
      inner_steps: number T of steps on each task.
      resample: `(task, key) -> minibatch`, which draws a fresh minibatch of a task's data.
      smoothness: L of the inner loss, positive; None leaves the outer step as it is.
      hessian_smoothness: rho, not negative.
      caution: constant of the theory, positive.
      recompute: levels of checkpointing of the inner steps, see `descend`; 0 with `resample`.
      vectorize: run all tasks at once by `vmap`; otherwise one after the other.

    Returns:
      An `Algorithm` that reads one outer minibatch of tasks per step, two with `smoothness`. The y
      given to `init` has the structure of x; its values are not used.

    Raises:
      ValueError: if `smoothness` is given and the inner optimiser is not a step size, if `resample` is given
        and the inner optimiser has a state or `recompute` is not 0, or if a constant has the wrong sign.

    Cost per step: T + 1 gradients (one more with `smoothness`) and T Hessian products for each task. There
    are no cross products where the losses read y alone, as they do in MAML.

    Equations: not checked against the paper's text. The default of `caution` is our choice.

    >>> from bilevel import tasks
    >>> maml(tasks.quadratic().problem).cost
    Cost(gradients=6, hessian_products=5, cross_products=0)
    """
    require(hessian_smoothness >= 0, "hessian_smoothness must not be negative", hessian_smoothness)
    require(caution > 0, "caution must be positive", caution)
    require(resample is None or recompute == 0, "recompute must be 0 with resample", recompute)

    def start(x):
        return x

    if resample is None:
        source = whole_task
        response = unrolled(descend(problem, inner_optimizer, inner_steps, recompute=recompute), start=start)
    else:
        source = drawn_by(resample)
        response = stepwise(problem, inner_optimizer, inner_steps, start=start, independent=True)

    rate = None
    if smoothness is not None:
        rule = "inner_optimizer must be a step size when smoothness is given"
        step_size = step_size_of(inner_optimizer, f"{rule}, got {inner_optimizer}; pass a number")
        require(smoothness > 0, "smoothness must be positive", smoothness)
        terms = smoothness_terms(step_size, inner_steps, smoothness, hessian_smoothness)
        rate = _inverse_smoothness(problem, terms, caution, vectorize, source)

    algorithm = nested_over_tasks(
        problem, response, outer_optimizer, vectorize=vectorize, source=source, rate=rate, name="maml"
    )
    gradients = algorithm.cost.gradients + (smoothness is not None)
    return from_start(algorithm, start)._replace(cost=Cost(gradients, algorithm.cost.hessian_products))


def _inverse_smoothness(problem, terms, caution, vectorize, source):
    """Return `(x, tasks, key) -> 1 / smoothness at x`, estimated from the tasks."""
    base, slope = terms

    def rate(x, tasks, key):
        def start_norm(memory, batch, key):
            norm = optax.tree.norm(jax.grad(problem.inner, argnums=1)(x, x, batch.inner[0]))
            return memory, (norm, (), {})

        norm = over_tasks(start_norm, (), tasks, key, vectorize=vectorize, source=source)[1]
        return 1 / (caution * (base + slope * norm))

    return rate


def smoothness_terms(
    step_size: float, steps: int, smoothness: float, hessian_smoothness: float
) -> tuple[float, float]:
    """Return `(base, C)`: the smoothness near x is base + C mean |g_y(x)|.

    Args:
      step_size: inner step size a.
      steps: number T of inner steps.
      smoothness: L of the inner loss.
      hessian_smoothness: rho, the Lipschitz constant of its Hessian.
    """
    growth = 1 + step_size * smoothness
    inside = step_size * hessian_smoothness * growth ** (steps - 1)
    inside += hessian_smoothness / smoothness * growth**steps * (growth ** (steps - 1) - 1)
    return smoothness * growth ** (2 * steps), inside * growth**steps
