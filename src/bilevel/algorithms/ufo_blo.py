"""UFO-BLO: first-order steps, made unbiased by occasional exact gradients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bilevel.algorithms.record import describe
from bilevel.combinators import move_outer
from bilevel.hypergradient import as_variables, measures, stationarity
from bilevel.inner import descend
from bilevel.keys import key_for
from bilevel.many_tasks import count_tasks, from_start, over_tasks
from bilevel.optimizers import as_optimizer
from bilevel.response import first_order, optimal_probability, stepwise, unrolled
from bilevel.response.unbiased import correct
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Problem, PyTree, require
from bilevel.widening import widened

tree = optax.tree


class Seen(NamedTuple):
    """Running statistics of the exact draws, in at least float32.

    Attributes:
      second_moment, bias: decayed sums of |e|^2 and |e - o|^2.
      weight: decayed sum of ones, 0 before the first exact draw; it turns the sums into means.
      exact_draws: number of exact draws, an integer, from which the true cost of a run follows. With
        `vectorize` one draw covers all tasks; otherwise the draws of all tasks count.
    """

    second_moment: jax.Array
    bias: jax.Array
    weight: jax.Array
    exact_draws: jax.Array


class UfoBloState(NamedTuple):
    """State of UFO-BLO.

    Attributes:
      x: outer variable.
      y: inner variable of the last solve; with tasks, the y of the first task.
      optimizer: state of the outer optimiser.
      start: the y given to `init`.
      seen: running statistics of the exact draws.
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
    "Approximate Bi-level Optimization, ICML 2021, arXiv:2106.02487, UFOM",
)
def ufo_blo(
    problem: Problem,
    *,
    inner_optimizer: Optimizer = 0.1,
    outer_optimizer: Optimizer = 0.1,
    inner_steps: int = 10,
    probability: float | None = 0.2,
    start: Callable[[PyTree], PyTree] | None = None,
    tasks: bool = False,
    vectorize: bool = False,
    recompute: bool = False,
    exponent: float = 1.0,
    decay: float = 0.99,
    least_probability: float = 0.05,
) -> Algorithm:
    """Return UFO-BLO: first-order steps, debiased by an occasional exact gradient.

        y_0 = start(x);   y_{t+1} = y_t - inner_optimizer(g_y(x, y_t)),   t = 0 .. T - 1
        o = f_x + (d start / dx)' f_y,   e = the gradient of f(x, y_T(x)) through all T steps
        x <- x - outer_optimizer(mean over tasks of o + (coin / q) (e - o)),   coin ~ Bernoulli(q)

    The objective is f(x, y_T(x)) itself, not f(x, y*(x)). An adaptive q minimises the cost of a given
    accuracy (`optimal_probability`), from running means of |e|^2 and |e - o|^2 over the exact draws. The
    2020 paper (arXiv:2006.03631) calls the method UFO-BLO, the 2021 paper UFOM.

    Args:
      problem: the two losses.
      inner_optimizer, outer_optimizer: optimisers of y and x, see `Optimizer`. On networks the exact
        gradient is heavy-tailed, and a small q needs a small inner step.
      inner_steps: number T of steps of each inner solve.
      probability: q, in (0, 1]; 1 takes the exact gradient at every step; None adapts q.
      start: `x -> y_0`; None starts at the y given to `init`.
      tasks: whether the outer minibatch holds tasks along a leading axis, each the batch of both losses;
        otherwise there is one task, with data at both levels.
      vectorize: run all tasks at once by `vmap`, with one coin per step. Otherwise run one after the other,
        each with its own coin. This has less noise, and a task without an exact draw does not pay for one.
      recompute: keep memory independent of T, at T (T - 1) / 2 more gradients for an exact draw.
      exponent: exponent of the second moment in the adaptive rule, see `optimal_probability`.
      decay: decay of the running means, in [0, 1).
      least_probability: lower bound of the adaptive q, and its value before the first exact draw.

    Returns:
      An `Algorithm` that reads T inner minibatches per step, or one outer minibatch of tasks. It
      needs a key.

    Raises:
      ValueError: if a probability is not in (0, 1] or `decay` is not in [0, 1).

    Cost per step: T + 1 gradients for each task, and with probability q also T Hessian and T cross
    products. `cost` is the mean, rounded; for an adaptive q it is the maximum.

    Equations: the estimate and the adaptive rule come from the authors' code.

    Differs from the paper's code: the adaptive rule measures |e - o|^2 itself. The code takes
    |gradient - e|^2, which depends on the coin, divided by 10. Nothing is clipped.

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

    def updated(seen, coin, gradient, correction):
        def mean(old, new):
            return decay * old + (1 - decay) * new

        def square(value):
            return tree.norm(jax.tree.map(widened, value), squared=True)

        new = Seen(
            second_moment=mean(seen.second_moment, square(gradient)),
            bias=mean(seen.bias, square(correction)),
            weight=mean(seen.weight, 1.0),
            exact_draws=seen.exact_draws,
        )
        return tree.where(coin, new, seen)

    def init(x, y):
        x, y = as_variables(x, y)
        zero = widened(jnp.zeros((), jnp.result_type(*jax.tree.leaves(x))))
        seen = Seen(second_moment=zero, bias=zero, weight=zero, exact_draws=jnp.zeros((), jnp.int32))
        return UfoBloState(
            x=x, y=y, optimizer=optimizer.init(x), start=y, seen=seen, probability=chance(seen)
        )

    def step(state, batch, key):
        require(key is not None, "ufo_blo needs a key", key)
        x = state.x

        def estimate(seen, batch, task_key):
            q = chance(seen)
            # With a coin for each vectorised task, `vmap` would compute both branches for all tasks.
            coin = jax.random.bernoulli(key_for("coin", key) if vectorize else task_key, q)
            _, cheap_pullback = cheap.respond(x, state.start, batch, None)
            y, exact_pullback = exact.respond(x, state.start, batch, None)
            f_x, f_y = jax.grad(problem.outer, argnums=(0, 1))(x, y, batch.outer[0])
            indirect, correction, _, _ = correct(coin, cheap_pullback, exact_pullback, f_y, ())
            first = tree.add(f_x, indirect)
            seen = updated(seen, coin, tree.add(first, correction), correction)
            gradient = jax.tree.map(lambda o, c: o + (1 / q).astype(o.dtype) * c, first, correction)
            metrics = measures(problem, x, y, batch, draws - 1, gradient, 0.0)
            return seen, (gradient, y, metrics | {"exact": coin.astype(jnp.float32)})

        # A mean over tasks cannot hold an integer, so the count stays outside.
        memory = state.seen._replace(exact_draws=())
        if tasks:
            seen, gradient, y, metrics = over_tasks(
                estimate, memory, batch.outer[0], key, vectorize=vectorize
            )
            metrics["gradient_norm"] = stationarity(problem, x, gradient)
        else:
            seen, (gradient, y, metrics) = estimate(memory, batch, key)
        coins = count_tasks(batch.outer[0]) if tasks and not vectorize else 1
        new_draws = jnp.round(coins * metrics.pop("exact")).astype(jnp.int32)
        seen = seen._replace(exact_draws=state.seen.exact_draws + new_draws)
        x, optimizer_state = move_outer(problem, optimizer, gradient, state.optimizer, x, metrics)
        new_state = UfoBloState(
            x=x, y=y, optimizer=optimizer_state, start=state.start, seen=seen, probability=chance(seen)
        )
        return new_state, metrics

    share = probability if isinstance(probability, float | int) else 1.0
    cost = Cost(gradients=1).plus(cheap.cost).plus(Cost(*(round(share * count) for count in extra)))
    algorithm = Algorithm(
        init=init,
        step=step,
        draws=Draws(1, 1 if tasks else draws),
        cost=cost,
        name="ufo_blo",
        seeds_in_sequence=True,
    )
    return from_start(algorithm, start)
