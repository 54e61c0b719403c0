"""Several algorithms on one task under one budget."""

import math
from typing import Any, NamedTuple, get_args

import jax
import numpy as np

from bilevel import algorithms
from bilevel.algorithms import about, hyperparameters
from bilevel.driver import initial_state, run
from bilevel.environment import environment
from bilevel.tasks.types import Task
from bilevel.types import Algorithm, require

__all__ = ["Budget", "build", "compare"]

LOG_POINTS = 50
# One or two of each family: as many lines as a figure can hold.
USUAL = ("soba", "saba", "fsla", "mrbo", "nsbo", "stocbio", "aid_bio", "itd_bio")


class Budget(NamedTuple):
    """What every algorithm may spend; the one that is not None counts.

    Attributes:
      steps: outer steps.
      seconds: of running, without compiling and measuring.
      oracle_calls: gradients, Hessian and cross products together, each on one minibatch.
    """

    steps: int | None = None
    seconds: float | None = None
    oracle_calls: int | None = None


def compare(
    task: Task,
    names: list[str],
    budget: Budget,
    *,
    seeds: int = 1,
    batch_size: int | None = None,
    inner_step: float | None = None,
    outer_step: float | None = None,
    settings: dict[str, dict[str, Any]] | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """One record a run, of several algorithms on one task under one budget.

    All seeds of an algorithm run at once, by `vmap`; a seed chooses the start, the order of the
    minibatches and the random directions, not the data. The clock of a record is that of all its
    seeds together.

    Args:
      task: from `bilevel.tasks`.
      names: of algorithms.
      budget: exactly one of its three limits.
      seeds: how many.
      batch_size: rows of a minibatch, 0 for full data, None for what suits the task.
      inner_step, outer_step: step sizes for all algorithms, None for those of the task.
      settings: further hyper-parameters by algorithm, `{"stocbio": {"terms": 20}}`.
      progress: show a bar for each algorithm.

    Returns:
      Records for `results.json`, each a dict of task, dataset, algorithm, seed, hyperparameters,
      history, final, compile_seconds, diverged and environment.

    Raises:
      ValueError: when the budget is not one positive limit or a setting is not known.
    """
    limits = [limit for limit in budget if limit is not None]
    if len(limits) != 1 or limits[0] <= 0:
        told = ", ".join(f"{name}={limit}" for name, limit in budget._asdict().items() if limit is not None)
        raise ValueError(f"give exactly one positive budget of steps, seconds or oracle calls, got {told}")
    require(seeds >= 1, "seeds must be at least 1", seeds)
    require(len(set(names)) == len(names), "each algorithm may be named once", ",".join(names))
    steps = {
        "inner_optimizer": task.inner_step if inner_step is None else inner_step,
        "outer_optimizer": task.outer_step if outer_step is None else outer_step,
    }
    size = task.batch_size if batch_size is None else batch_size
    data = task.data(size or None)
    records = []
    for name in names:
        algorithm, hyperparameters = build(name, task, steps | (settings or {}).get(name, {}))
        hyperparameters["batch_size"] = size or "full"
        records += _runs(task, algorithm, data, budget, seeds, hyperparameters, progress)
    return records


def build(name: str, task: Task, settings: dict[str, Any]) -> tuple[Algorithm, dict[str, Any]]:
    """A named algorithm for a task, and all its hyper-parameters, defaults included.

    Args:
      name: of the algorithm.
      task: what it is for.
      settings: hyper-parameters that the user chose.

    Raises:
      ValueError: when the algorithm has no such hyper-parameter, or learns a start (few-shot).
    """
    factory = getattr(algorithms, name)
    if about(factory).learns_start:
        raise ValueError(
            f"{name} learns where the training of many small tasks starts, and {task.name} is one task; "
            "choose another algorithm"
        )
    parameters = hyperparameters(factory)
    known = {key: parameter.default for key, parameter in parameters.items()}
    for key, value in settings.items():
        if key not in known:
            raise ValueError(f"{name} has no hyper-parameter {key!r}; it has {', '.join(known)}")
        kind = _kind(parameters[key])
        unset = value is None and type(None) in get_args(parameters[key].annotation)
        if not (unset or type(value) is kind or kind is float and type(value) is int):
            raise ValueError(f"{name}.{key} must be {kind.__name__ if kind else 'left alone'}, got {value!r}")
    chosen = _facts(task, about(factory).problem_facts) | settings
    return factory(task.problem, **chosen), known | chosen


def _facts(task: Task, wanted) -> dict[str, Any]:
    """Return the facts about the task's problem that are wanted and known."""
    y = jax.eval_shape(task.start, jax.random.key(0))[1]
    facts = {
        "inner_condition": task.inner_condition,
        "outer_condition": task.outer_condition,
        "inner_size": sum(leaf.size for leaf in jax.tree.leaves(y)),
    }
    return {name: facts[name] for name in wanted if facts[name] is not None}


def _kind(parameter):
    """The type of a hyper-parameter that can be written as text, None if it is no such type."""
    if parameter.default is not None:
        kind = type(parameter.default)
        return kind if kind in (bool, int, float, str) else None
    optional = get_args(parameter.annotation)
    return float if float in optional or parameter.annotation is parameter.empty else None


def _runs(task, algorithm, data, budget, seeds, hyperparameters, progress):
    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    x, y = jax.vmap(task.start)(keys)
    state = jax.vmap(lambda x, y: initial_state(algorithm, x, y, data))(x, y)
    # The start and the run use different randomness.
    keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)

    def go(steps, log_every, callback=None):
        return run(
            algorithm,
            x,
            y,
            data,
            steps=steps,
            key=keys,
            state=state,
            log_every=log_every,
            callback=callback,
            progress=progress,
            allow_divergence=True,
        )

    measured = []
    measure = jax.jit(jax.vmap(task.metrics, in_axes=(0, 0, None)))

    def callback(step, state, metrics):
        measured.append(jax.device_get(measure(state.x, state.y, task.held)))
        lost = not any(np.isfinite(value).any() for value in measured[-1].values())
        return lost or (budget.seconds is not None and metrics["seconds"] >= budget.seconds)

    result = go(*_schedule(algorithm, budget, go), callback)
    history = {name: result.history[name] for name in ("step", "seconds", "outer_loss", "inner_residual")}
    history |= {name: np.array([entry[name] for entry in measured]) for name in measured[0]}
    return [
        _record(task, algorithm, hyperparameters, seed, _of_seed(history, seed), result.compile_seconds)
        for seed in range(seeds)
    ]


def _schedule(algorithm, budget, go):
    """Number of steps, and of steps between log points."""
    if budget.seconds is not None:
        # A first run of a few steps tells how many fit; the budget itself ends the real one.
        probe = go(20, 10).history["seconds"]
        per_step = max((probe[-1] - probe[-2]) / 10, 1e-6)
        return 10**9, max(1, int(budget.seconds / LOG_POINTS / per_step))
    steps = budget.steps
    if budget.oracle_calls is not None:
        steps = budget.oracle_calls // algorithm.cost.total
        if steps < 1:
            raise ValueError(
                f"{algorithm.name} needs {algorithm.cost.total} oracle calls a step, "
                f"but the budget is {budget.oracle_calls}; raise it"
            )
    return steps, math.ceil(steps / LOG_POINTS)


def _of_seed(history, seed):
    """The history of one seed: what has a second axis has one entry a seed."""
    return {name: value[:, seed] if value.ndim > 1 else value for name, value in history.items()}


def _record(task, algorithm, hyperparameters, seed, history, compile_seconds):
    step = history["step"]
    finite = np.all([np.isfinite(values) for values in history.values()], axis=0)
    diverged = None
    if not finite.all():
        end = int(np.argmin(finite))
        broken = next(name for name, values in history.items() if not np.isfinite(values[end]))
        diverged = f"{broken} is not finite at step {step[end]}; lower the step sizes"
        history, step = {name: values[:end] for name, values in history.items()}, step[:end]
    counts = {kind: (step * count).tolist() for kind, count in algorithm.cost._asdict().items()}
    history = {name: values.tolist() for name, values in history.items()}
    history = {name: history.pop(name) for name in ("step", "seconds")} | counts | history
    return {
        "task": task.name,
        "dataset": task.dataset,
        "algorithm": algorithm.name,
        "seed": seed,
        "hyperparameters": {name: _plain(value) for name, value in hyperparameters.items()},
        "history": history,
        "final": {name: values[-1] for name, values in history.items() if values},
        "compile_seconds": compile_seconds,
        "diverged": diverged,
        "environment": environment(),
    }


def _plain(value):
    if isinstance(value, str | int | float | bool | None):
        return value
    # The text of a function holds an address, another one in every run.
    return getattr(value, "__name__", str(value))
