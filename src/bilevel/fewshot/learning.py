"""Training of a few-shot learner, choice of the best step, and test."""

import math
import sys
from typing import Any, NamedTuple

import jax
import numpy as np

from bilevel.checkpoint import Checkpoint, PointLog
from bilevel.datasets import ImageClasses
from bilevel.driver import run
from bilevel.environment import environment
from bilevel.fewshot.episodes import Shape
from bilevel.fewshot.judge import AnsweredEpisode, Judge
from bilevel.fewshot.learner import Learner
from bilevel.fewshot.plan import Plan, plan_run
from bilevel.fewshot.recipes import recipe
from bilevel.fewshot.saved import learner_file
from bilevel.many_tasks import TASKS
from bilevel.models import Network
from bilevel.types import DivergedError, PyTree, require

LOG_POINTS = 10
VALIDATION_EPISODES, TEST_EPISODES, WAYS_EPISODES = 100, 600, 100
TEST_WAYS = (2, 3, 5, 10, 20)
TRIAL_STEPS = 5
EXAMPLES = 3


class FewShotResult(NamedTuple):
    """Outcome of `learn`.

    Attributes:
      x: the outer variable at the step of best validation accuracy.
      learner: `learner.answer(x, episode, ways)` answers new tasks.
      summary: plain data, ready for JSON; accuracies are fractions. The run: dataset, algorithm, ways,
        shots, queries (a class), network, parameters (their number), batch_tasks, settings, seed,
        environment. Its outcome: steps, seconds, compile_seconds, seconds_per_step, peak_mib (None where
        the platform does not report it), best_step, validation_accuracy, validation_interval (half a 95 %
        interval), test_accuracy, test_interval, test_episodes, chance, accuracy_by_ways (a list of ways,
        accuracy, interval), diverged, and stopped: None, or why the run ended early.
      history: lists over log points: step, seconds, outer_loss, validation_accuracy, validation_interval.
      examples: a few test episodes with the learner's answers.
      file: contents of `learner.npz`, which `load_learner` reads.
    """

    x: Any
    learner: Learner
    summary: dict[str, Any]
    history: dict[str, list]
    examples: list[AnsweredEpisode]
    file: bytes


def learn(
    data: ImageClasses,
    algorithm: str = "maml",
    *,
    ways: int = 5,
    shots: int = 1,
    steps: int | None = None,
    seconds: float | None = None,
    network: str | Network | None = None,
    changes: dict[str, Any] | None = None,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    progress: bool = True,
) -> FewShotResult:
    """Train a learner on tasks of some classes and test it on tasks of other classes.

    Episodes are drawn on the device. The step size of the outer optimiser falls to zero along a cosine.
    About ten times during training x is measured on 100 fixed episodes of the validation classes, and
    the best of these x is tested.

    Args:
      data: from `datasets.load_classes`.
      algorithm: one of `METHODS`.
      ways, shots: classes of an episode, support images of each.
      steps: outer steps. Give either `steps` or `seconds`.
      seconds: time of training, without compiling, validation and test. A short trial finds the
        number of steps, and training ends at that number or at this time, whichever comes first.
      network: one of `models.MODULES`, or any `Network`; default `conv4-32`.
      changes: hyper-parameters that differ from the defaults, see `recipe`.
      seed: seed of the start and of the training episodes. Validation and test episodes do not depend on it.
      checkpoint: where to save and resume.
      progress: show a progress bar.

    Returns:
      A `FewShotResult`. If training diverged, it holds the best step before that, and
      `summary["diverged"]` is True.

    Raises:
      ValueError: when an argument does not fit the data.
      DivergedError: when the loss or its gradient is not finite at the start.
    """
    chosen = recipe(algorithm, changes)
    limits = [limit for limit in (steps, seconds) if limit is not None]
    fits = len(limits) == 1 and 0 < limits[0] < math.inf
    rule = "give either steps or seconds, as a positive finite number"
    require(fits, rule, f"steps {steps} and seconds {seconds}")
    plan = plan_run(data, chosen, network, ways, shots)
    outcome = _train(plan, steps, seconds, seed, checkpoint, progress)
    judge = Judge(outcome.learner, data.test, plan.scale, seed=2)
    tested = _tested(judge, outcome.x, plan.test_shape)
    about = {
        "algorithm": algorithm,
        "network": plan.network.name,
        "image_shape": data.train.shape[2:],
        "train_ways": plan.train_shape.ways,
        "mean": data.mean,
        "std": data.std,
        "changes": changes or {},
    }
    return FewShotResult(
        x=outcome.x,
        learner=outcome.learner,
        summary=_summary(plan, outcome, tested, seed),
        history=_history(outcome),
        examples=judge.answered(outcome.x, plan.test_shape, EXAMPLES),
        file=learner_file(outcome.x, about),
    )


def tasks_mesh() -> jax.sharding.Mesh:
    """Return a mesh of all devices along the axis `tasks`; see `over_tasks`."""
    return jax.make_mesh((len(jax.devices()),), (TASKS,), (jax.sharding.AxisType.Auto,))


class _Outcome(NamedTuple):
    """The outcome of training.

    Attributes:
      learner: the learner built for the planned number of steps.
      best_step, x: the log point of the best validation accuracy, and the outer variable there.
      validation: `step -> (accuracy, half width of its interval)` at the log points.
      history, compile_seconds: history and compile time of the run.
      stopped, diverged: see `FewShotResult.summary`.
    """

    learner: Learner
    best_step: int
    x: PyTree
    validation: dict[int, tuple[float, float]]
    history: dict[str, Any]
    compile_seconds: float
    stopped: str | None
    diverged: bool


def _train(plan: Plan, steps, seconds, seed, checkpoint, progress) -> _Outcome:
    start_key, run_key = jax.random.split(jax.random.key(seed))
    batches = plan.batches()
    x, y = plan.build(1).start(start_key)
    log = PointLog(checkpoint, x, every_x=False)
    if "steps" not in log.facts:
        log.facts["steps"] = steps or _affordable_steps(plan.build(1), x, y, batches, run_key, seconds)
    planned = log.facts["steps"]
    learner = plan.build(planned)
    validation = Judge(learner, plan.data.validation, plan.scale, seed=1)

    def callback(step, state, metrics):
        accuracy, interval = validation.accuracy(state.x, plan.test_shape, VALIDATION_EPISODES)
        better = all(accuracy > before for before in log.values("accuracy"))
        log.add(step, state.x if better else None, accuracy=accuracy, interval=interval)
        return seconds is not None and metrics["seconds"] >= seconds

    stopped, diverged = None, False
    try:
        with jax.set_mesh(tasks_mesh()):
            result = run(
                learner.algorithm,
                x,
                y,
                batches,
                steps=planned,
                key=run_key,
                log_every=max(1, math.ceil(planned / LOG_POINTS)),
                callback=callback,
                checkpoint=checkpoint,
                progress=progress,
            )
        history, compile_seconds = result.history, result.compile_seconds
        done = history["step"][-1]
        if done < planned:
            stopped = f"the {seconds:g} seconds were over after {done} of {planned} planned steps"
    except DivergedError as error:
        if not log.points:
            raise
        history, compile_seconds, diverged = error.history, math.nan, True
        stopped = f"{error.fault}; {error.remedy}"
    best_step = log.steps_with_x()[-1]
    points = {step: (float(p["accuracy"]), float(p["interval"])) for step, p in log.points.items()}
    return _Outcome(
        learner=learner,
        best_step=best_step,
        x=log.x(best_step),
        validation=points,
        history=history,
        compile_seconds=compile_seconds,
        stopped=stopped,
        diverged=diverged,
    )


def _affordable_steps(learner, x, y, batches, key, seconds) -> int:
    """Return the number of steps that fit in the time, measured by a short trial."""
    with jax.set_mesh(tasks_mesh()):
        trial = run(
            learner.algorithm,
            x,
            y,
            batches,
            steps=2 * TRIAL_STEPS + 1,
            key=key,
            log_every=TRIAL_STEPS,
            progress=False,
        )
    # The first chunk warms up. Metrics cost the same after one step as after many, so they cancel.
    _, many, one = np.diff(trial.history["seconds"])
    per_step = max((many - one) / (TRIAL_STEPS - 1), many / (4 * TRIAL_STEPS))
    return max(1, round(seconds / per_step))


def _tested(judge: Judge, x: PyTree, shape: Shape) -> dict[str, Any]:
    """Return the accuracies on test classes, at the ways of the test and at others."""
    most = len(judge.images) if judge.learner.fresh_head else shape.ways
    accuracies = {shape.ways: judge.accuracy(x, shape, TEST_EPISODES)}
    for ways in TEST_WAYS:
        if ways <= most and ways != shape.ways:
            accuracies[ways] = judge.accuracy(x, shape._replace(ways=ways), WAYS_EPISODES)
    accuracy, interval = accuracies[shape.ways]
    return {
        "test_accuracy": accuracy,
        "test_interval": interval,
        "test_episodes": TEST_EPISODES,
        "chance": 1 / shape.ways,
        "accuracy_by_ways": [
            {"ways": ways, "accuracy": accuracy, "interval": interval}
            for ways, (accuracy, interval) in sorted(accuracies.items())
        ],
    }


def _summary(plan: Plan, outcome: _Outcome, tested: dict[str, Any], seed: int) -> dict[str, Any]:
    accuracy, interval = outcome.validation[outcome.best_step]
    steps, seconds = (outcome.history[name].tolist()[-1] for name in ("step", "seconds"))
    return {
        "dataset": plan.data.name,
        "algorithm": plan.recipe.method,
        "ways": plan.test_shape.ways,
        "shots": plan.test_shape.shots,
        "queries": plan.test_shape.queries,
        "network": plan.network.name,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(outcome.x)),
        "batch_tasks": plan.recipe.training.tasks,
        "settings": {
            **plan.recipe.hyperparameters,
            "outer_step": plan.recipe.training.outer_step,
            "train_ways": plan.train_shape.ways,
            "train_queries": plan.train_shape.queries,
        },
        "steps": steps,
        "seconds": seconds,
        "compile_seconds": outcome.compile_seconds,
        "seconds_per_step": seconds / steps if steps else None,
        "peak_mib": _peak_mib(),
        "best_step": outcome.best_step,
        "validation_accuracy": accuracy,
        "validation_interval": interval,
        **tested,
        "seed": seed,
        "stopped": outcome.stopped,
        "diverged": outcome.diverged,
        "environment": environment(),
    }


def _history(outcome: _Outcome) -> dict[str, list]:
    lists = {name: outcome.history[name].tolist() for name in ("step", "seconds", "outer_loss")}
    points = [outcome.validation.get(step, (None, None)) for step in lists["step"]]
    return {
        **lists,
        "validation_accuracy": [accuracy for accuracy, _ in points],
        "validation_interval": [interval for _, interval in points],
    }


def _peak_mib() -> float | None:
    """Return the peak memory of this process, or None where it is not reported."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
