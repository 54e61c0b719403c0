"""Learning the weights of the training rows: the bilevel part of cleaning."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse

from bilevel import algorithms
from bilevel.checkpoint import Checkpoint
from bilevel.cleaning import losses
from bilevel.cleaning.models import Model
from bilevel.cleaning.trail import Trail
from bilevel.driver import run
from bilevel.sampling import full, minibatches
from bilevel.sparse import sparse_blocks
from bilevel.types import Batch, DivergedError, Problem

BATCH = 128
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
      final: full-data `outer_loss`, `inner_loss`, `inner_residual` at the last step, and the
        `linear_residual` of its minibatch.
      warnings: what the reader must know.
    """

    logits: np.ndarray
    history: dict[str, Any]
    final: dict[str, float]
    warnings: list[str]


def per_row(model: Model, features, labels, trusted, trusted_labels, held, y, penalty) -> Setting:
    """One free logit a row.

    Args:
      model: the inner model.
      features, labels: training rows, scaled.
      trusted, trusted_labels: trusted rows.
      held: (m,) bool, trusted rows kept from the outer loss.
      y: start of the model.
      penalty: of the inner loss.
    """
    batch = {"labels": labels, "row": np.arange(len(labels), dtype=np.int32)}

    def held_losses(y, batch):
        return losses.cross_entropy(model.logits(y, batch["features"]), batch["labels"]).reshape(-1)

    return Setting(
        losses.per_row(model.logits, penalty),
        jnp.zeros((len(labels),), jnp.float32),
        y,
        _whole(trusted[~held], {"labels": trusted_labels[~held]}),
        _blocks(features, batch),
        lambda x: np.asarray(x, np.float64),
        _judge(held_losses, trusted[held], trusted_labels[held]),
        3e-2,
    )


def shared(
    model: Model, features, labels, trusted, trusted_labels, held, y, penalty, *, fold, scores, seed
) -> Setting:
    """One net for all rows, from `scores` (n, K, s); `fold` (m,) deals the trusted rows into K."""
    folds = scores.shape[1]

    def held_losses(y, batch):
        outputs = jax.vmap(model.logits, in_axes=(0, None))(y, batch["features"])
        labels = jnp.broadcast_to(batch["labels"][None], outputs.shape[:-1])
        return losses.cross_entropy(outputs, labels).reshape(folds, -1).mean(axis=0)

    return Setting(
        losses.shared(model.logits, penalty),
        losses.init_net(jax.random.key(seed), scores.shape[-1]),
        jax.tree.map(lambda a: jnp.repeat(a[None], folds, axis=0), y),
        _whole(trusted[~held], {"labels": trusted_labels[~held], "fold": fold[~held].astype(np.int32)}),
        _blocks(features, {"labels": labels, "scores": scores}),
        lambda x: np.asarray(losses.net(x, jnp.asarray(scores)), np.float64).mean(axis=1),
        _judge(held_losses, trusted[held], trusted_labels[held]),
        3e-3,
    )


def learn(
    setting: Setting,
    name: str,
    *,
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
    single = name in ("soba", "fsla")
    steps = (1500 if single else 500) if steps is None else steps
    outer = optax.adam(setting.outer_rate * (1 if single else 3))
    algorithm = getattr(algorithms, name)(setting.problem, inner_optimizer=inner_step, outer_optimizer=outer)
    trail = Trail(None if checkpoint is None else checkpoint.folder, setting.x)

    def judge(step, state, metrics):
        trail.add(step, state.x, np.asarray(setting.held(state.y), np.float64))

    warnings = []
    every = max(1, -(-steps // POINTS))
    key = jax.random.key(seed)
    data = _minibatches(setting, seed)
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
        if len(trail.points) < 3:
            raise
        warnings.append(f"{error}; the weights before that are used")
        state, history = error.state, error.history
    held = trail.losses()
    means = np.array([values.mean() for values in held])
    best = int(np.argmin(means))
    spread = held[best].std() / np.sqrt(len(held[best]))
    # The start has learnt nothing yet: it never wins.
    chosen = 1 + int(np.argmax(means[1:] <= means[best] + spread)) if len(means) > 1 else 0
    step = trail.steps()[chosen]
    history = dict(history, held_out_loss=means, best_step=step)
    final = {**_whole_data(setting, state), "linear_residual": float(history["linear_residual"][-1])}
    trail.remove()
    return Learnt(setting.logits(trail.x(step)), history, final, warnings)


def _whole_data(setting, state):
    """Losses and inner residual on all rows."""

    @jax.jit
    def measure(x, y, outer, inner):
        loss, gradient = jax.value_and_grad(setting.problem.inner, argnums=1)(x, y, inner)
        return setting.problem.outer(x, y, outer), loss, optax.tree.norm(gradient)

    values = measure(state.x, state.y, setting.outer, setting.inner)
    return dict(zip(("outer_loss", "inner_loss", "inner_residual"), map(float, values), strict=True))


def _minibatches(setting, seed):
    """Small sets of trusted rows are used whole; sparse training rows come in ready blocks."""
    rows = len(setting.inner["labels"])
    size = 1 if setting.inner["labels"].ndim == 2 else min(BATCH, rows)
    trusted = len(setting.outer["labels"])
    if setting.outer["labels"].ndim == 2 or trusted <= 2 * BATCH:
        inner = minibatches(np.zeros(size, np.float32), setting.inner, batch_size=size, seed=seed).inner
        return Batch(full(setting.outer, None).outer, inner)
    return minibatches(setting.outer, setting.inner, batch_size=size, seed=seed)


def _judge(held_losses, features, labels):
    batch = _whole(features, {"labels": labels})
    compiled = jax.jit(held_losses)
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
