"""Training a few-shot learner, choosing the best step by validation, and testing it."""

import math
import resource
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bilevel import models
from bilevel.checkpoint import Checkpoint, PointLog
from bilevel.datasets import ImageClasses
from bilevel.driver import run
from bilevel.environment import environment
from bilevel.fewshot.defaults import NETWORK, READS, Recipe, recipe
from bilevel.fewshot.episodes import Episodes, Shape
from bilevel.fewshot.judge import Judge, Pictured
from bilevel.fewshot.learner import Learner
from bilevel.fewshot.methods import FRESH_HEAD, METHODS
from bilevel.fewshot.saved import learner_file
from bilevel.many_tasks import TASKS
from bilevel.models import Network
from bilevel.sampling import Full
from bilevel.types import Batch, DivergedError, require

LOG_POINTS = 10
VALIDATION_EPISODES, TEST_EPISODES, WAYS_EPISODES = 100, 600, 100
TEST_QUERIES = 15
PROBE = 5
OTHER_WAYS = (2, 3, 5, 10, 20)


class FewShotResult(NamedTuple):
    """Outcome of `learn`.

    Attributes:
      x: the outer variable at the best step of the validation.
      learner: with `learner.answer(x, episode, ways)` it answers new tasks.
      summary: the JSON-ready numbers of `summary.json`.
      history: lists over log points: `step`, `seconds`, `outer_loss`, `validation_accuracy`,
        `validation_interval`.
      examples: a few test episodes.
      file: contents of `learner.npz`, from which `load_learner` makes the learner again.
    """

    x: Any
    learner: Learner
    summary: dict[str, Any]
    history: dict[str, list]
    examples: list[Pictured]
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
    """A learner trained on tasks of some classes and tested on tasks of others.

    Episodes are drawn on the device. The outer optimiser is Adam with a step that falls to zero along
    a cosine; x at the best of some ten looks at 100 fixed episodes of the validation classes is tested.

    Args:
      data: from `datasets.load_classes`.
      algorithm: one of `METHODS`.
      ways, shots: classes of an episode, support images of each.
      steps: outer steps (None with `seconds`).
      seconds: of training; compiling, validation and test come on top. The number of steps is found
        by a trial of a few, and the end comes at whichever is first.
      network: one of `models.MODULES`, or any `Network`; None for `conv4-32`.
      changes: of the recipe, see `fewshot.defaults`.
      seed: of the start and the training episodes; those of validation and test are always the same.
      checkpoint: where to save and resume.
      progress: show a bar.

    Returns:
      A `FewShotResult`; when training diverged, that of the best step before, and
      `summary["stopped"]` says so.

    Raises:
      ValueError: when an argument does not fit the data.
      DivergedError: when the start itself has no finite gradient.
    """
    plan = recipe(algorithm, changes or {})
    limits = [limit for limit in (steps, seconds) if limit is not None]
    fits = len(limits) == 1 and 0 < limits[0] < math.inf
    require(fits, "give either steps or seconds, positive and finite", f"steps {steps} and seconds {seconds}")
    train_ways = plan.train_ways
    if train_ways is not None and "train_ways" not in (changes or {}):
        # The recipe's number is a wish, the user's a rule.
        train_ways = min(train_ways, len(data.train))
    train_shape = Shape(train_ways or ways, shots, plan.train_queries)
    test_shape = Shape(ways, shots, _test_queries(data, shots))
    train_shape.validate(data.train, "training")
    test_shape.validate(data.validation, "validation")
    test_shape.validate(data.test, "test")
    net = network
    if not isinstance(net, Network):
        net = models.network(net or NETWORK, data.train.shape[2:])
    require(
        plan.train_ways in (None, ways) or algorithm in FRESH_HEAD,
        f"train_ways must be {ways}, the ways of the test, for {algorithm}, whose head has as many outputs",
        plan.train_ways,
    )
    scale = np.asarray(data.mean, np.float32), np.asarray(data.std, np.float32)
    source = Episodes(jnp.asarray(data.train), *scale, None, train_shape, plan.tasks)
    batches = Batch(source, Full(None))
    key = jax.random.key(seed)
    start_key, run_key = jax.random.split(key)

    def build(total):
        learner = METHODS[algorithm](net, train_shape.ways, _optimizer(algorithm, plan, total), plan.settings)
        return learner, *learner.start(start_key)

    learner, x, y = build(1)
    log = PointLog(checkpoint, x, every_x=False)
    if "steps" not in log.facts:
        log.facts["steps"] = steps or _affordable(learner, x, y, batches, run_key, seconds)
    planned = log.facts["steps"]
    learner, x, y = build(planned)
    validation = Judge(learner, data.validation, scale, seed=1)
    stopped, diverged = None, False

    def callback(step, state, metrics):
        accuracy, interval = validation.accuracy(state.x, test_shape, VALIDATION_EPISODES)
        better = all(accuracy > best for best in log.values("accuracy"))
        log.add(step, state.x if better else None, accuracy=accuracy, interval=interval)
        return seconds is not None and metrics["seconds"] >= seconds

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
        if history["step"][-1] < planned:
            stopped = f"{seconds:g} seconds were over after {history['step'][-1]} of {planned} planned steps"
    except DivergedError as error:
        if not log.points:
            raise
        history, compile_seconds, stopped, diverged = error.history, math.nan, str(error), True
    best_step = log.steps_with_x()[-1]
    best = log.x(best_step)
    test = Judge(learner, data.test, scale, seed=2)
    accuracy, interval = test.accuracy(best, test_shape, TEST_EPISODES)
    done = history["step"].tolist()
    spent = history["seconds"].tolist()
    points = [_interval(log.points.get(step)) for step in done]
    summary = {
        "dataset": data.name,
        "algorithm": algorithm,
        "ways": ways,
        "shots": shots,
        "queries": test_shape.queries,
        "network": net.name,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(x)),
        "batch_tasks": plan.tasks,
        "settings": _plain(algorithm, plan, train_shape),
        "steps": done[-1],
        "seconds": spent[-1],
        "compile_seconds": compile_seconds,
        "seconds_per_step": spent[-1] / done[-1] if done[-1] else None,
        "peak_mib": _peak_mib(),
        "best_step": best_step,
        "validation_accuracy": _interval(log.points[best_step])[0],
        "validation_interval": _interval(log.points[best_step])[1],
        "test_accuracy": accuracy,
        "test_interval": interval,
        "test_episodes": TEST_EPISODES,
        "chance": 1 / ways,
        "accuracy_by_ways": _by_ways(test, best, test_shape, data, learner, (accuracy, interval)),
        "seed": seed,
        "stopped": stopped,
        "diverged": diverged,
        "environment": environment(),
    }
    curves = {
        "step": done,
        "seconds": spent,
        "outer_loss": history["outer_loss"].tolist(),
        "validation_accuracy": [point[0] for point in points],
        "validation_interval": [point[1] for point in points],
    }
    about = {
        "algorithm": algorithm,
        "network": net.name,
        "image_shape": data.train.shape[2:],
        "train_ways": train_shape.ways,
        "mean": data.mean,
        "std": data.std,
        "changes": changes or {},
    }
    pictures = test.pictured(best, test_shape, 3)
    return FewShotResult(best, learner, summary, curves, pictures, learner_file(best, about))


def tasks_mesh() -> jax.sharding.Mesh:
    """All devices along the axis `tasks`, for `jax.set_mesh`: see `many_tasks.over_tasks`."""
    return jax.make_mesh((len(jax.devices()),), (TASKS,), (jax.sharding.AxisType.Auto,))


def _optimizer(algorithm, plan: Recipe, total: int):
    schedule = optax.cosine_decay_schedule(plan.outer_step, total)
    return optax.sgd(schedule) if algorithm == "reptile" else optax.adam(schedule)


def _test_queries(data, shots):
    return max(1, min(TEST_QUERIES, data.test.shape[1] - shots))


def _affordable(learner, x, y, batches, key, seconds):
    """Steps that fit, by a trial of a few."""
    with jax.set_mesh(tasks_mesh()):
        clock = run(
            learner.algorithm, x, y, batches, steps=2 * PROBE + 1, key=key, log_every=PROBE, progress=False
        ).history["seconds"]
    # The first chunk warms up. Metrics cost as much after one step as after many, and take their leave.
    _, many, one = np.diff(clock)
    per_step = max((many - one) / (PROBE - 1), many / (4 * PROBE))
    return max(1, round(seconds / per_step))


def _interval(point):
    """Return validation accuracy and half width of its interval at a log point, None if it has none."""
    return (float(point["accuracy"]), float(point["interval"])) if point else (None, None)


def _by_ways(judge, x, shape, data, learner, tested):
    """Accuracies for several ways, that of the test among them."""
    most = len(data.test) if learner.fresh_head else shape.ways
    others = [ways for ways in OTHER_WAYS if ways <= most and ways != shape.ways]
    found = {ways: judge.accuracy(x, shape._replace(ways=ways), WAYS_EPISODES) for ways in others}
    found[shape.ways] = tested
    return [
        {"ways": ways, "accuracy": accuracy, "interval": interval}
        for ways, (accuracy, interval) in sorted(found.items())
    ]


def _plain(algorithm, plan: Recipe, shape: Shape):
    own = {"outer_step": plan.outer_step, "train_ways": shape.ways, "train_queries": shape.queries}
    return {name: value for name, value in plan.settings._asdict().items() if name in READS[algorithm]} | own


def _peak_mib():
    """Most memory that this process ever held; Linux counts in KiB, macOS in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10
