"""What a ready-made problem provides."""

from collections.abc import Callable
from typing import Any, NamedTuple

from bilevel.types import Batch, Problem, PyTree


class Task(NamedTuple):
    """A problem with its data, a start, and step sizes that fit it.

    Attributes:
      name: of the task.
      dataset: of its data.
      problem: the two losses.
      data: `batch_size -> Batch`; None means full data.
      batch_size: that suits the data, None for full.
      start: `key -> (x, y)`.
      metrics: `(x, y, held) -> dict` of scalars, what the task itself measures.
      held: arrays that only `metrics` reads.
      inner_step, outer_step: step sizes that fit the task's curvature.
      inner_condition, outer_condition: condition numbers of g in y and of f(x, y*(x)), where they are
        known; accelerated algorithms take their momentum from them.
    """

    name: str
    dataset: str
    problem: Problem
    data: Callable[[int | None], Batch]
    batch_size: int | None
    start: Callable[[Any], tuple[PyTree, PyTree]]
    metrics: Callable[[PyTree, PyTree, Any], dict[str, Any]]
    held: Any
    inner_step: float
    outer_step: float
    inner_condition: float | None = None
    outer_condition: float | None = None
