"""The bilevel part of cleaning: it learns the weights of the training rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse

from bilevel import algorithms
from bilevel.calculus import hessian_product
from bilevel.checkpoint import Checkpoint, PointLog
from bilevel.cleaning import losses
from bilevel.cleaning.subsets import SubsetTrainer
from bilevel.driver import run
from bilevel.sampling import full, minibatches
from bilevel.sparse import sparse_blocks
from bilevel.types import Batch, DivergedError, Problem

BATCH = 128
LOG_POINTS = 15
# Scaled rows have a second moment of 1, so an untrained linear model has a gradient of about 0.2.
UNSOLVED_INNER = 0.02
UNSOLVED_LINEAR = 0.5


class Weighting(NamedTuple):
    """A parametrisation of the weights, with its losses, data and start.

    Attributes:
      problem: the two losses.
      x, y: start.
      outer, inner: trusted and training rows, as pytrees of arrays whose leading axis runs over rows, or
        over blocks of sparse rows.
      logits: `x -> (n,)` logits of the weights of all training rows.
      held: `y -> (h,)` losses of the held-out trusted rows.
      outer_rate: step size of Adam on x.
    """

    problem: Problem
    x: Any
    y: Any
    outer: Any
    inner: Any
    logits: Callable[[Any], np.ndarray]
    held: Callable[[Any], jax.Array]
    outer_rate: float


def per_row(trainer: SubsetTrainer, y: Any, penalty: float) -> Weighting:
    """Return the weighting with one free logit for each row.

    Args:
      trainer: the classifier and the rows.
      y: parameters of the classifier at the start.
      penalty: penalty of the inner loss.
    """
    logits = trainer.classifier.logits

    def held_losses(y, batch):
        return losses.cross_entropy(logits(y, batch["features"]), batch["labels"]).reshape(-1)

    rows = np.arange(len(trainer.labels), dtype=np.int32)
    return Weighting(
        problem=losses.per_row(logits, penalty),
        x=jnp.zeros((len(rows),), jnp.float32),
        y=y,
        outer=_trusted(trainer, ~trainer.held),
        inner=_blocks(trainer.training, {"labels": trainer.labels, "row": rows}),
        logits=lambda x: np.asarray(x, np.float64),
        held=_on_held_out(held_losses, trainer),
        outer_rate=3e-2,
    )


def shared(trainer: SubsetTrainer, y: Any, penalty: float, scores: np.ndarray) -> Weighting:
    """Return the weighting with one network from the scores of a row to its logit.

    Args:
      trainer: the classifier and the rows.
      y: parameters of the classifier at the start, copied for each fold.
      penalty: penalty of the inner loss.
      scores: (n, folds, s) scores of the training rows.
    """
    logits, folds = trainer.classifier.logits, scores.shape[1]

    def held_losses(y, batch):
        outputs = jax.vmap(logits, in_axes=(0, None))(y, batch["features"])
        labels = jnp.broadcast_to(batch["labels"][None], outputs.shape[:-1])
        return losses.cross_entropy(outputs, labels).reshape(folds, -1).mean(axis=0)

    seen = ~trainer.held
    return Weighting(
        problem=losses.shared(logits, penalty),
        x=losses.init_net(jax.random.key(trainer.seed), scores.shape[-1]),
        y=jax.tree.map(lambda a: jnp.repeat(a[None], folds, axis=0), y),
        outer=_trusted(trainer, seen, fold=trainer.fold[seen].astype(np.int32)),
        inner=_blocks(trainer.training, {"labels": trainer.labels, "scores": scores}),
        logits=lambda x: np.asarray(losses.net(x, jnp.asarray(scores)), np.float64).mean(axis=1),
        held=_on_held_out(held_losses, trainer),
        outer_rate=3e-3,
    )


class Learnt(NamedTuple):
    """Learnt weights.

    Attributes:
      logits: (n,) logits of the weights.
      history: history of the run, with `held_out_loss` and the scalar `best_step`.
      final: `outer_loss`, `inner_loss`, `inner_residual` and, if the algorithm has an adjoint,
        `linear_residual` after the last step, on all rows.
      warnings: warnings for the reader of the report.
    """

    logits: np.ndarray
    history: dict[str, Any]
    final: dict[str, float]
    warnings: list[str]


def require_learns_weights(name: str) -> None:
    """Raise `ValueError` unless the named algorithm can learn weights."""
    about = algorithms.about(getattr(algorithms, name))
    if about.direct_term_only:
        raise ValueError(
            f"{name} cannot learn weights, since they change the outer loss only through the model, which "
            f"{name} ignores; choose another algorithm, for example soba"
        )
    if about.learns_start:
        raise ValueError(
            f"{name} cannot learn weights, since it learns a starting point for many tasks; "
            "choose another algorithm, for example soba"
        )


def learn_weights(
    weighting: Weighting,
    name: str,
    *,
    inner_step: float,
    steps: int | None,
    seed: int,
    progress: bool,
    checkpoint: Checkpoint | None,
) -> Learnt:
    """Learn the weights with a named algorithm and stop early.

    Among the log points, the earliest one whose held-out loss is within one standard error of the best
    is chosen. Later ones are not measurably better and may overfit the trusted rows.

    Args:
      weighting: the losses, the data and the start.
      name: name of the algorithm.
      inner_step: step size of gradient descent on y.
      steps: outer steps; None means 1,500, or 500 if a step of the algorithm is expensive.
      seed: seed of the run.
      progress: whether to show a progress bar.
      checkpoint: where to save and resume; None means that nothing is saved.

    Returns:
      A `Learnt`.

    Raises:
      DivergedError: when the run diverges before its second log point.
    """
    algorithm, default_steps = _build(weighting, name, inner_step)
    steps = default_steps if steps is None else steps
    log = PointLog(checkpoint, weighting.x)

    def judge(step, state, metrics):
        log.add(step, state.x, losses=np.asarray(weighting.held(state.y), np.float64))

    warnings = []
    try:
        result = run(
            algorithm,
            weighting.x,
            weighting.y,
            _minibatches(weighting, seed),
            steps=steps,
            key=jax.random.key(seed),
            log_every=max(1, -(-steps // LOG_POINTS)),
            callback=judge,
            checkpoint=checkpoint,
            progress=progress,
        )
        state, history = result.state, result.history
    except DivergedError as error:
        if len(log.points) < 3:
            raise
        warnings.append(f"{error.fault}; {error.remedy}; the weights learnt before are used")
        state, history = error.state, error.history
    held = log.values("losses")
    step = log.steps()[_stop_early(held)]
    history = dict(history, held_out_loss=np.array([values.mean() for values in held]), best_step=step)
    final = _measure(weighting, state)
    return Learnt(
        logits=weighting.logits(log.x(step)),
        history=history,
        final=final,
        warnings=[*warnings, *_warn_of_residuals(final)],
    )


def _build(weighting, name, inner_step):
    """Return the algorithm and its default number of steps."""
    factory = getattr(algorithms, name)
    about = algorithms.about(factory)
    # Algorithms with cheap steps make more steps, and smaller ones.
    outer_rate = weighting.outer_rate * (1 if about.cheap else 3)
    outer_optimizer = optax.adam(outer_rate)
    algorithm = factory(weighting.problem, inner_optimizer=inner_step, outer_optimizer=outer_optimizer)
    return algorithm, 1500 if about.cheap else 500


def _minibatches(weighting, seed):
    """Return the data of a run; a small set of trusted rows is one full batch."""
    labels, trusted_labels = weighting.inner["labels"], weighting.outer["labels"]
    # Sparse rows come in ready blocks, with a second axis.
    size = 1 if labels.ndim == 2 else min(BATCH, len(labels))
    if trusted_labels.ndim == 2 or len(trusted_labels) <= 2 * BATCH:
        inner = minibatches(np.zeros(size, np.float32), weighting.inner, batch_size=size, seed=seed).inner
        return Batch(full(weighting.outer, None).outer, inner)
    return minibatches(weighting.outer, weighting.inner, batch_size=size, seed=seed)


def _stop_early(held):
    """Return the position of the chosen log point, from the held-out losses at each.

    A loss that is not finite counts as infinite.
    """
    means = np.array([values.mean() for values in held])
    means = np.where(np.isfinite(means), means, np.inf)
    if len(means) == 1:
        return 0
    best = int(np.argmin(means))
    standard_error = held[best].std() / np.sqrt(len(held[best])) if np.isfinite(means[best]) else 0.0
    # The start has learnt nothing yet and is never chosen.
    later = means[1:]
    near = later <= max(means[best] + standard_error, later.min())
    return 1 + int(np.argmax(near))


def _measure(weighting, state):
    """Return the losses and residuals on all rows."""

    @jax.jit
    def measure(x, y, v, outer, inner):
        f, f_y = jax.value_and_grad(weighting.problem.outer, argnums=1)(x, y, outer)
        g, g_y = jax.value_and_grad(weighting.problem.inner, argnums=1)(x, y, inner)
        final = {"outer_loss": f, "inner_loss": g, "inner_residual": optax.tree.norm(g_y)}
        if jax.tree.leaves(v):
            error = optax.tree.sub(hessian_product(weighting.problem.inner, x, y, inner, v), f_y)
            final["linear_residual"] = optax.tree.norm(error) / optax.tree.norm(f_y)
        return final

    final = measure(state.x, state.y, getattr(state, "v", ()), weighting.outer, weighting.inner)
    return {name: float(value) for name, value in final.items()}


def _warn_of_residuals(final):
    inner, linear = final["inner_residual"], final.get("linear_residual", 0)
    # NaN is no small residual.
    if not inner <= UNSOLVED_INNER:
        yield f"the inner problem is not solved (its gradient has norm {inner:.1e}); raise --steps"
    if not linear <= UNSOLVED_LINEAR:
        yield f"the adjoint system is not solved (its relative residual is {linear:.2f}); raise --steps"


def _trusted(trainer, mask, **columns):
    """Return some of the trusted rows as one minibatch; sparse rows as one block."""
    features, columns = trainer.trusted[mask], {"labels": trainer.trusted_labels[mask], **columns}
    if not scipy.sparse.issparse(features):
        return jax.tree.map(jnp.asarray, {"features": features, **columns})
    return {
        "features": sparse_blocks(features),
        **{name: jnp.asarray(column)[None] for name, column in columns.items()},
    }


def _on_held_out(held_losses, trainer):
    """Return the function from y to its losses on the held-out trusted rows."""
    batch, compiled = _trusted(trainer, trainer.held), jax.jit(held_losses)
    return lambda y: compiled(y, batch)


def _blocks(features, columns):
    """Return training rows with a leading axis of rows, or of blocks of sparse rows."""
    if not scipy.sparse.issparse(features):
        return {"features": features, **columns}
    rows = features.shape[0]
    size = min(BATCH, rows)
    order = np.random.default_rng(0).permutation(rows)
    # A ragged last block is filled up from the first rows.
    order = np.resize(order, (-(-rows // size), size))
    return {
        "features": sparse_blocks(features, order),
        **{name: column[order] for name, column in columns.items()},
    }
