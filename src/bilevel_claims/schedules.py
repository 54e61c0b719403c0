"""Step sizes that follow x or the number of steps, for any algorithm."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bilevel.optimizers import power
from bilevel.types import Algorithm, PyTree


class ScheduledState(NamedTuple):
    """State of an algorithm whose step sizes change.

    Attributes:
      x, y: outer and inner variable.
      state: state of the algorithm.
      count: number of steps made.
    """

    x: PyTree
    y: PyTree
    state: Any
    count: jax.Array


def scheduled(build: Callable[..., Algorithm], rates: Callable[[Any, Any], Mapping[str, Any]]) -> Algorithm:
    """Return the algorithm `build(**rates(x, count))`, built anew at every step.

    An optax schedule does not see x, and a double loop restarts its count in every outer step.

    Args:
      build: `(**rates) -> Algorithm`; the rates arrive traced.
      rates: `(x, count) -> dict` of step sizes, jax code.
    """

    def init(x, y):
        count = jnp.zeros((), jnp.int32)
        state = build(**rates(x, count)).init(x, y)
        return ScheduledState(state.x, state.y, state, count)

    def step(state, batch, key):
        algorithm = build(**rates(state.x, state.count))
        new, metrics = algorithm.step(state.state, batch, key)
        return ScheduledState(new.x, new.y, new, state.count + 1), metrics

    example = build(**rates(jnp.zeros(()), 0))
    return example._replace(init=init, step=step)


def falling(build: Callable[..., Algorithm], **rates: Any) -> Algorithm:
    """Return the algorithm with all `rates` divided by sqrt(step + 1)."""
    return scheduled(build, lambda x, count: {name: power(0.5)(count) * rates[name] for name in rates})


def by_ratio(build: Callable[..., Algorithm]) -> Callable[..., Algorithm]:
    """Return `(inner, ratio) -> Algorithm`, with the outer step `inner / ratio`."""
    return lambda inner, ratio: build(inner_optimizer=inner, outer_optimizer=inner / ratio)
