"""Basic types: problem, algorithm, batch, cost, point, result and errors."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import optax
from jax.core import Tracer

from bilevel.whole_models import Opening, OpeningMap

PyTree = Any
Schedule = Callable[[Any], Any]
"""A function from the number of the step, a traced integer, to a number."""
Optimizer = float | Schedule | optax.GradientTransformation
"""An optax optimiser, or a step size of gradient descent (a number or a schedule)."""


def require(holds: Any, rule: str, value: Any) -> None:
    """Raise `ValueError` with rule and value unless `holds`; traced values pass."""
    if not isinstance(holds, Tracer) and not holds:
        raise ValueError(f"{rule}, got {value}")


@dataclass(frozen=True)
class Problem:
    """Two losses `(x, y, batch) -> scalar`, and the feasible sets of their variables.

        min over x in X of f(x, y*(x)),   y*(x) = argmin over y in Y of g(x, y)

    Every algorithm projects x and y after their moves, and its metrics are norms of projected gradients.
    A variable is a pytree of floating-point arrays. It may also hold functions, booleans and texts, as an
    Equinox module does; they stay fixed, and so do its Python numbers.

    Attributes:
      outer, inner: f and g; x is the outer, y the inner variable.
      outer_projection: the projection `x -> x` onto X, for example
        `lambda x: optax.projections.projection_box(x, 0, 1)`; None if every x is feasible.
      inner_projection: the projection `y -> y` onto Y, a convex set; None if every y is feasible. It must be
        differentiable by JAX almost everywhere.

    >>> import jax.numpy as jnp
    >>> def f(x, y, batch):
    ...     return (y - 3) ** 2 + x**2
    >>> def g(x, y, batch):
    ...     return (y - x) ** 2
    >>> problem = Problem(f, g, inner_projection=lambda y: jnp.clip(y, 0, 1))
    """

    outer: Callable[[PyTree, PyTree, Any], Any]
    inner: Callable[[PyTree, PyTree, Any], Any]
    _: KW_ONLY
    outer_projection: Callable[[PyTree], PyTree] | None = None
    inner_projection: Callable[[PyTree], PyTree] | None = None

    def __post_init__(self):
        kinds = {"outer": Opening, "inner": Opening}
        kinds |= {"outer_projection": OpeningMap, "inner_projection": OpeningMap}
        for name, kind in kinds.items():
            function = getattr(self, name)
            if function is not None and not isinstance(function, kind):
                object.__setattr__(self, name, kind(function))


class Draws(NamedTuple):
    """Numbers of independent minibatches that one step reads at each level.

    Attributes:
      outer, inner: the two numbers.
      fixed: whether every epoch must have the same minibatches, in another order. Methods that keep a table
        with an entry for each minibatch need this.
    """

    outer: int
    inner: int
    fixed: bool = False


class Cost(NamedTuple):
    """Oracle calls of one step, each on one minibatch.

    A gradient of either loss counts once, even if both of its parts are used. One pass that returns both
    H w and J w counts as one Hessian product and one cross product.
    """

    gradients: int = 0
    hessian_products: int = 0
    cross_products: int = 0

    @property
    def total(self) -> int:
        """Sum of the three counts."""
        return sum(self)

    def plus(self, other: "Cost") -> "Cost":
        """Return the entry-wise sum."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def times(self, count: int) -> "Cost":
        """Return every count multiplied by a number of calls."""
        return Cost(*(count * a for a in self))


class Batch(NamedTuple):
    """Two sources of minibatches: `batch.inner[i]` is the i-th independent one.

    Attributes:
      outer, inner: a `Source` each.
    """

    outer: Any
    inner: Any

    def whole(self) -> "Batch":
        """Return the batch whose every minibatch is the whole set; reading it copies."""
        return Batch(self.outer.whole(), self.inner.whole())


class Algorithm(NamedTuple):
    """A pair of pure functions, with the minibatches and oracle calls of one step.

    Attributes:
      init: `(x, y) -> state`, a NamedTuple with at least `.x` and `.y`. With `draws.fixed` it is
        `(x, y, blocks) -> state`, where `blocks` are the numbers of outer and inner minibatches in an
        epoch, see `initial_state`.
      step: `(state, batch, key) -> (state, metrics)`; metrics is a flat dict of scalars.
      draws: minibatches that one step reads at each level.
      cost: oracle calls of one step.
      name: name in errors and reports.
      seeds_in_sequence: whether some steps cost more than others, by `lax.cond`. Several seeds then run
        one after the other, since `vmap` would compute every branch at every step.
    """

    init: Callable[..., Any]
    step: Callable[[Any, Batch, Any], tuple[Any, dict[str, Any]]]
    draws: Draws
    cost: Cost
    name: str = "algorithm"
    seeds_in_sequence: bool = False


class Point(NamedTuple):
    """Values of the variables of a single-loop method: outer, inner, adjoint."""

    x: PyTree
    y: PyTree
    v: PyTree


class Result(NamedTuple):
    """Result of `run`.

    Attributes:
      state: the last state of the algorithm, `.x` and `.y` among its fields.
      history: a dict of arrays with one entry for each log point: `step`, `seconds` and every metric,
        measured at the state after that many steps (entry 0 is the start). Double loops measure with the y
        that the next step trains.
      compile_seconds: time spent compiling, not part of `history["seconds"]`.
      certificate: the last `Certificate` of a run with `certify`, or None.
      solved: None without `certify`; otherwise whether the run did not diverge, the errors that the inner and
        the linear residual make were small at the last certificate, and its gradient norm was at most the
        tolerance, if one was given. Without a tolerance it does not say that the run has converged.
      diverged: the last `DivergedError` of a run that ended or went on after it (`on_divergence="restore"` or
        `"halve"`), or None.
    """

    state: Any
    history: dict[str, Any]
    compile_seconds: float
    certificate: Any = None
    solved: bool | None = None
    diverged: "DivergedError | None" = None


def no_minibatches(batch_size: int) -> Batch:
    """Raise `ValueError`: the task has whole data only."""
    raise ValueError(
        f"a task without minibatches has whole data only, got the batch size {batch_size}; use None (0 in "
        "`bilevel compare`), or give the task its `minibatches`"
    )


def no_start(key: Any) -> tuple[PyTree, PyTree]:
    """Raise `ValueError`: the task has one start only."""
    raise ValueError("this task has no random start; use its x and y, or give it a `start`")


def no_metrics(x: PyTree, y: PyTree, held: Any) -> dict[str, Any]:
    """Return no metrics."""
    return {}


class Task(NamedTuple):
    """A problem with its data and a start.

    `bilevel check` reads the first four fields and the inner step; `bilevel compare` needs the others too.

    Attributes:
      problem: the two losses.
      data: the whole data, from `full`, or from `minibatches` if there is no other form.
      x, y: a start of the outer and of the inner variable.
      name: name of the task.
      dataset: name of its data.
      minibatches: `batch_size -> Batch`, the same data by minibatch.
      batch_size: default batch size, None for the whole data.
      start: `key -> (x, y)`, a random start.
      metrics: `(x, y, held) -> dict` of scalars; the measurements of the task.
      held: arrays that only `metrics` reads.
      inner_step, outer_step: step sizes that suit the curvature of the task, or None when they are not
        known.
      inner_condition, outer_condition: condition numbers of g in y and of f(x, y*(x)), or None when
        they are not known. Accelerated algorithms compute their momentum from them.
    """

    problem: Problem
    data: Batch
    x: PyTree
    y: PyTree
    name: str = "task"
    dataset: str = ""
    minibatches: Callable[[int], Batch] = no_minibatches
    batch_size: int | None = None
    start: Callable[[Any], tuple[PyTree, PyTree]] = no_start
    metrics: Callable[[PyTree, PyTree, Any], dict[str, Any]] = no_metrics
    held: Any = None
    inner_step: Any = None
    outer_step: Any = None
    inner_condition: float | None = None
    outer_condition: float | None = None


class DivergedError(ArithmeticError):
    """Error of a run whose numbers are no longer finite.

    Attributes:
      algorithm: name of the algorithm.
      step: number of steps after which the state, or a metric at it, was first not finite.
      metric: the first metric or leaf of the state that was not finite then.
      before: the last finite state, after `step - 1` steps.
      steps: the log points `(first, last)` between which it happened.
      state: the state at the log point `steps[0]`, where state and metrics are finite.
      history: the log points up to there, as in `Result`.
      fault, remedy: the two parts of the message that do not speak of the other attributes.
    """

    def __init__(
        self,
        message: str,
        *,
        fault: str,
        remedy: str,
        algorithm: str,
        step: int,
        metric: str,
        before: Any,
        steps: tuple[int, int],
        state: Any,
        history: Any,
    ):
        self.algorithm, self.step, self.metric, self.before = algorithm, step, metric, before
        self.steps, self.state, self.history = steps, state, history
        self.fault, self.remedy = fault, remedy
        super().__init__(message)
