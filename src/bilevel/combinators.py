"""Combinators: algorithms made from a response, or from an oracle and an estimator."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from bilevel.directions.types import Oracle
from bilevel.estimators import Estimator
from bilevel.hypergradient import as_variables, hypergradient, measures
from bilevel.inner import as_optimizer
from bilevel.response.types import Response
from bilevel.types import Algorithm, Cost, Draws, Point, Problem, PyTree, require

tree = optax.tree


class NestedState(NamedTuple):
    """State of a double-loop algorithm.

    Attributes:
      x, y: outer and inner variable.
      v: adjoint, `()` when the response carries none.
      optimizer: state of the outer optimiser.
      start: where every inner solve starts, `()` when it starts at y.
    """

    x: PyTree
    y: PyTree
    v: PyTree
    optimizer: Any
    start: PyTree


class SingleLoopState(NamedTuple):
    """State of a single-loop algorithm.

    Attributes:
      x, y, v: outer and inner variable, adjoint.
      optimizer: the states of the three optimisers.
      estimator: state of the estimator.
    """

    x: PyTree
    y: PyTree
    v: PyTree
    optimizer: Point
    estimator: Any


def nested(
    problem: Problem, response: Response, optimizer, *, warm: bool = True, name: str = "nested"
) -> Algorithm:
    """Double loop: train y, take the hypergradient, move x.

        y, pullback = response(x, y);   x <- x + optimizer(f_x + pullback(f_y))

    Args:
      problem: the two losses.
      response: the inner solver with its derivative.
      optimizer: outer optax optimiser (constraints: `optax.chain(..., constrain(project))`), or a
        step size.
      warm: start every inner solve at the last y; else at the y given to `init`.
      name: for reports.

    Returns:
      An `Algorithm`. Its metrics are those of `measures`, taken at the trained y.

    Cost: 1 gradient of f and the response's cost.
    """
    optimizer = as_optimizer(optimizer)
    # A solver of no steps reads no minibatch; the metrics do.
    draws = max(1, response.draws)

    def init(x, y):
        x, y = as_variables(x, y)
        return NestedState(x, y, response.adjoint(y), optimizer.init(x), () if warm else y)

    def step(state, batch, key):
        x, start = state.x, state.y if warm else state.start
        gradient, y, info = hypergradient(problem, response, x, start, batch, key, state.v)
        metrics = measures(problem, x, y, batch, draws - 1, gradient, info.linear_residual)
        x, optimizer_state = move(optimizer, gradient, state.optimizer, x)
        return NestedState(x, y, info.v, optimizer_state, state.start), metrics

    return Algorithm(init, step, Draws(1, draws), Cost(gradients=1).plus(response.cost), name)


def single_loop(
    problem: Problem, oracle: Oracle, estimator: Estimator, optimizers: Point, *, name: str = "single_loop"
) -> Algorithm:
    """Single loop: x, y and v all move at once, each against its own direction.

    Args:
      problem: the two losses (for the metrics).
      oracle: the directions.
      estimator: what is made of them.
      optimizers: a `Point` of optax optimisers or step sizes.
      name: for reports.

    Returns:
      An `Algorithm`. Its metrics are those of `measures`, taken before the move.

    Raises:
      ValueError: when the estimator keeps a table and the oracle reads several minibatches a level.

    Cost: the oracle's, times the estimator's calls.
    """
    # An entry stands for one minibatch: a mixture of several is another one whenever it comes back.
    require(
        not estimator.fixed or oracle.draws[:2] == (1, 1),
        "a table of minibatches needs an oracle of one outer and one inner minibatch",
        f"{oracle.draws.outer} and {oracle.draws.inner}",
    )
    optimizers = Point(*map(as_optimizer, optimizers))

    def init(x, y, blocks=(1, 1)):
        x, y = as_variables(x, y)
        point = Point(x, y, oracle.adjoint(y))
        states = Point(*(optimizer.init(value) for optimizer, value in zip(optimizers, point, strict=True)))
        return SingleLoopState(x, y, point.v, states, estimator.init(point, blocks))

    def step(state, batch, key):
        point = Point(state.x, state.y, state.v)

        def evaluate(point, batch):
            return oracle.evaluate(point, batch, key)

        direction, estimator_state, terms = estimator.update(evaluate, state.estimator, point, batch, key)
        metrics = measures(problem, point.x, point.y, batch, 0, direction.x, terms.linear_residual)
        moves = map(move, optimizers, direction, state.optimizer, point)
        (x, y, v), states = zip(*moves, strict=True)
        return SingleLoopState(x, y, v, Point(*states), estimator_state), metrics

    draws, cost = oracle.draws._replace(fixed=estimator.fixed), oracle.cost.times(estimator.calls)
    return Algorithm(init, step, draws, cost, name, estimator.seeds_in_sequence)


def constrain(project: Callable[[PyTree], PyTree]) -> optax.GradientTransformation:
    """Last link of an optax chain: keeps the variable in a set.

        x <- project(x + update)

    Args:
      project: the projection, for example `lambda x: optax.projections.projection_box(x, 0, 1)`,
        or the proximal operator of a penalty.

    Returns:
      An optax transformation, for either level.

    >>> import jax.numpy as jnp
    >>> box = optax.chain(optax.sgd(1.0), constrain(lambda x: jnp.clip(x, 0, 1)))
    >>> optax.apply_updates(jnp.ones(()), box.update(-jnp.ones(()), box.init(0.0), jnp.ones(()))[0])
    Array(1., dtype=float32)
    """

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("constrain needs the variable: call update(updates, state, params)")
        return tree.sub(project(optax.apply_updates(params, updates)), params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def decayed(optimizer, factor: optax.Schedule) -> optax.GradientTransformation:
    """An optax optimiser that reads `factor(step)` times the direction.

    The direction is scaled and not the update, so that a constraint at the end of the optimiser
    still holds. An optimiser that does not feel the scale (Adam) does not decay either.

    Args:
      optimizer: an optax optimiser or a step size.
      factor: schedule `step -> number`.
    """
    return optax.chain(optax.scale_by_schedule(factor), as_optimizer(optimizer))


def power(exponent: float, *, scale: float = 1.0, offset: float = 1.0) -> optax.Schedule:
    """The schedule `scale / (offset + step)^exponent` of stochastic methods.

    >>> [float(power(0.5)(step)) for step in (0, 3)]
    [1.0, 0.5]
    """
    return lambda step: scale / (offset + jnp.asarray(step, float)) ** exponent


def move(optimizer: optax.GradientTransformation, gradient: PyTree, state: Any, value: PyTree):
    """One optax step: `(new value, new state)`."""
    updates, state = optimizer.update(gradient, state, value)
    return optax.apply_updates(value, updates), state
