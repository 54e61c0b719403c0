"""Comparison of several algorithms on one task under one budget."""

import inspect
import math
from typing import Any, NamedTuple, get_args

import jax
import numpy as np

from bilevel import algorithms
from bilevel.driver import initial_state, run
from bilevel.environment import environment
from bilevel.keys import key_for
from bilevel.types import Algorithm, Task, require

__all__ = ["Budget", "build", "compare"]

LOG_POINTS = 50
# One or two algorithms of each family; a figure cannot show more curves.
USUAL = ("soba", "saba", "fsla", "mrbo", "nsbo", "stocbio", "aid_bio", "itd_bio")


class Budget(NamedTuple):
    """Budget of every algorithm: exactly one of the three is not None.

    Attributes:
      steps: outer steps.
      seconds: running time, without compilation and measurements.
      oracle_calls: gradients, Hessian products and cross products together, each on one minibatch.
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
    """Run several algorithms on one task under one budget, and record each run.

    All seeds of an algorithm run at once, by `vmap`. A seed determines the start, the order of the
    minibatches and the random directions, but not the data. A record contains the seconds of all
    seeds of its algorithm together.

    Args:
      task: a task of `bilevel.tasks`.
      names: names of the algorithms.
      budget: one limit for every algorithm.
      seeds: number of runs of each algorithm.
      batch_size: rows of a minibatch; 0 means full data; default: the batch size of the task.
      inner_step, outer_step: step sizes of all algorithms; default: the step sizes of the task.
      settings: further hyper-parameters by algorithm, for example `{"stocbio": {"terms": 20}}`.
      progress: whether to show a progress bar for each algorithm.

    Returns:
      Records for `results.json`, each a dict of task, dataset, algorithm, seed, hyperparameters,
      history, final, compile_seconds, diverged and environment. The history of a diverged run ends before
      the first value that is not finite, and the final values of all measured quantities are infinite.

    Raises:
      ValueError: when the budget is not one positive limit, or an algorithm or a hyper-parameter does
        not suit the task.
    """
    limits = {name: limit for name, limit in budget._asdict().items() if limit is not None}
    if len(limits) != 1 or min(limits.values()) <= 0:
        given = ", ".join(f"{name}={limit}" for name, limit in limits.items()) or "none"
        raise ValueError(f"give exactly one positive budget of steps, seconds or oracle calls, got {given}")
    require(seeds >= 1, "seeds must be at least 1", seeds)
    require(len(set(names)) == len(names), "each algorithm must be named only once", ",".join(names))
    steps = {
        "inner_optimizer": task.inner_step if inner_step is None else inner_step,
        "outer_optimizer": task.outer_step if outer_step is None else outer_step,
    }
    size = task.batch_size if batch_size is None else batch_size
    data = task.minibatches(size) if size else task.data
    records = []
    for name in names:
        algorithm, chosen = build(name, task, steps | (settings or {}).get(name, {}))
        chosen["batch_size"] = size or "full"
        records += _run_seeds(task, algorithm, data, budget, seeds, chosen, progress)
    return records


def build(name: str, task: Task, settings: dict[str, Any]) -> tuple[Algorithm, dict[str, Any]]:
    """Return a named algorithm for a task, and all its hyper-parameters by name.

    Args:
      name: name of the algorithm.
      task: the task.
      settings: hyper-parameters that the user chose; the task and the defaults supply the others.

    Raises:
      ValueError: when the algorithm has no such hyper-parameter, a value has another type, or the
        algorithm learns a starting point for many tasks.
    """
    factory = getattr(algorithms, name)
    about = algorithms.about(factory)
    if about.learns_start:
        raise ValueError(
            f"{name} learns a starting point for many tasks, and {task.name} is one task; "
            "choose another algorithm"
        )
    parameters = algorithms.hyperparameters(factory)
    for key, value in settings.items():
        if key not in parameters:
            raise ValueError(f"{name} has no hyper-parameter {key!r}; it has {', '.join(parameters)}")
        _require_type(f"{name}.{key}", value, parameters[key])
    chosen = _problem_facts(task, about.problem_facts) | settings
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    return factory(task.problem, **chosen), defaults | chosen


def _require_type(where: str, value: Any, parameter: inspect.Parameter) -> None:
    kind = _written_type(parameter)
    if value is None and type(None) in get_args(parameter.annotation):
        return
    if kind is None:
        raise ValueError(f"{where} cannot be set in a comparison, got {value!r}; leave it out")
    if not (type(value) is kind or kind is float and type(value) is int):
        raise ValueError(f"{where} must be {kind.__name__}, got {value!r}")


def _written_type(parameter):
    """Return the type of a hyper-parameter that can be written as text, or None."""
    if parameter.default is not None:
        kind = type(parameter.default)
        return kind if kind in (bool, int, float, str) else None
    optional = get_args(parameter.annotation)
    return float if float in optional or parameter.annotation is parameter.empty else None


def _problem_facts(task: Task, wanted) -> dict[str, Any]:
    """Return the facts about the task's problem that are wanted and known."""
    y = jax.eval_shape(task.start, jax.random.key(0))[1]
    facts = {
        "inner_condition": task.inner_condition,
        "outer_condition": task.outer_condition,
        "inner_size": sum(leaf.size for leaf in jax.tree.leaves(y)),
    }
    return {name: facts[name] for name in wanted if facts[name] is not None}


def _run_seeds(task, algorithm, data, budget, seeds, hyperparameters, progress):
    """Return the records of all seeds of one algorithm."""
    keys = jax.vmap(jax.random.key)(np.arange(seeds))
    x, y = jax.vmap(task.start)(keys)
    state = jax.vmap(lambda x, y: initial_state(algorithm, x, y, data))(x, y)
    # The start and the run use different random numbers.
    keys = jax.vmap(lambda key: key_for("run", key))(keys)

    def run_for(steps, log_every, callback=None):
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
            on_divergence="continue",
        )

    measured = []
    measure = jax.jit(jax.vmap(task.metrics, in_axes=(0, 0, None)))

    def callback(step, state, metrics):
        measured.append(jax.device_get(measure(state.x, state.y, task.held)))
        # An accuracy stays finite when the outputs are not: one value that is not finite loses a seed.
        lost = np.any(
            [~np.isfinite(value) for value in [*measured[-1].values(), metrics["outer_loss"]]], axis=0
        )
        return bool(lost.all()) or (budget.seconds is not None and metrics["seconds"] >= budget.seconds)

    result = run_for(*_schedule(algorithm, budget, run_for), callback)
    history = {name: result.history[name] for name in ("step", "seconds", "outer_loss", "inner_residual")}
    history |= {name: np.array([entry[name] for entry in measured]) for name in measured[0]}
    return [
        _record(task, algorithm, hyperparameters, seed, _of_seed(history, seed), result.compile_seconds)
        for seed in range(seeds)
    ]


def _schedule(algorithm, budget, run_for):
    """Return the number of steps, and the steps between log points."""
    if budget.seconds is not None:
        # A first run of a few steps measures the time of a step; the callback ends the real run.
        probe = run_for(20, 10).history["seconds"]
        per_step = max((probe[-1] - probe[-2]) / 10, 1e-6)
        return 10**9, max(1, int(budget.seconds / LOG_POINTS / per_step))
    steps = budget.steps
    if budget.oracle_calls is not None:
        steps = budget.oracle_calls // algorithm.cost.total
        if steps < 1:
            raise ValueError(
                f"{algorithm.name} needs a budget of at least {algorithm.cost.total} oracle calls, the cost "
                f"of one step, got {budget.oracle_calls}; raise it"
            )
    return steps, math.ceil(steps / LOG_POINTS)


def _of_seed(history, seed):
    """Return the history of one seed, which the second axis of a value selects."""
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
    measured = [name for name in history if name not in ("step", "seconds")]
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
        "final": {name: values[-1] for name, values in history.items() if values}
        | {name: math.inf for name in measured if diverged},
        "compile_seconds": compile_seconds,
        "diverged": diverged,
        "environment": environment(),
    }


def _plain(value):
    if isinstance(value, str | int | float | bool | None):
        return value
    # The repr of a function contains its address, which differs from run to run.
    return getattr(value, "__name__", str(value))
