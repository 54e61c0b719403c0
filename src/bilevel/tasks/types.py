"""The record of a ready-made problem."""

from collections.abc import Callable
from typing import Any, NamedTuple

from bilevel.types import Batch, Problem, PyTree


class Task(NamedTuple):
    """A problem with its data, a start, and suitable step sizes.

    Attributes:
      name: name of the task.
      dataset: name of its data.
      problem: the two losses.
      data: `batch_size -> Batch`; the batch size None means full data.
      batch_size: default batch size, None for full data.
      start: `key -> (x, y)`.
      metrics: `(x, y, held) -> dict` of scalars; the measurements of the task.
      held: arrays that only `metrics` reads.
      inner_step, outer_step: step sizes that suit the curvature of the task.
      inner_condition, outer_condition: condition numbers of g in y and of f(x, y*(x)), or None when
        they are not known. Accelerated algorithms compute their momentum from them.
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
