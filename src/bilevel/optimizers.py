"""Optax optimisers: conversion, one move of a variable, and schedules of step sizes."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from bilevel.types import Optimizer, PyTree, Schedule

Projection = Callable[[PyTree], PyTree]
MISSING = (
    "required keyword-only argument"  # in Python's error of a call without `value`, `grad` or `value_fn`
)


def as_optimizer(optimizer: Optimizer) -> optax.GradientTransformation:
    """Return an optax optimiser; a number or a schedule means gradient descent."""
    if isinstance(optimizer, optax.MultiSteps):
        return optimizer.gradient_transformation()
    if isinstance(optimizer, optax.GradientTransformation):
        return optimizer
    return optax.sgd(optimizer)


def step_size_of(optimizer: Optimizer, rule: str) -> float:
    """Return the step size of gradient descent.

    Raises:
      ValueError: with the rule, if the optimiser is not a constant step size.
    """
    if callable(optimizer) or isinstance(optimizer, optax.GradientTransformation | optax.MultiSteps):
        raise ValueError(rule)
    return optimizer


def as_rate(rate: float | None, optimizer: Optimizer) -> float:
    """Return the rate of a Neumann series; default: the inner step size.

    Raises:
      ValueError: when neither is a number.
    """
    rule = "rate must be given (at most 1 / L) when inner_optimizer is not a step size"
    return step_size_of(optimizer, rule) if rate is None else rate


def move(
    optimizer: optax.GradientTransformation,
    gradient: PyTree,
    state: Any,
    variable: PyTree,
    project: Projection | None = None,
    *,
    value: Any = None,
    loss: Callable[[PyTree], Any] | None = None,
) -> tuple[PyTree, Any]:
    """Make one step of an optax optimiser; return the new variable and the new state.

        variable <- project(variable - optimizer(gradient))

    Args:
      optimizer: an optax optimiser.
      gradient: the direction to move against, a pytree like `variable`.
      state: state of the optimiser, from `optimizer.init(variable)` or the last step.
      variable: the value before the step.
      project: projection onto the feasible set; None if every value is feasible.
      value: value of the loss at `variable`, for optimisers that read it, such as `optax.polyak_sgd` or
        `optax.contrib.reduce_on_plateau`; default: `loss(variable)`.
      loss: the function whose gradient is `gradient`, for optimisers that search along a line, such as
        `optax.lbfgs`.

    Raises:
      ValueError: if the optimiser needs the value of a loss and none is known.
    """
    updates, state = _updates(optimizer, gradient, state, variable, value, loss)
    variable = optax.apply_updates(variable, updates)
    return variable if project is None else project(variable), state


def _updates(optimizer, gradient, state, variable, value, loss):
    try:
        return optimizer.update(gradient, state, variable)
    except TypeError as error:
        # Optax has no other sign of an optimiser that needs the loss.
        needed = str(error)
        if MISSING not in needed:
            raise
    if loss is None and value is None:
        raise ValueError(
            f"this optimiser needs the value of a loss ({needed}), which is not known here; use a step size "
            "or another optimiser (for an adjoint: `adjoint_optimizer` or `linear_solver`)"
        )
    extra: dict = {"value": loss(variable) if value is None and loss is not None else value}
    if loss is not None:
        extra |= {"grad": gradient, "value_fn": loss}
    try:
        return optax.with_extra_args_support(optimizer).update(gradient, state, variable, **extra)
    except TypeError as error:
        if loss is not None or MISSING not in str(error):
            raise
        raise ValueError(
            f"this optimiser searches along a line ({error}), and the algorithm knows the gradient of this "
            "variable only; use `optax.lbfgs(linesearch=None)` or an optimiser without a line search"
        ) from None


def decayed(optimizer: Optimizer, factor: Schedule) -> optax.GradientTransformation:
    """Return an optax optimiser that receives `factor(step)` times the direction.

    An optimiser that is invariant to the scale of its gradient (Adam) does not decay.

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
