"""The main job: find the wrong labels of a data set with the help of a few trusted rows."""

from functools import partial
from typing import Any

import numpy as np
import scipy.special

from bilevel import algorithms
from bilevel.checkpoint import Checkpoint
from bilevel.cleaning import weighting
from bilevel.cleaning.check import check
from bilevel.cleaning.fitting import calibrated_loss, fit, fit_path, logits, start
from bilevel.cleaning.models import MODELS
from bilevel.cleaning.precision import single_precision
from bilevel.cleaning.result import Cleaning
from bilevel.cleaning.scaling import join, scaling, to_device
from bilevel.cleaning.scores import cross_fitted, deal, label_scores, standardise
from bilevel.cleaning.summary import Stages, accuracy, detection
from bilevel.datasets.types import Dataset

WEIGHTS = ("per-row", "shared")
GIVEN_PARTS = 5
FOLDS = 2


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
    """Learn a weight for every training row, flag the rows below 1/2, and train on the others.

    1. A model is trained as given, cross-fitted over the training rows, and one on the trusted rows.
    2. Weights are learnt so that a model trained on the weighted rows does well on trusted rows
       (`bilevel.cleaning.losses`); a fifth of the trusted rows is held out to stop early.
    3. Rows of weight below 1/2 are flagged: a fresh row has the weight 1/2, and the outer loss has
       asked for less of it. The final model trains on the other rows and the trusted rows.

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
    _known("algorithm", algorithm, tuple(algorithms.__all__))
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    warnings = check(dataset)
    stages, net = Stages(), MODELS[model]()
    labels = np.asarray(dataset.labels, np.int32)
    trusted_labels = np.asarray(dataset.trusted_labels, np.int32)
    rows, count, classes = len(labels), len(trusted_labels), len(dataset.classes)
    scale = scaling(dataset.features)
    trusted = scale(dataset.trusted_features)
    both: Any = join(scale(dataset.features), trusted)
    everything = to_device(both, np.concatenate([labels, trusted_labels]))
    anchors = to_device(trusted, trusted_labels)
    y0 = start(net, both, classes, seed)
    # Five equal parts of the trusted rows; the last is held out, the others alternate between folds.
    part = deal(trusted_labels, 5, seed)
    held, fold, half = part == 4, part % FOLDS, part % 2 == 0

    def mask(keep, trust):
        """Weights of all rows: the kept training rows and some of the trusted rows."""
        return np.concatenate([keep, trust]).astype(np.float32)

    def judge(judges, y):
        return calibrated_loss(logits(net, y, anchors.features)[judges], trusted_labels[judges])

    none, all_rows, all_trusted = np.zeros(count), np.ones(rows), np.ones(count)
    as_given = fit_path(net, everything, mask(all_rows, none), y0, partial(judge, slice(None)))
    given_outputs = cross_fitted(
        lambda seen: fit(net, everything, mask(seen, none), as_given.penalty, y0).y,
        lambda y: logits(net, y, everything.features)[:rows],
        deal(labels, GIVEN_PARTS, seed + 1),
    )
    stages.end("trained as given")

    penalty = fit_path(net, anchors, half, y0, partial(judge, ~half)).penalty
    trusted_only = fit(net, anchors, all_trusted, penalty, y0)
    trusted_outputs = logits(net, trusted_only.y, everything.features)[:rows]
    stages.end("trusted only")

    def retrain(keep):
        chosen = fit_path(net, everything, mask(keep, half), y0, partial(judge, ~half))
        return fit(net, everything, mask(keep, all_trusted), chosen.penalty, chosen.y)

    disagrees = given_outputs.argmax(axis=1) != labels
    disagreement = retrain(~disagrees)
    stages.end("disagreement")

    if weights is None:
        weights = "per-row" if count >= 10 * rows else "shared"
    # Weights average about one half, and the penalty is per unit of weight.
    half_penalty = disagreement.penalty / 2
    # The run starts at the solution for equal weights. (A model of the agreeing rows is no start: it
    # is too sure of itself, and the outer loss then asks for wrong labels to sober it.)
    y = fit(net, everything, mask(all_rows, none), disagreement.penalty, y0).y
    arguments = (net, both[:rows], labels, trusted, trusted_labels, held, y, half_penalty)
    if weights == "per-row":
        setting = weighting.per_row(*arguments)
    else:
        given = label_scores(given_outputs, labels)
        scores = []
        for k in range(FOLDS):
            unseen = fit(net, anchors, (fold != k) & ~held, penalty, y0)
            outputs = logits(net, unseen.y, everything.features)[:rows]
            scores.append(np.concatenate([given, label_scores(outputs, labels)], axis=1))
        setting = weighting.shared(
            *arguments, fold=fold, scores=standardise(np.stack(scores, axis=1)), seed=seed
        )
    learnt = weighting.learn(
        setting,
        algorithm,
        inner_step=net.step,
        steps=steps,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
    )
    flagged = learnt.logits < 0
    stages.end("weights")

    warnings += learnt.warnings
    if flagged.all():
        warnings.append("every row is flagged: the trusted rows do not agree with the training rows at all")
    cleaned = retrain(~flagged)
    outputs = logits(net, cleaned.y, everything.features)[:rows]
    stages.end("final model")
    models = {
        "as_given": as_given,
        "trusted_only": trusted_only,
        "disagreement": disagreement,
        "cleaned": cleaned,
    }
    if truth is not None:
        models["oracle"] = retrain(labels == np.asarray(truth))
        stages.end("oracle")
    warnings += [
        f"the model {name} did not converge: its gradient is {model_fit.residual:.1e}"
        for name, model_fit in models.items()
        if model == "linear" and model_fit.residual > 3e-3
    ]
    test = (
        None
        if dataset.test_features is None
        else to_device(scale(dataset.test_features), dataset.test_labels)
    )
    test_accuracy = {
        name: None
        if test is None
        else accuracy(logits(net, models[name].y, test.features), test.labels)
        if name in models
        else None
        for name in ("as_given", "trusted_only", "disagreement", "cleaned", "oracle")
    }
    summary: dict[str, Any] = {
        "source": dataset.name,
        "rows": rows,
        "trusted": count,
        "classes": classes,
        "flagged": int(flagged.sum()),
        "weights": weights,
        "model": model,
        "algorithm": algorithm,
        "steps": int(learnt.history["step"][-1]),
        "best_step": int(learnt.history["best_step"]),
        "seed": seed,
        **learnt.final,
        "penalties": {name: model_fit.penalty for name, model_fit in models.items()},
        "test_accuracy": test_accuracy,
    }
    if truth is not None:
        wrong = labels != np.asarray(truth)
        trusted_margin = label_scores(trusted_outputs, labels)[:, 1]
        summary["detection"] = detection(flagged, -learnt.logits, wrong)
        summary["baseline_detection"] = {
            "disagreement": detection(disagrees, -label_scores(given_outputs, labels)[:, 1], wrong),
            "trusted_only": detection(trusted_margin < 0, -trusted_margin, wrong),
        }
    stages.end("report")
    summary |= {"seconds": stages.total, "stages": stages.seconds, "warnings": warnings}
    shape = dataset.image_shape
    return Cleaning(
        given=labels,
        weights=scipy.special.expit(learnt.logits),
        flagged=flagged,
        suggested=outputs.argmax(axis=1).astype(np.int32),
        truth=None if truth is None else np.asarray(truth),
        classes=list(dataset.classes),
        images=None if shape is None else np.asarray(dataset.features).reshape(rows, *shape),
        texts=None,
        history=learnt.history,
        summary=summary,
    )


def _known(what, value, choices):
    if value not in choices:
        names = ", ".join(str(choice) for choice in choices if choice is not None)
        raise ValueError(f"{what} must be one of {names}, got {value!r}")
