"""UFO-BLO: first-order bilevel steps, debiased by an exact gradient now and then."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.algorithms.record import describe
from bilevel.combinators import move
from bilevel.hypergradient import as_variables, measures
from bilevel.inner import as_optimizer, descend
from bilevel.many_tasks import over_tasks
from bilevel.response import first_order, optimal_probability, stepwise, unrolled
from bilevel.response.unbiased import correct
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, require

tree = optax.tree


class Seen(NamedTuple):
    """What exact draws have shown.

    Attributes:
      second_moment, bias: running sums of |e|^2 and |e - o|^2.
      weight: the same sum of ones, 0 before the first exact draw.
      exact_draws: how many there were (with `vectorize`, of all tasks at once; with tasks spread over
        devices, on one of them on average); the true cost of a run follows from it.
    """

    second_moment: jax.Array
    bias: jax.Array
    weight: jax.Array
    exact_draws: jax.Array


class UfoBloState(NamedTuple):
    """State of UFO-BLO.

    Attributes:
      x, y: outer and inner variable, y that of the last solve (of its first task).
      optimizer: state of the outer optimiser.
      start: the y given to `init`.
      seen: running estimates.
      probability: q of the next step.
    """

    x: PyTree
    y: PyTree
    optimizer: Any
    start: PyTree
    seen: Seen
    probability: jax.Array


@describe(
    family="double loop, first order, unbiased",
    reference="Likhosherstov, Song, Choromanski, Davis and Weller, Debiasing a First-order Heuristic for "
    "Approximate Bi-level Optimization, ICML 2021, arXiv:2106.02487, UFOM; the estimate and the adaptive "
    "rule as in the authors' code",
)
def ufo_blo(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    probability: float | None = 0.2,
    start: Callable | None = None,
    tasks: bool = False,
    vectorize: bool = False,
    recompute: bool = False,
    exponent: float = 1.0,
    decay: float = 0.99,
    least_probability: float = 0.05,
) -> Algorithm:
    """First-order bilevel steps, made unbiased by an exact gradient now and then.

        y_0 = start(x);   y_{j+1} = y_j - inner_optimizer g_y(x, y_j),   j = 0 .. r - 1
        o = f_x + (d start / dx)' f_y,   e = the gradient of f(x, y_r(x)) through all r steps
        x <- x - outer_optimizer (o + (coin / q) (e - o)),   coin ~ Bernoulli(q),   the mean over tasks

    The target is the r-step objective itself. An adaptive q minimises the cost of a given accuracy
    (`optimal_probability`), from running means of |e|^2 and |e - o|^2 over the exact draws. The paper of
    2020 (arXiv:2006.03631) calls the method UFO-BLO, that of 2021 UFOM.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optax optimisers or step sizes; the exact gradient is
        heavy-tailed on networks, and a small q needs a small inner step.
      inner_steps: steps r of every inner solve.
      probability: q, in (0, 1]; 1 is the exact gradient; None adapts it.
      start: `x -> y_0`; None starts at the y given to `init`.
      tasks: the outer minibatch holds tasks along a leading axis, and each is the batch of both
        its losses; else there is one task, with data at both levels.
      vectorize: all tasks at once by `vmap` with one coin a step; else one after the other, each
        with its own coin (less noise, and tails still cost nothing).
      recompute: memory that does not grow with r: r (r - 1) / 2 more gradients for an exact draw.
      exponent: of the second moment in the adaptive rule, see `optimal_probability`.
      decay: of the running means.
      least_probability: the floor of the adaptive q, and its value before the first exact draw.

    Returns:
      An `Algorithm` that reads r inner minibatches a step, or one outer minibatch of tasks. It
      needs a key.

    Raises:
      ValueError: when a probability is not in (0, 1] or `decay` not in [0, 1).

    Cost per step: for each task r + 1 gradients, and with probability q r Hessian and r cross
    products: `cost` is the mean, rounded, and for an adaptive q the most.

    Differs from the paper's code: |e - o|^2 is measured itself (there |gradient - e|^2, which
    depends on the coin, over 10), and nothing is clipped.

    >>> from bilevel import tasks
    >>> ufo_blo(tasks.quadratic().problem).cost
    Cost(gradients=11, hessian_products=2, cross_products=2)
    """
    for rule, value in (("probability", probability), ("least_probability", least_probability)):
        require(value is None or (value > 0) & (value <= 1), f"{rule} must be in (0, 1]", value)
    require((decay >= 0) & (decay < 1), "decay must be in [0, 1)", decay)
    optimizer = as_optimizer(outer_optimizer)
    solver = descend(problem, inner_optimizer, inner_steps)
    cheap, exact = first_order(solver, start=start), unrolled(solver, start=start)
    if recompute:
        exact = stepwise(problem, inner_optimizer, inner_steps, start=start, recompute=True)
    extra = Cost(*(a - b for a, b in zip(exact.cost, cheap.cost, strict=True)))
    draws = max(1, inner_steps)

    def chance(seen):
        if probability is not None:
            return jnp.asarray(probability, seen.weight.dtype)
        some = jnp.where(seen.weight > 0, seen.weight, 1)
        # A Hessian product and a cross product come in one pass.
        price = extra.gradients + extra.hessian_products
        best = optimal_probability(
            seen.second_moment / some, seen.bias / some, inner_steps + 1, price, exponent
        )
        return jnp.where(seen.weight > 0, jnp.clip(best, least_probability, 1.0), least_probability)

    def remember(seen, coin, gradient, correction):
        def mean(old, new):
            return decay * old + (1 - decay) * new

        new = Seen(
            mean(seen.second_moment, tree.norm(gradient, squared=True)),
            mean(seen.bias, tree.norm(correction, squared=True)),
            mean(seen.weight, 1.0),
            seen.exact_draws + 1,
        )
        return tree.where(coin, new, seen)

    def init(x, y):
        x, y = as_variables(x, y)
        zero = jnp.zeros((), jnp.result_type(*jax.tree.leaves(x)))
        seen = Seen(zero, zero, zero, zero)
        return UfoBloState(x, y, optimizer.init(x), y, seen, chance(seen))

    def step(state, batch, key):
        require(key is not None, "ufo_blo needs a key", key)
        x = state.x

        def estimate(seen, batch, task_key):
            q = chance(seen)
            # A coin that differed among vectorised tasks would make `vmap` compute both sides for all.
            coin = jax.random.bernoulli(key if vectorize else task_key, q)
            _, cheap_pullback = cheap.respond(x, state.start, batch, None)
            y, exact_pullback = exact.respond(x, state.start, batch, None)
            f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, y, batch.outer[0])
            indirect, correction, _, _ = correct(coin, cheap_pullback, exact_pullback, f_y, ())
            first = tree.add(f_x, indirect)
            seen = remember(seen, coin, tree.add(first, correction), correction)
            gradient = tree.add_scale(first, 1 / q, correction)
            residual = jnp.zeros((), seen.weight.dtype)
            return seen, (gradient, y, measures(problem, x, y, batch, draws - 1, gradient, residual))

        if tasks:
            seen, gradient, y, metrics = over_tasks(
                estimate, state.seen, batch.outer[0], key, vectorize=vectorize
            )
        else:
            seen, (gradient, y, metrics) = estimate(state.seen, batch, key)
        x, optimizer_state = move(optimizer, gradient, state.optimizer, x)
        return UfoBloState(x, y, optimizer_state, state.start, seen, chance(seen)), metrics

    share = probability if isinstance(probability, float | int) else 1.0
    cost = Cost(gradients=1).plus(cheap.cost).plus(Cost(*(round(share * count) for count in extra)))
    inner_draws = 1 if tasks else draws
    return Algorithm(init, step, Draws(1, inner_draws), cost, "ufo_blo", seeds_in_sequence=True)
