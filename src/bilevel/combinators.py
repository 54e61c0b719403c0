"""Combinators: algorithms from a response, or from an oracle and an estimator."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from bilevel.directions.types import Oracle
from bilevel.estimators import Estimator
from bilevel.hypergradient import as_variables, hypergradient, measures
from bilevel.inner import as_optimizer
from bilevel.response.types import Response
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Point, Problem, PyTree, Schedule, require

tree = optax.tree


class NestedState(NamedTuple):
    """State of a double-loop algorithm.

    Attributes:
      x, y: outer and inner variable.
      v: adjoint, `()` if the response carries none.
      optimizer: state of the outer optimiser.
      start: start of every inner solve, `()` if it starts at the last y.
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
    problem: Problem, response: Response, optimizer: Optimizer, *, warm: bool = True, name: str = "nested"
) -> Algorithm:
    """Return a double loop: train y, compute the hypergradient, move x.

        y, pullback = response(x, y);   x <- x - optimizer(f_x + pullback(f_y))

    Args:
      problem: the two losses.
      response: the inner solver with its derivative.
      optimizer: outer optax optimiser or step size. For a constraint use
        `optax.chain(..., constrain(project))`.
      warm: whether an inner solve starts at the last y; otherwise it starts at the y given to `init`.
      name: name in errors and reports.

    Returns:
      An `Algorithm` with the metrics of `measures`, evaluated at the trained y.

    Cost: 1 gradient of f, and the cost of the response.
    """
    mover = as_optimizer(optimizer)
    # A solver without steps reads no minibatch, but the metrics need one.
    draws = max(1, response.draws)

    def init(x, y):
        x, y = as_variables(x, y)
        start = () if warm else y
        return NestedState(x=x, y=y, v=response.adjoint(y), optimizer=mover.init(x), start=start)

    def step(state, batch, key):
        x, start = state.x, state.y if warm else state.start
        gradient, y, info = hypergradient(problem, response, x, start, batch, key, state.v)
        metrics = measures(problem, x, y, batch, draws - 1, gradient, info.linear_residual)
        x, optimizer_state = move(mover, gradient, state.optimizer, x)
        return NestedState(x=x, y=y, v=info.v, optimizer=optimizer_state, start=state.start), metrics

    cost = Cost(gradients=1).plus(response.cost)
    return Algorithm(init=init, step=step, draws=Draws(1, draws), cost=cost, name=name)


def single_loop(
    problem: Problem, oracle: Oracle, estimator: Estimator, optimizers: Point, *, name: str = "single_loop"
) -> Algorithm:
    """Return a single loop: x, y and v move at once, each against its own direction.

        d = estimator(oracle at (x, y, v));   x <- x - optimizers.x(d.x), likewise for y and v

    Args:
      problem: the two losses, for the metrics.
      oracle: computes the directions.
      estimator: reduces their noise.
      optimizers: a `Point` of optax optimisers or step sizes.
      name: name in errors and reports.

    Returns:
      An `Algorithm` with the metrics of `measures`, evaluated before the move.

    Raises:
      ValueError: if the estimator keeps a table and the oracle reads several minibatches at a level.

    Cost: the cost of the oracle, times the calls of the estimator.
    """
    # An entry of a table belongs to one minibatch; the same mixture of several would not recur.
    require(
        not estimator.fixed or oracle.draws[:2] == (1, 1),
        "an estimator that keeps a table needs an oracle that reads one outer and one inner minibatch",
        f"{oracle.draws.outer} and {oracle.draws.inner}",
    )
    movers = Point(*map(as_optimizer, optimizers))

    def init(x, y, blocks=(1, 1)):
        x, y = as_variables(x, y)
        point = Point(x, y, oracle.adjoint(y))
        states = Point(*(mover.init(value) for mover, value in zip(movers, point, strict=True)))
        memory = estimator.init(point, blocks)
        return SingleLoopState(x=x, y=y, v=point.v, optimizer=states, estimator=memory)

    def step(state, batch, key):
        point = Point(state.x, state.y, state.v)

        def evaluate(point, batch):
            return oracle.evaluate(point, batch, key)

        direction, memory, terms = estimator.update(evaluate, state.estimator, point, batch, key)
        metrics = measures(problem, point.x, point.y, batch, 0, direction.x, terms.linear_residual)
        moves = map(move, movers, direction, state.optimizer, point)
        (x, y, v), states = zip(*moves, strict=True)
        return SingleLoopState(x=x, y=y, v=v, optimizer=Point(*states), estimator=memory), metrics

    return Algorithm(
        init=init,
        step=step,
        draws=oracle.draws._replace(fixed=estimator.fixed),
        cost=oracle.cost.times(estimator.calls),
        name=name,
        seeds_in_sequence=estimator.seeds_in_sequence,
    )


def constrain(project: Callable[[PyTree], PyTree]) -> optax.GradientTransformation:
    """Return the last link of an optax chain, which keeps the variable in a set.

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
            raise ValueError("constrain needs the variable, got None; call update(updates, state, params)")
        return tree.sub(project(optax.apply_updates(params, updates)), params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def decayed(optimizer: Optimizer, factor: Schedule) -> optax.GradientTransformation:
    """Return an optax optimiser that receives `factor(step)` times the direction.

    The direction is scaled and not the update, so that a constraint at the end of the optimiser
    still holds. An optimiser that is invariant to the scale of its gradient (Adam) does not decay.

    Args:
      optimizer: an optax optimiser or a step size.
      factor: schedule `step -> number`.
    """
    return optax.chain(optax.scale_by_schedule(factor), as_optimizer(optimizer))


def power(exponent: float, *, scale: float = 1.0, offset: float = 1.0) -> Schedule:
    """Return the schedule `scale / (offset + step)^exponent` of stochastic methods.

    >>> [float(power(0.5)(step)) for step in (0, 3)]
    [1.0, 0.5]
    """
    return lambda step: scale / (offset + jnp.asarray(step, float)) ** exponent


def move(
    optimizer: optax.GradientTransformation, gradient: PyTree, state: Any, value: PyTree
) -> tuple[PyTree, Any]:
    """Make one step of an optax optimiser; return the new value and the new state.

    Args:
      optimizer: an optax optimiser.
      gradient: the direction to move against, a pytree like `value`.
      state: state of the optimiser, from `optimizer.init(value)` or the last step.
      value: the variable.
    """
    updates, state = optimizer.update(gradient, state, value)
    return optax.apply_updates(value, updates), state
