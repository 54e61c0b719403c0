"""Combinators: algorithms from a response, or from an oracle and an estimator."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from bilevel.directions.types import Oracle
from bilevel.estimators import Estimator
from bilevel.hypergradient import as_variables, measures, undiagnosed
from bilevel.optimizers import as_optimizer, move
from bilevel.response.types import Response
from bilevel.types import Algorithm, Cost, Draws, Optimizer, Point, Problem, PyTree, require


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
    problem: Problem,
    response: Response,
    optimizer: Optimizer,
    *,
    warm: bool = True,
    prox: Callable[[PyTree], PyTree] | None = None,
    name: str = "nested",
) -> Algorithm:
    """Return a double loop: train y, compute the hypergradient, move x.

        y, pullback = response(x, y);   x <- x - optimizer(f_x + pullback(f_y))

    With an outer projection, every step ends with it.

    Args:
      problem: the two losses.
      response: the inner solver with its derivative.
      optimizer: outer optax optimiser or step size.
      warm: whether an inner solve starts at the last y; otherwise it starts at the y given to `init`.
      prox: proximal operator that is applied to x after each step, in place of a projection.
      name: name in errors and reports.

    Returns:
      An `Algorithm` with the metrics of `measures`, evaluated at the trained y.

    Raises:
      ValueError: if the problem has an outer projection, and `prox` is given too.

    Cost: 1 gradient of f, and the cost of the response.
    """
    mover = as_optimizer(optimizer)
    if prox is not None and problem.outer_projection is not None:
        raise ValueError("prox must be None when the problem has an outer_projection; put both into prox")
    after = problem.outer_projection if prox is None else prox
    # A solver without steps reads no minibatch, but the metrics need one.
    draws = max(1, response.draws)

    def init(x, y):
        x, y = as_variables(x, y)
        start = () if warm else y
        return NestedState(x=x, y=y, v=response.adjoint(y), optimizer=mover.init(x), start=start)

    def step(state, batch, key):
        x, start = state.x, state.y if warm else state.start
        gradient, y, info = undiagnosed(problem, response, x, start, batch, key, state.v)
        metrics = measures(problem, x, y, batch, draws - 1, gradient, info.linear_residual)

        def loss(x):
            return problem.outer(x, response.respond(x, start, batch, key)[0], batch.outer[0])

        x, optimizer_state = move(
            mover, gradient, state.optimizer, x, after, value=info.outer_loss, loss=loss
        )
        return NestedState(x=x, y=y, v=info.v, optimizer=optimizer_state, start=state.start), metrics

    cost = Cost(gradients=1).plus(response.cost)
    return Algorithm(init=init, step=step, draws=Draws(1, draws), cost=cost, name=name)


def single_loop(
    problem: Problem, oracle: Oracle, estimator: Estimator, optimizers: Point, *, name: str = "single_loop"
) -> Algorithm:
    """Return a single loop: x, y and v move at once, each against its own direction.

        d = estimator(oracle at (x, y, v));   x <- x - optimizers.x(d.x), likewise for y and v

    With projections, the steps of x and y end with them. The adjoint v is not projected.

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
        third = problem.inner_projection if oracle.third_is_inner else None
        projections = Point(problem.outer_projection, problem.inner_projection, third)
        values = Point(metrics["outer_loss"], metrics["inner_loss"], None)
        moves = (
            move(mover, d, old, variable, projection, value=value)
            for mover, d, old, variable, projection, value in zip(
                movers, direction, state.optimizer, point, projections, values, strict=True
            )
        )
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


def move_outer(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    gradient: PyTree,
    state: Any,
    x: PyTree,
    metrics: dict[str, Any],
) -> tuple[PyTree, Any]:
    """Make one step of the outer optimiser and project; return the new x and the new state.

    Args:
      problem: the two losses and the outer projection.
      optimizer, gradient, state, x: as in `move`.
      metrics: from `measures`; optimisers that read the value of the loss get its `outer_loss`.
    """
    value = metrics["outer_loss"]
    return move(optimizer, gradient, state, x, problem.outer_projection, value=value)
