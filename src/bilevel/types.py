"""The words of the library: problem, algorithm, batch, cost, point, result, errors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from jax.core import Tracer

PyTree = Any
Optimizer = float | optax.Schedule | optax.GradientTransformation
"""An optax optimiser; a number or a schedule means gradient descent with that step size."""


def require(holds: Any, rule: str, value: Any) -> None:
    """Raise `ValueError` with the rule and the value unless it holds; traced values pass."""
    if not isinstance(holds, Tracer) and not holds:
        raise ValueError(f"{rule}, got {value}")


class Problem(NamedTuple):
    """Two losses `(x, y, batch) -> scalar`: x is the outer, y the inner variable."""

    outer: Callable[[PyTree, PyTree, Any], Any]
    inner: Callable[[PyTree, PyTree, Any], Any]


class Draws(NamedTuple):
    """How many independent minibatches one step consumes at each level.

    Attributes:
      outer, inner: the two numbers.
      fixed: whether every epoch must have the same minibatches, in another order, as methods need
        that keep a table with an entry for each.
    """

    outer: int
    inner: int
    fixed: bool = False


class Cost(NamedTuple):
    """Oracle calls of one step, each on one minibatch.

    A gradient of either loss counts once, whichever of its two parts are used; one pass that
    returns both H w and J w counts as one Hessian product and one cross product.
    """

    gradients: int = 0
    hessian_products: int = 0
    cross_products: int = 0

    @property
    def total(self) -> int:
        """Sum of the three counts."""
        return sum(self)

    def plus(self, other: "Cost") -> "Cost":
        """Entry-wise sum."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, count: int) -> "Cost":
        """Entry-wise product with a number of calls."""
        return Cost(*(count * a for a in self))


class Batch(NamedTuple):
    """Two sources of minibatches: `batch.inner[i]` is the i-th independent one."""

    outer: Any
    inner: Any

    def whole(self) -> "Batch":
        """Both sources with the whole set as every minibatch (a copy is made where it is read)."""
        return Batch(self.outer.whole(), self.inner.whole())


class Algorithm(NamedTuple):
    """A pair of pure functions and what one step consumes.

    Attributes:
      init: `(x, y) -> state`, a NamedTuple with at least `.x` and `.y`. With `draws.fixed` it is
        `(x, y, blocks) -> state`, where `blocks` are the numbers of outer and inner minibatches in an
        epoch, see `initial_state`.
      step: `(state, batch, key) -> (state, metrics)`; metrics is a flat dict of scalars.
      draws: minibatches that one step reads at each level.
      cost: oracle calls of one step.
      name: what errors and reports call it.
      seeds_in_sequence: whether some steps cost more than others, by `lax.cond`; several seeds are then run
        one after the other, since `vmap` would compute every branch at every step.
    """

    init: Callable[..., Any]
    step: Callable[[Any, Batch, Any], tuple[Any, dict[str, Any]]]
    draws: Draws
    cost: Cost
    name: str = "algorithm"
    seeds_in_sequence: bool = False


class Point(NamedTuple):
    """A value for each variable of a single-loop method: outer, inner, adjoint."""

    x: PyTree
    y: PyTree
    v: PyTree


class Result(NamedTuple):
    """What `run` returns.

    Attributes:
      state: the last state of the algorithm, `.x` and `.y` among its fields.
      history: a dict of arrays, one entry a log point: `step`, `seconds` and every metric, taken
        at the state after that many steps (entry 0 is the start). Double loops measure with the y
        that the next step trains.
      compile_seconds: time spent compiling, not part of `history["seconds"]`.
    """

    state: Any
    history: dict[str, Any]
    compile_seconds: float


class DivergedError(ArithmeticError):
    """A run left the finite numbers.

    Attributes:
      state: the last finite state.
      steps: the window `(first, last)` of steps in which it happened.
      metric: the first quantity that was not finite.
    """

    def __init__(self, algorithm: str, steps: tuple[int, int], metric: str, state: Any, history: Any = None):
        self.algorithm, self.steps, self.metric, self.state = algorithm, steps, metric, state
        self.history = history
        super().__init__(
            f"{algorithm} diverged between steps {steps[0]} and {steps[1]}: {metric} is not finite; "
            "lower the step sizes, or restart from the last finite state (`error.state`)"
        )
