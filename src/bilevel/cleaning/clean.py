"""Detection of the wrong labels of a data set, with or without trusted rows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

from bilevel import datasets
from bilevel.cleaning.base_models import (
    UNIFORM,
    BaseModel,
    Choice,
    candidates,
    choose,
    cross_fitted,
    named,
    of_estimator,
)
from bilevel.cleaning.baselines import baseline_detections, test_accuracy
from bilevel.cleaning.confident import calibrate, confident_flags, confident_joint
from bilevel.cleaning.detector import Detection, detect
from bilevel.cleaning.flags import estimate, no_signal, threshold
from bilevel.cleaning.influence import row_influence
from bilevel.cleaning.noise_matrix import posterior
from bilevel.cleaning.paragraph import paragraph
from bilevel.cleaning.result import Cleaning
from bilevel.cleaning.rows import Rows, join_rows
from bilevel.cleaning.scoring import Stages, detection
from bilevel.cleaning.to_check import rows_to_check
from bilevel.cleaning.validate import validate
from bilevel.datasets.types import Dataset
from bilevel.types import require

# With fewer trusted rows than this, the detector cannot be taught; they only train the model.
FEWEST_TRUSTED = 20
# With fewer trusted rows of a class, its noise is not known well.
FEWEST_OF_CLASS = 5
UNTAUGHT_ROUNDS = 3


def clean(
    X: Any,
    y: Any,
    trusted: Any = None,
    *,
    test: Any = None,
    estimator: Any = None,
    pred_probs: Any = None,
    cost: float | None = None,
    to_check: int = 50,
    seed: int = 0,
    name: str = "data",
) -> Cleaning:
    """Find the wrong labels of a data set.

    Trusted rows, whose labels are right, teach a detector what wrong labels look like
    (`bilevel.cleaning.detector`). Each row gets the probability that its label is wrong. Without trusted
    rows, confident learning takes its place, and the result names the rows that are most worth checking.

    Args:
      X: n rows: an array (n, d) or (n, h, w[, c]), a frame of pandas or polars, a SciPy sparse matrix, or
        a list of texts.
      y: n labels: integers, text, Booleans or categories.
      trusted: `(X, y)` of rows whose labels are right, or a Boolean mask of such rows of `X`. Two hundred
        rows serve well, fifty already help.
      test: `(X, y)` of rows to measure the accuracy of the final models on.
      estimator: scikit-learn classifier with `predict_proba`, or one of "linear", "forest", "boosting" and
        "mlp". Default: the best of these by the accuracy on trusted rows.
      pred_probs: (n, classes) probabilities by a model that has not seen the row, in the order of the
        sorted classes, instead of an estimator. With `trusted=(X, y)` give a pair: for the rows, and for
        the trusted rows.
      cost: ratio of two costs, a false alarm to a missed wrong label. A row is flagged if its
        probability is above cost / (1 + cost). Default: the threshold with the largest expected f1.
      to_check: number of rows to name for checking when there are no trusted rows.
      seed: seed of the folds and of the models.
      name: name of the data set in the report.

    Returns:
      A `Cleaning`.

    Raises:
      ValueError: when an argument or the data break a rule; the message is one line.

    >>> X = np.concatenate([np.linspace(-2, -1, 50), np.linspace(1, 2, 50)])[:, None]
    >>> y = np.repeat([0, 1], 50)
    >>> y[3] = 1
    >>> clean(X, y, np.arange(100) % 2 == 0).flagged.nonzero()[0]
    array([3])
    """
    data = datasets.from_arrays(X, y, trusted=trusted, test=test, name=name)
    return clean_dataset(
        data,
        estimator=estimator,
        pred_probs=pred_probs,
        cost=cost,
        to_check=to_check,
        seed=seed,
        columns=_frame(X, data.rows),
    )


def clean_dataset(
    dataset: Dataset,
    truth: np.ndarray | None = None,
    *,
    estimator: Any = None,
    pred_probs: Any = None,
    cost: float | None = None,
    to_check: int = 50,
    seed: int = 0,
    columns: Any = None,
    influence: bool = True,
) -> Cleaning:
    """Find the wrong labels of a `Dataset`; see `clean`.

    Args:
      dataset: training rows, with trusted rows and test rows where they exist.
      truth: (n,) true classes of the training rows, for the report; default: not known.
      estimator, pred_probs, cost, to_check, seed: see `clean`.
      columns: frame of the user, for `Cleaning.to_frame`; default: `dataset.shown`.
      influence: whether to compute the influence of the rows, which takes a few seconds.

    Returns:
      A `Cleaning`.

    Raises:
      ValueError: when an argument or the data break a rule; the message is one line.
    """
    require(cost is None or 0 < cost < float("inf"), "cost must be positive", cost)
    require(to_check >= 1, "to_check must be at least 1", to_check)
    require(
        estimator is None or pred_probs is None,
        "give an estimator or pred_probs, not both",
        f"{type(estimator).__name__} and pred_probs",
    )
    warnings, stages = validate(dataset), Stages()
    given = np.asarray(dataset.labels, np.int32)
    unchecked = np.ones(len(given), bool)
    if dataset.checked_rows is not None:
        unchecked[dataset.checked_rows] = False
    rows = _rows(dataset, unchecked, seed)
    model, choice = _model(rows, estimator, pred_probs, unchecked, seed)
    stages.end("model")
    taught = int(rows.trusted.sum()) >= FEWEST_TRUSTED
    if taught:
        found = detect(rows, model, seed, _seen_noise(dataset))
    else:
        found = _detect_untaught(rows, model)
        warnings += _warn_of_few_trusted(int(rows.trusted.sum()))
    flags = _flag(found, rows, cost, taught)
    stages.end("detection")

    def for_all(values, checked_values, fill):
        whole = np.full(len(given), fill, dtype=np.asarray(values).dtype)
        whole[unchecked] = values
        if dataset.checked_rows is not None:
            whole[dataset.checked_rows] = checked_values
        return whole

    checked_labels = rows.labels[rows.trusted]
    checked_wrong = False if dataset.checked_rows is None else checked_labels != given[dataset.checked_rows]
    probability = for_all(found.probability, checked_wrong, 0.0)
    flagged = for_all(flags.flagged, checked_wrong, False)
    suggested = for_all(flags.suggested, checked_labels, 0)
    estimates = estimate(probability, flagged, given, dataset.classes, checked_labels, found.noise)
    influences = None
    if taught and influence and rows.features.shape[1]:
        of_rows = row_influence(
            rows.features[~rows.trusted],
            given[unchecked],
            rows.features[rows.trusted],
            checked_labels,
            rows.classes,
        )
        influences = for_all(of_rows, np.nan, np.nan)
    stages.end("influence")
    confident = confident_flags(found.as_given[~rows.trusted], given[unchecked])
    wrong = None if truth is None else np.asarray(truth) != given
    accuracy = dict.fromkeys(("as_given", "trusted_only", "confident_learning", "cleaned", "oracle"))
    if dataset.test_features is not None and isinstance(model, BaseModel):
        keeps = _keeps(rows, confident, flags.flagged, None if wrong is None else wrong[unchecked])
        accuracy |= test_accuracy(model, rows, keeps, dataset.test_features, np.asarray(dataset.test_labels))
    stages.end("final models")
    warnings += _warn_of_suspicious(found.as_given, rows, given, unchecked, dataset.checked_rows)
    warnings += _warn_of_classes(dataset, estimates, checked_labels, taught)
    summary: dict[str, Any] = {
        "source": dataset.name,
        "rows": len(given),
        "trusted": len(checked_labels),
        "classes": len(dataset.classes),
        "flagged": int(flagged.sum()),
        "wrong": estimates.wrong,
        "rate": estimates.rate,
        "precision": _known(estimates.precision),
        "recall": _known(estimates.recall),
        "signal": not flags.reason,
        "no_signal": flags.reason,
        "model": choice.model.name if choice.model else "given probabilities",
        "model_reason": choice.reason,
        "models": choice.accuracy,
        "paragraph": paragraph(
            flags.reason, taught, choice, estimates, len(checked_labels), int(flagged.sum())
        ),
        "threshold": flags.threshold,
        "cost": cost,
        "seed": seed,
        "test_accuracy": accuracy,
    }
    if wrong is not None:
        summary["detection"] = detection(flagged, probability, wrong)
        summary["baseline_detection"] = baseline_detections(
            given[unchecked],
            found.as_given[~rows.trusted],
            None if found.alone is None else found.alone[~rows.trusted],
            None if influences is None else influences[unchecked],
            confident,
            wrong[unchecked],
        )
    stages.end("report")
    summary |= {
        "seconds": stages.total,
        "stages": stages.seconds,
        "notes": list(dataset.notes),
        "warnings": warnings,
    }
    confidence = found.as_given[~rows.trusted][np.arange(len(flags.flagged)), given[unchecked]]
    chosen = (
        None if taught else np.flatnonzero(unchecked)[rows_to_check(confidence, given[unchecked], to_check)]
    )
    return Cleaning(
        given=given,
        classes=[str(label) for label in dataset.classes],
        probability=probability,
        flagged=flagged,
        suggested=suggested,
        checked=~unchecked,
        influence=influences,
        to_check=chosen,
        truth=None if truth is None else np.asarray(truth),
        images=_images(dataset),
        columns=dataset.shown if columns is None else columns,
        keys=dataset.keys if columns is None else (),
        rows=dataset.rows,
        estimates=estimates,
        summary=summary,
    )


def _rows(dataset: Dataset, unchecked: np.ndarray, seed: int) -> Rows:
    features: Any = dataset.features
    trusted_features, trusted_labels = dataset.trusted_features, dataset.trusted_labels
    if trusted_labels is None:
        trusted_features, trusted_labels = features[:0], np.zeros(0, np.int32)
    return join_rows(
        features[unchecked],
        np.asarray(dataset.labels)[unchecked],
        trusted_features,
        trusted_labels,
        len(dataset.classes),
        seed,
    )


def _model(rows, estimator, pred_probs, unchecked, seed):
    """Return the base model or the given probabilities of all rows, and the `Choice`."""
    if pred_probs is None:
        if estimator is None or isinstance(estimator, str):
            models = candidates(rows, seed)
            models = models if estimator is None else named(estimator, models)
        else:
            models = [of_estimator(estimator)]
        choice = choose(models, rows)
        return choice.model, choice
    outputs = given_probabilities(pred_probs, rows, unchecked)
    return outputs, Choice(None, {}, "The probabilities of the classes were given.")


def given_probabilities(pred_probs: Any, rows: Rows, unchecked: np.ndarray) -> np.ndarray:
    """Return the (N, K) probabilities of the user for all rows, a little above 0.

    Args:
      pred_probs: (n, K) array for the rows of the data, or a pair of arrays, for these and for the trusted
        rows.
      rows: the N rows.
      unchecked: (n,) bool, rows of the data that are training rows.

    Raises:
      ValueError: when the shape is wrong or a row is no distribution.
    """
    trusted = int(rows.trusted.sum())
    if isinstance(pred_probs, tuple | list) and len(pred_probs) == 2 and np.ndim(pred_probs[0]) == 2:
        of_rows, of_trusted = (np.asarray(part, float) for part in pred_probs)
    else:
        of_rows = np.asarray(pred_probs, float)
        of_trusted = of_rows[~unchecked] if len(of_rows) == len(unchecked) else np.zeros((0, rows.classes))
    for part, outputs, count in (("rows", of_rows, len(unchecked)), ("trusted rows", of_trusted, trusted)):
        require(
            outputs.shape == (count, rows.classes),
            f"pred_probs of the {part} must have the shape ({count}, {rows.classes}), a row and a class each "
            "(with trusted=(X, y), give a pair of arrays)",
            outputs.shape,
        )
        sums = outputs.sum(axis=1)
        fine = np.isfinite(outputs).all() and (outputs >= 0).all() and np.allclose(sums, 1, atol=1e-3)
        require(fine, f"pred_probs of the {part} must be probabilities that sum to 1 in each row", "others")
    outputs = np.concatenate([of_rows[unchecked], of_trusted])
    return (1 - UNIFORM) * outputs + UNIFORM / rows.classes


def _seen_noise(dataset: Dataset) -> np.ndarray | None:
    """Return the counts of (true, given) labels among the checked rows of the data.

    Where all labels agree, the data may hold the checked labels already. Then nothing is known.
    """
    if dataset.checked_rows is None:
        return None
    given, checked = np.asarray(dataset.labels)[dataset.checked_rows], np.asarray(dataset.trusted_labels)
    if np.array_equal(given, checked):
        return None
    counts = np.zeros((len(dataset.classes), len(dataset.classes)))
    np.add.at(counts, (checked, given), 1)
    return counts


def _detect_untaught(rows: Rows, model: BaseModel | np.ndarray) -> Detection:
    """Return the posterior of confident learning, without a detector.

    The flags of a round are left out of the training in the next one. The mean of the rounds is used: the
    first predictions learn from wrong labels, the last ones miss the rows that were left out wrongly.
    """
    training = ~rows.trusted
    given = rows.labels[training]
    if isinstance(model, np.ndarray):
        as_given = outputs = model
    else:
        kept, rounds = np.ones(len(rows.labels)), []
        for _ in range(UNTAUGHT_ROUNDS):
            rounds.append(cross_fitted(model, rows, kept))
            kept[training] = ~confident_flags(rounds[-1][training], given)
        as_given, outputs = rounds[0], np.mean(rounds, axis=0)
    joint = confident_joint(outputs[training], given)
    noise = (joint / np.maximum(joint.sum(axis=0), 1e-12)).T
    right = posterior(outputs[training], given, noise)[np.arange(len(given)), given]
    return Detection(
        probability=calibrate(1 - right, int(confident_flags(outputs[training], given).sum())),
        right=np.zeros(int(rows.trusted.sum())),
        area=float("nan"),
        label_area=float("nan"),
        noise=noise,
        as_given=as_given,
        outputs=outputs,
        alone=None,
    )


class _Flags(NamedTuple):
    """Flags of the training rows.

    Attributes:
      flagged: (n,) bool.
      threshold: probability from which rows are flagged.
      suggested: (n,) suggested classes; of flagged rows the most probable other class.
      reason: why nothing is flagged, or "".
    """

    flagged: np.ndarray
    threshold: float
    suggested: np.ndarray
    reason: str


def _flag(found: Detection, rows: Rows, cost: float | None, taught: bool) -> _Flags:
    given = rows.labels[~rows.trusted]
    reason = ""
    if taught or cost is not None:
        cut = threshold(found.probability, cost)
        flagged = found.probability >= cut
    else:
        flagged = confident_flags(found.outputs[~rows.trusted], given)
        cut = float(found.probability[flagged].min()) if flagged.any() else 1.0
    if taught:
        alarms = int((found.right >= cut).sum())
        reason = no_signal(
            found.area, found.label_area, int(flagged.sum()), len(given), alarms, len(found.right)
        )
        flagged &= not reason
    others = posterior(found.outputs[~rows.trusted], given, found.noise)
    others[np.arange(len(given)), given] = -1
    return _Flags(flagged, cut, np.where(flagged, others.argmax(axis=1), given), reason)


def _keeps(rows, confident, flagged, wrong):
    """Return the rows that each final model trains on, by name."""

    def keep(mask, trusted=True):
        kept = np.full(len(rows.labels), trusted)
        kept[~rows.trusted] = mask
        return kept

    everything = np.ones(len(flagged), bool)
    keeps = {"as_given": keep(everything, trusted=False)}
    if len(np.unique(rows.labels[rows.trusted])) > 1:
        keeps["trusted_only"] = rows.trusted
    keeps |= {"confident_learning": keep(~confident), "cleaned": keep(~flagged)}
    return keeps if wrong is None else keeps | {"oracle": keep(~wrong)}


def _warn_of_few_trusted(count):
    if not count:
        return []
    return [
        f"{count} trusted rows are too few to teach the detector, which needs {FEWEST_TRUSTED}; "
        "they only help to train the model, and the estimates are rough"
    ]


def _warn_of_suspicious(outputs, rows, given, unchecked, checked_rows) -> Sequence[str]:
    """Warn where the checked rows of the data are more suspicious than the others."""
    if checked_rows is None:
        return []
    others = outputs[~rows.trusted][np.arange(int(unchecked.sum())), given[unchecked]]
    checked = outputs[rows.trusted][np.arange(len(checked_rows)), given[checked_rows]]
    below = scipy.stats.mannwhitneyu(checked, others, alternative="less")
    area = below.statistic / (len(checked) * len(others))
    if below.pvalue > 1e-3 or area > 0.4:
        return []
    return [
        "the checked rows are more suspicious than the others, so the estimates and the flags are not to be "
        "trusted; check rows that stand for all rows, such as those of to_check.csv"
    ]


def _warn_of_classes(dataset, estimates, trusted_labels, taught) -> Sequence[str]:
    if not taught:
        return []
    counts = np.bincount(trusted_labels, minlength=len(dataset.classes))
    few = [
        f"{dataset.classes[label]} ({counts[label]})" for label in np.flatnonzero(counts < FEWEST_OF_CLASS)
    ]
    if not few:
        return []
    names = ", ".join(few[:8]) + (", ..." if len(few) > 8 else "")
    return [
        f"fewer than {FEWEST_OF_CLASS} trusted rows have the class {names}; "
        "the estimates for such classes are unsure, so check more of them"
    ]


def _known(number):
    return None if np.isnan(number) else number


def _frame(X, rows):
    """Return the rows of a frame of pandas that have a label; None for other data."""
    if not hasattr(X, "iloc") or not hasattr(X, "columns"):
        return None
    return X if rows is None else X.iloc[rows]


def _images(dataset):
    if dataset.image_shape is None:
        return None
    return np.asarray(dataset.features).reshape(-1, *dataset.image_shape)
