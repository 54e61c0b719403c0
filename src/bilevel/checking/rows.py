"""Responses under check: what they give at one point, and what that costs."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from bilevel.checking.flat import vector
from bilevel.checking.reference import Reference
from bilevel.hypergradient import undiagnosed
from bilevel.response import Response
from bilevel.types import Batch, Problem, PyTree


class Row(NamedTuple):
    """One response, compared with the reference.

    Attributes:
      response: its name.
      relative_error: |h - r| / |r| of its hypergradient h and the reference r. Where the two terms of r
        cancel, their thousandth replaces |r|.
      cosine: cosine of the angle between h and r, None where one is zero.
      inner_residual: |g_y| at its y, or the length of the projected gradient with an inner set.
      linear_residual: |f_y - H v| / |f_y| as the response reports it; None without a linear solve.
      seconds: time of one compiled hypergradient, the fastest of several calls.
      bytes: memory of the compiled program besides its arguments, or None where JAX does not tell.
      oracle_calls: gradients, Hessian and cross products of one hypergradient.
    """

    response: str
    relative_error: float
    cosine: float | None
    inner_residual: float
    linear_residual: float | None
    seconds: float
    bytes: int | None
    oracle_calls: int


class Answer(NamedTuple):
    """The hypergradient of a response, with its y, linear residual and cost.

    Attributes:
      gradient, y: flat float64 vectors.
      linear_residual: as reported.
      seconds, bytes: see `Row`.
      again: `(y0, batch) -> Answer` without a measurement, by the same program.
    """

    gradient: np.ndarray
    y: np.ndarray
    linear_residual: float
    seconds: float
    bytes: int | None
    again: Callable[[PyTree, Batch], "Answer"]


def ask(
    name: str, response: Response, problem: Problem, x: PyTree, y: PyTree, batch: Batch, key: Any
) -> Answer:
    """Compile the hypergradient of a response, run it and time it.

    Raises:
      ValueError: if the response fails, with its name.
    """

    def evaluate(x, y, batch, key):
        gradient, y, info = undiagnosed(problem, response, x, y, batch, key)
        return gradient, y, info.linear_residual

    try:
        program = jax.jit(evaluate).lower(x, y, batch, key).compile()
    except Exception as error:
        raise ValueError(f"the response {name!r} failed: {type(error).__name__}: {error}") from error

    def run(y, batch, seconds=0.0):
        gradient, trained, residual = program(x, y, batch, key)
        return Answer(vector(gradient), vector(trained), float(residual), seconds, None, run)

    times = []
    # Other programs only lengthen a call, so the fastest one is the best estimate.
    while len(times) < 3 or (len(times) < 30 and sum(times) < 0.1):
        begin = time.perf_counter()
        jax.block_until_ready(program(x, y, batch, key))
        times.append(time.perf_counter() - begin)
    memory = program.memory_analysis()
    size = None if memory is None else int(memory.temp_size_in_bytes + memory.output_size_in_bytes)
    return run(y, batch, min(times))._replace(bytes=size)


def compared(name: str, response: Response, answer: Answer, reference: Reference, residual: float) -> Row:
    """Return the row of an answer.

    Args:
      name: name of the response.
      response: the response, for its cost.
      answer: from `ask`.
      reference: the reference.
      residual: inner residual at the answer's y.
    """
    return Row(
        response=name,
        relative_error=relative_error(answer.gradient, reference),
        cosine=cosine(answer.gradient, reference.gradient),
        inner_residual=residual,
        linear_residual=None
        if response.watched is None and not answer.linear_residual
        else answer.linear_residual,
        seconds=answer.seconds,
        bytes=answer.bytes,
        oracle_calls=response.cost.total,
    )


def relative_error(got: np.ndarray, reference: Reference) -> float:
    """Return the distance from the reference hypergradient, relative to its scale."""
    return float(np.linalg.norm(got - reference.gradient)) / reference.scale


def cosine(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the cosine of the angle between two vectors, None if one is zero or not finite."""
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 and np.isfinite(lengths) else None
