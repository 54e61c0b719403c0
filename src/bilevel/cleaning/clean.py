"""Detection of the wrong labels of a data set with the help of a few trusted rows."""

from typing import Any, NamedTuple

import numpy as np
import scipy.special

from bilevel import algorithms
from bilevel.checkpoint import Checkpoint
from bilevel.cleaning import weighting
from bilevel.cleaning.classifiers import CLASSIFIERS
from bilevel.cleaning.precision import single_precision
from bilevel.cleaning.result import Cleaning
from bilevel.cleaning.scores import label_scores
from bilevel.cleaning.subsets import SubsetTrainer
from bilevel.cleaning.summary import Stages, detection
from bilevel.cleaning.training import Fit
from bilevel.cleaning.validate import validate
from bilevel.datasets.types import Dataset
from bilevel.types import require

WEIGHTS = ("per-row", "shared")
# With at least this many trusted rows per training row, free weights do not overfit the trusted rows.
PER_ROW_FROM = 10
# Norm of the gradient above which a convex model counts as not converged.
UNCONVERGED = 3e-3


@single_precision()
def clean(
    dataset: Dataset,
    truth: np.ndarray | None = None,
    *,
    weights: str | None = None,
    model: str = "linear",
    algorithm: str = "soba",
    steps: int | None = None,
    seed: int = 0,
    progress: bool = True,
    checkpoint: Checkpoint | None = None,
) -> Cleaning:
    """Learn a weight for each training row, flag wrong labels, and train on the rest.

    1. One model trains on the labels as given, cross-fitted over the training rows, and one on the
       trusted rows.
    2. Weights are learnt so that a model trained on the weighted rows does well on trusted rows
       (`bilevel.cleaning.losses`). A fifth of the trusted rows is held out for early stopping.
    3. Rows whose weight ends below 1/2, the weight at the start, are doubted. A model trains on all
       other rows, and a doubted row is flagged if this model gives it another label. The final model
       trains on the trusted rows and the rows that are not flagged.

    Every penalty is chosen on trusted rows. Test rows and the truth are used for the report only.

    Args:
      dataset: training rows, with `trusted_features` and `trusted_labels`.
      truth: (n,) true labels of the training rows, for the report; default: not known.
      weights: "per-row" (one free logit for each row) or "shared" (one network for all rows).
        Default: "per-row" if there are ten trusted rows for each training row, else "shared", which
        finds more wrong labels with few trusted rows.
      model: "linear" or "mlp".
      algorithm: name of the bilevel algorithm.
      steps: outer steps; default: 1,500, or 500 if a step of the algorithm is expensive.
      seed: seed of the random numbers.
      progress: whether to show a progress bar in a terminal.
      checkpoint: where the run that learns the weights is saved and resumed; default: it is not saved.

    Returns:
      A `Cleaning`.

    Raises:
      ValueError: when an argument or the data break a rule; the message is one line.
      DivergedError: when the algorithm diverges before its second log point.
    """
    _require_choice("weights", weights, (None, *WEIGHTS))
    _require_choice("model", model, tuple(CLASSIFIERS))
    _require_choice("algorithm", algorithm, tuple(algorithms.ALGORITHMS))
    weighting.require_learns_weights(algorithm)
    require(steps is None or steps >= 1, "steps must be at least 1", steps)
    warnings, stages = validate(dataset), Stages()
    trainer = SubsetTrainer(dataset, model, seed)
    baselines = _train_baselines(trainer, stages)
    weights = _choose_weights(trainer) if weights is None else weights
    learnt = weighting.learn_weights(
        _make_weighting(weights, trainer, baselines),
        algorithm,
        inner_step=trainer.classifier.step,
        steps=steps,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
    )
    stages.end("weights")
    flags = _flag(trainer, doubted=learnt.logits < 0)
    models = baselines.models | {"cleaned": flags.cleaned}
    stages.end("final model")
    if truth is not None:
        truth = np.asarray(truth)
        models["oracle"] = trainer.retrain(trainer.labels == truth)
        stages.end("oracle")
    summary: dict[str, Any] = {
        "source": dataset.name,
        "rows": len(trainer.labels),
        "trusted": len(trainer.trusted_labels),
        "classes": len(dataset.classes),
        "doubted": int(flags.doubted.sum()),
        "flagged": int(flags.flagged.sum()),
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
        summary |= _detections(trainer, baselines, learnt, flags, wrong=trainer.labels != truth)
    suggested = _suggest(trainer, flags)
    stages.end("report")
    warnings += learnt.warnings + _warn_of_flags(flags) + _warn_of_fits(trainer, models)
    summary |= {"seconds": stages.total, "stages": stages.seconds, "warnings": warnings}
    return Cleaning(
        given=trainer.labels,
        weights=scipy.special.expit(learnt.logits),
        flagged=flags.flagged,
        suggested=suggested,
        truth=truth,
        classes=list(dataset.classes),
        images=_images(dataset),
        history=learnt.history,
        summary=summary,
    )


def _require_choice(what, value, choices):
    names = ", ".join(choice for choice in choices if choice is not None)
    require(value in choices, f"{what} must be one of {names}", repr(value))


class _Baselines(NamedTuple):
    """Models that are trained without learnt weights.

    Attributes:
      models: fits by name: "as_given", "trusted_only", "disagreement".
      outputs: (n, classes) cross-fitted outputs of the model trained as given.
      disagrees: (n,) bool, rows to which these outputs give another label.
    """

    models: dict[str, Fit]
    outputs: np.ndarray
    disagrees: np.ndarray


def _train_baselines(trainer, stages):
    as_given, outputs = trainer.as_given()
    stages.end("trained as given")
    trusted_only = trainer.trusted_only()
    stages.end("trusted only")
    disagrees = outputs.argmax(axis=1) != trainer.labels
    disagreement = trainer.retrain(~disagrees)
    stages.end("disagreement")
    models = {"as_given": as_given, "trusted_only": trusted_only, "disagreement": disagreement}
    return _Baselines(models, outputs, disagrees)


def _choose_weights(trainer):
    """Return the kind of weights that suits the number of trusted rows."""
    return "per-row" if len(trainer.trusted_labels) >= PER_ROW_FROM * len(trainer.labels) else "shared"


def _make_weighting(weights, trainer, baselines):
    penalty = baselines.models["disagreement"].penalty
    # The run starts at the solution for equal weights. A model of the agreeing rows would be a worse
    # start: it is too confident, and the outer loss then asks for wrong labels to lower its confidence.
    y = trainer.equal_weights(penalty)
    # The weights average about one half, so the same penalty per unit of weight is half as large.
    penalty = penalty / 2
    if weights == "per-row":
        return weighting.per_row(trainer, y, penalty)
    scores = trainer.scores(baselines.outputs, baselines.models["trusted_only"].penalty)
    return weighting.shared(trainer, y, penalty, scores)


class _Flags(NamedTuple):
    """Rows that look wrong.

    Attributes:
      doubted: (n,) bool, rows of small weight.
      flagged: (n,) bool, doubted rows to which a model of all other rows gives another label.
      advice: (n,) labels that this model gives.
      cleaned: fit on the rows that are not flagged.
    """

    doubted: np.ndarray
    flagged: np.ndarray
    advice: np.ndarray
    cleaned: Fit


def _flag(trainer, doubted):
    # Hard rows lose weight too. A model that has not seen the doubted rows tells them from wrong ones:
    # it gives a hard row the label that the row already has.
    advice = trainer.outputs(trainer.retrain(~doubted).y).argmax(axis=1)
    flagged = doubted & (advice != trainer.labels)
    cleaned = trainer.retrain(~flagged)
    return _Flags(doubted=doubted, flagged=flagged, advice=advice, cleaned=cleaned)


def _suggest(trainer, flags):
    final = trainer.outputs(flags.cleaned.y).argmax(axis=1)
    return np.where(flags.flagged, flags.advice, final).astype(np.int32)


def _detections(trainer, baselines, learnt, flags, wrong):
    """Return the scores of `clean` and of the baselines at finding wrong labels."""

    def margin(outputs):
        return label_scores(outputs, trainer.labels)[:, 1]

    given = margin(baselines.outputs)
    trusted = margin(trainer.outputs(baselines.models["trusted_only"].y))
    return {
        "detection": detection(flags.flagged, -learnt.logits, wrong),
        "baseline_detection": {
            "disagreement": detection(baselines.disagrees, -given, wrong),
            "trusted_only": detection(trusted < 0, -trusted, wrong),
        },
    }


def _warn_of_flags(flags):
    if not flags.flagged.all():
        return []
    return [
        "every row is flagged, so trusted and training rows contradict each other; check the trusted labels"
    ]


def _warn_of_fits(trainer, models):
    return [
        f"the model {name} did not converge; the norm of its gradient is {fit.residual:.1e}"
        for name, fit in models.items()
        if trainer.classifier.convex and not fit.residual <= UNCONVERGED
    ]


def _images(dataset):
    if dataset.image_shape is None:
        return None
    return np.asarray(dataset.features).reshape(-1, *dataset.image_shape)
