"""The main job: find the wrong labels of a data set with the help of a few trusted rows."""

from typing import Any

import numpy as np
import scipy.special

from bilevel import algorithms
from bilevel.checkpoint import Checkpoint
from bilevel.cleaning import weighting
from bilevel.cleaning.models import MODELS
from bilevel.cleaning.precision import single_precision
from bilevel.cleaning.result import Cleaning
from bilevel.cleaning.scores import label_scores
from bilevel.cleaning.summary import Stages, detection
from bilevel.cleaning.trainer import Trainer
from bilevel.cleaning.validate import validate
from bilevel.datasets.types import Dataset

WEIGHTS = ("per-row", "shared")
# Trusted rows for each training row from which free weights no longer overfit them.
PER_ROW_FROM = 10
# Norm of the gradient above which a convex model is said not to have converged.
UNCONVERGED = 3e-3


@single_precision()
def clean(
    dataset: Dataset,
    truth=None,
    *,
    weights: str | None = None,
    model: str = "linear",
    algorithm: str = "soba",
    steps: int | None = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: Checkpoint | None = None,
) -> Cleaning:
    """Learn a weight for every training row, flag the wrong ones, and train on the others.

    1. A model is trained as given, cross-fitted over the training rows, and one on the trusted rows.
    2. Weights are learnt so that a model trained on the weighted rows does well on trusted rows
       (`bilevel.cleaning.losses`); a fifth of the trusted rows is held out to stop early.
    3. Rows of weight below 1/2 are doubted: a fresh row has the weight 1/2, and the outer loss has
       asked for less of it. Those to which a model of all other rows gives another label are flagged.
       The final model trains on the rows that are not flagged and the trusted rows.

    Every penalty is chosen on trusted rows; test rows and the truth are only ever reported on.

    Args:
      dataset: training rows, with `trusted_features` and `trusted_labels`.
      truth: (n,) true labels of the training rows, to report on.
      weights: "per-row" (one free logit a row) or "shared" (one net for all rows); None takes
        per-row from ten trusted rows a training row on, else shared: with fewer it finds more.
      model: "linear" or "mlp".
      algorithm: name of the bilevel algorithm.
      steps: of the algorithm; None takes what fits it.
      seed: of all that is random.
      progress: show a bar in a terminal.
      checkpoint: where the learning of the weights is saved, and resumed from.

    Returns:
      A `Cleaning`.

    Raises:
      ValueError: in one line, when an argument or the data do not fit.
      DivergedError: when the algorithm leaves the finite numbers at once.
    """
    _known("weights", weights, (None, *WEIGHTS))
    _known("model", model, tuple(MODELS))
    _known("algorithm", algorithm, tuple(algorithms.ALGORITHMS))
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    warnings, stages = validate(dataset), Stages()
    trainer = Trainer(dataset, model, seed)
    labels = trainer.labels
    as_given, given_outputs = trainer.as_given()
    stages.end("trained as given")
    trusted_only = trainer.trusted_only()
    stages.end("trusted only")
    disagrees = given_outputs.argmax(axis=1) != labels
    disagreement = trainer.retrain(~disagrees)
    stages.end("disagreement")

    if weights is None:
        weights = "per-row" if len(trainer.trusted_labels) >= PER_ROW_FROM * len(labels) else "shared"
    # The run starts at the solution for equal weights. (A model of the agreeing rows is no start: it
    # is too sure of itself, and the outer loss then asks for wrong labels to sober it.)
    y = trainer.equal_weights(disagreement.penalty)
    # Weights average about one half, and the penalty is per unit of weight.
    penalty = disagreement.penalty / 2
    if weights == "per-row":
        setting = weighting.per_row(trainer, y, penalty)
    else:
        setting = weighting.shared(trainer, y, penalty, trainer.scores(given_outputs, trusted_only.penalty))
    learnt = weighting.learn(setting, algorithm, trainer.net.step, steps, seed, progress, checkpoint)
    doubted = learnt.logits < 0
    stages.end("weights")

    # A row that is merely hard also loses weight. A model that has not seen the doubted rows tells
    # it from a wrong one: it gives a hard row the label that the row already has.
    advice = trainer.outputs(trainer.retrain(~doubted).y).argmax(axis=1)
    flagged = doubted & (advice != labels)
    cleaned = trainer.retrain(~flagged)
    models = {
        "as_given": as_given,
        "trusted_only": trusted_only,
        "disagreement": disagreement,
        "cleaned": cleaned,
    }
    stages.end("final model")
    if truth is not None:
        truth = np.asarray(truth)
        models["oracle"] = trainer.retrain(labels == truth)
        stages.end("oracle")
    warnings += learnt.warnings
    if flagged.all():
        warnings.append("every row is flagged: the trusted rows do not agree with the training rows at all")
    warnings += [
        f"the model {name} did not converge: its gradient is {fit.residual:.1e}"
        for name, fit in models.items()
        if trainer.net.convex and fit.residual > UNCONVERGED
    ]
    summary: dict[str, Any] = {
        "source": dataset.name,
        "rows": len(labels),
        "trusted": len(trainer.trusted_labels),
        "classes": len(dataset.classes),
        "doubted": int(doubted.sum()),
        "flagged": int(flagged.sum()),
        "weights": weights,
        "model": model,
        "algorithm": algorithm,
        "steps": int(learnt.history["step"][-1]),
        "best_step": int(learnt.history["best_step"]),
        "seed": seed,
        **learnt.final,
        "penalties": {name: fit.penalty for name, fit in models.items()},
        "test_accuracy": {"oracle": None} | trainer.test_accuracy(dataset, models),
    }
    if truth is not None:
        wrong = labels != truth
        given_margin = label_scores(given_outputs, labels)[:, 1]
        trusted_margin = label_scores(trainer.outputs(trusted_only.y), labels)[:, 1]
        summary["detection"] = detection(flagged, -learnt.logits, wrong)
        summary["baseline_detection"] = {
            "disagreement": detection(disagrees, -given_margin, wrong),
            "trusted_only": detection(trusted_margin < 0, -trusted_margin, wrong),
        }
    suggested = np.where(flagged, advice, trainer.outputs(cleaned.y).argmax(axis=1)).astype(np.int32)
    stages.end("report")
    summary |= {"seconds": stages.total, "stages": stages.seconds, "warnings": warnings}
    return Cleaning(
        given=labels,
        weights=scipy.special.expit(learnt.logits),
        flagged=flagged,
        suggested=suggested,
        truth=truth,
        classes=list(dataset.classes),
        images=_images(dataset),
        history=learnt.history,
        summary=summary,
    )


def _images(dataset):
    if dataset.image_shape is None:
        return None
    return np.asarray(dataset.features).reshape(-1, *dataset.image_shape)


def _known(what, value, choices):
    if value not in choices:
        names = ", ".join(str(choice) for choice in choices if choice is not None)
        raise ValueError(f"{what} must be one of {names}, got {value!r}")
