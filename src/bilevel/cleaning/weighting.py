"""Learning the weights of the training rows: the bilevel part of cleaning."""

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
from bilevel.cleaning.trainer import Trainer
from bilevel.driver import run
from bilevel.sampling import full, minibatches
from bilevel.sparse import sparse_blocks
from bilevel.types import Batch, DivergedError, Problem

BATCH = 128
# Rows are scaled to a second moment of 1: the gradient of an untrained linear model is about 0.2.
UNSOLVED_INNER = 0.02
UNSOLVED_LINEAR = 0.5
POINTS = 15


class Setting(NamedTuple):
    """One of the two weightings, ready to run.

    Attributes:
      problem: the two losses.
      x, y: start.
      outer, inner: pytrees of arrays with one leading row axis (training rows: see `rows_of`).
      logits: `x -> (n,)` logits of the weights of all training rows.
      held: `y -> (h,)` losses of the held-out trusted rows.
      outer_rate: step size of Adam on x.
    """

    problem: Problem
    x: Any
    y: Any
    outer: Any
    inner: Any
    logits: Any
    held: Any
    outer_rate: float


class Learnt(NamedTuple):
    """Learnt weights.

    Attributes:
      logits: (n,) logits of the weights.
      history: of the run, with `held_out_loss` and the scalar `best_step`.
      final: `outer_loss`, `inner_loss`, `inner_residual` and, with an adjoint, `linear_residual` at
        the last step, on all rows.
      warnings: what the reader must know.
    """

    logits: np.ndarray
    history: dict[str, Any]
    final: dict[str, float]
    warnings: list[str]


def per_row(trainer: Trainer, y, penalty: float) -> Setting:
    """One free logit a row.

    Args:
      trainer: of the inner model, with the rows.
      y: start of the model.
      penalty: of the inner loss.
    """
    logits = trainer.net.logits

    def held_losses(y, batch):
        return losses.cross_entropy(logits(y, batch["features"]), batch["labels"]).reshape(-1)

    rows = np.arange(len(trainer.labels), dtype=np.int32)
    return Setting(
        losses.per_row(logits, penalty),
        jnp.zeros((len(rows),), jnp.float32),
        y,
        _trusted(trainer, ~trainer.held),
        _blocks(trainer.training, {"labels": trainer.labels, "row": rows}),
        lambda x: np.asarray(x, np.float64),
        _judge(held_losses, trainer),
        3e-2,
    )


def shared(trainer: Trainer, y, penalty: float, scores: np.ndarray) -> Setting:
    """One net for all rows, from their scores.

    Args:
      trainer: of the inner model, with the rows.
      y: start of the model, copied for each fold.
      penalty: of the inner loss.
      scores: (n, folds, s) scores of the training rows.
    """
    logits, folds = trainer.net.logits, scores.shape[1]

    def held_losses(y, batch):
        outputs = jax.vmap(logits, in_axes=(0, None))(y, batch["features"])
        labels = jnp.broadcast_to(batch["labels"][None], outputs.shape[:-1])
        return losses.cross_entropy(outputs, labels).reshape(folds, -1).mean(axis=0)

    seen = ~trainer.held
    return Setting(
        losses.shared(logits, penalty),
        losses.init_net(jax.random.key(trainer.seed), scores.shape[-1]),
        jax.tree.map(lambda a: jnp.repeat(a[None], folds, axis=0), y),
        _trusted(trainer, seen, fold=trainer.fold[seen].astype(np.int32)),
        _blocks(trainer.training, {"labels": trainer.labels, "scores": scores}),
        lambda x: np.asarray(losses.net(x, jnp.asarray(scores)), np.float64).mean(axis=1),
        _judge(held_losses, trainer),
        3e-3,
    )


def learn(
    setting: Setting,
    name: str,
    inner_step: float,
    steps: int | None,
    seed: int,
    progress: bool,
    checkpoint: Checkpoint | None,
) -> Learnt:
    """The weights that a named algorithm learns, stopped early.

    Of all log points the earliest is taken whose held-out loss is within one standard error of the
    best: what comes later is not measurably better, and free to overfit the trusted rows.

    Args:
      setting: the weighting.
      name: of the algorithm.
      inner_step: of SGD on the model.
      steps: None takes a number that fits the algorithm and the rows.
      seed: of the run.
      progress: show a bar.
      checkpoint: where to save, and to resume from.

    Returns:
      A `Learnt`.

    Raises:
      DivergedError: when the run leaves the finite numbers before its second log point.
    """
    factory = getattr(algorithms, name)
    about = algorithms.about(factory)
    if about.learns_start or about.direct_term_only:
        direct = about.direct_term_only
        why = "they act on the outer loss through the model alone" if direct else "it learns a start of y"
        raise ValueError(
            f"{name} cannot learn weights, since {why}; choose another algorithm, for example soba"
        )
    data = _minibatches(setting, seed)
    steps = (1500 if about.cheap else 500) if steps is None else steps
    outer_rate = setting.outer_rate * (1 if about.cheap else 3)
    algorithm = factory(setting.problem, inner_optimizer=inner_step, outer_optimizer=optax.adam(outer_rate))
    log = PointLog(checkpoint, setting.x)

    def judge(step, state, metrics):
        log.add(step, state.x, losses=np.asarray(setting.held(state.y), np.float64))

    warnings = []
    every = max(1, -(-steps // POINTS))
    key = jax.random.key(seed)
    try:
        result = run(
            algorithm,
            setting.x,
            setting.y,
            data,
            steps=steps,
            key=key,
            log_every=every,
            callback=judge,
            checkpoint=checkpoint,
            progress=progress,
        )
        state, history = result.state, result.history
    except DivergedError as error:
        if len(log.points) < 3:
            raise
        warnings.append(f"{error}; the weights before that are used")
        state, history = error.state, error.history
    held = log.values("losses")
    means = np.array([values.mean() for values in held])
    best = int(np.argmin(means))
    spread = held[best].std() / np.sqrt(len(held[best]))
    # The start has learnt nothing yet: it never wins.
    chosen = 1 + int(np.argmax(means[1:] <= means[best] + spread)) if len(means) > 1 else 0
    step = log.steps()[chosen]
    history = dict(history, held_out_loss=means, best_step=step)
    final = _whole_data(setting, state)
    warnings += _unsolved(final)
    return Learnt(setting.logits(log.x(step)), history, final, warnings)


def _whole_data(setting, state):
    """Losses and residuals on all rows; the linear one where the algorithm carries an adjoint."""

    @jax.jit
    def measure(x, y, v, outer, inner):
        f, f_y = jax.value_and_grad(setting.problem.outer, argnums=1)(x, y, outer)
        g, g_y = jax.value_and_grad(setting.problem.inner, argnums=1)(x, y, inner)
        final = {"outer_loss": f, "inner_loss": g, "inner_residual": optax.tree.norm(g_y)}
        if jax.tree.leaves(v):
            error = optax.tree.sub(hessian_product(setting.problem.inner, x, y, inner, v), f_y)
            final["linear_residual"] = optax.tree.norm(error) / optax.tree.norm(f_y)
        return final

    final = measure(state.x, state.y, getattr(state, "v", ()), setting.outer, setting.inner)
    return {name: float(value) for name, value in final.items()}


def _unsolved(final):
    """Warnings about the problems that the run left unsolved."""
    inner, linear = final["inner_residual"], final.get("linear_residual", 0)
    warnings = []
    if inner > UNSOLVED_INNER:
        warnings.append(f"the inner problem was left unsolved (gradient {inner:.1e}); more --steps may help")
    if linear > UNSOLVED_LINEAR:
        warnings.append(
            f"the adjoint was left unsolved (relative residual {linear:.2f}); more --steps may help"
        )
    return warnings


def _minibatches(setting, seed):
    """Small sets of trusted rows are used whole; sparse training rows come in ready blocks."""
    rows = len(setting.inner["labels"])
    size = 1 if setting.inner["labels"].ndim == 2 else min(BATCH, rows)
    trusted = len(setting.outer["labels"])
    if setting.outer["labels"].ndim == 2 or trusted <= 2 * BATCH:
        inner = minibatches(np.zeros(size, np.float32), setting.inner, batch_size=size, seed=seed).inner
        return Batch(full(setting.outer, None).outer, inner)
    return minibatches(setting.outer, setting.inner, batch_size=size, seed=seed)


def _trusted(trainer, mask, **columns):
    return _whole(trainer.trusted[mask], {"labels": trainer.trusted_labels[mask], **columns})


def _judge(held_losses, trainer):
    batch, compiled = _trusted(trainer, trainer.held), jax.jit(held_losses)
    return lambda y: compiled(y, batch)


def _whole(features, columns):
    """All rows as one minibatch; sparse ones as one block."""
    if not scipy.sparse.issparse(features):
        return jax.tree.map(jnp.asarray, {"features": features, **columns})
    return {
        "features": sparse_blocks(features),
        **{k: jnp.asarray(v)[None] for k, v in columns.items()},
    }


def _blocks(features, columns):
    """Training rows with one leading axis to draw from: of rows, or of blocks of sparse rows."""
    if not scipy.sparse.issparse(features):
        return {"features": features, **columns}
    rows = features.shape[0]
    size = min(BATCH, rows)
    order = np.random.default_rng(0).permutation(rows)
    # A ragged last block is filled up from the first rows.
    order = np.resize(order, (-(-rows // size), size))
    return {
        "features": sparse_blocks(features, order),
        **{k: v[order] for k, v in columns.items()},
    }
