"""Base models of cleaning: candidates, cross-fitted probabilities, and the choice of one."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from bilevel.cleaning.rows import Rows
from bilevel.extras import extra

# Inverse penalties of the linear candidates, for scaled features.
STRENGTHS = (0.01, 0.1, 1.0, 10.0)
# Gradient boosting takes minutes for more columns than this, such as those of images.
BOOSTED_COLUMNS = 200
# The candidates are compared on at most this many training rows.
CHOICE_ROWS = 4000
# Share of the uniform distribution in cross-fitted probabilities: a forest of 200 trees cannot tell
# a probability of 0 from one of 1/200.
UNIFORM = 0.01
# Rows of a smaller weight are left out of the training.
SMALLEST_WEIGHT = 1e-3


class BaseModel(NamedTuple):
    """A classifier that cleaning trains on parts of the rows.

    Attributes:
      name: name in the report.
      make: `() -> classifier`; a new scikit-learn classifier, not trained yet.
    """

    name: str
    make: Callable[[], Any]


class Choice(NamedTuple):
    """The chosen base model.

    Attributes:
      model: the model, or None where the probabilities were given.
      accuracy: cross-fitted accuracy of each candidate, by name.
      reason: one sentence that says why.
    """

    model: Any
    accuracy: dict[str, float]
    reason: str


def candidates(rows: Rows, seed: int) -> list[BaseModel]:
    """Return the models that suit the rows; linear ones come with several penalties.

    Args:
      rows: the rows. Sparse features leave out boosting and the network; more than 200 columns leave out
        boosting.
      seed: seed of the models.
    """
    with extra("clean"):
        from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.neural_network import MLPClassifier

    def linear(strength):
        return BaseModel("linear", lambda: LogisticRegression(C=strength, max_iter=200))

    models = [linear(strength) for strength in STRENGTHS]
    models.append(
        BaseModel("forest", lambda: RandomForestClassifier(200, random_state=seed, n_jobs=-1)),
    )
    dense = not scipy.sparse.issparse(rows.features)
    if dense and rows.features.shape[1] <= BOOSTED_COLUMNS:
        models.append(BaseModel("boosting", lambda: HistGradientBoostingClassifier(random_state=seed)))
    if dense:
        models.append(
            BaseModel(
                "mlp",
                lambda: MLPClassifier(
                    (64,), alpha=0.1, max_iter=40, learning_rate_init=3e-3, random_state=seed
                ),
            )
        )
    return models


def named(name: str, models: list[BaseModel]) -> list[BaseModel]:
    """Return the candidates with a given name.

    Args:
      name: "linear", "forest", "boosting" or "mlp".
      models: the candidates that suit the rows.

    Raises:
      ValueError: when there is none.
    """
    chosen = [model for model in models if model.name == name]
    if not chosen:
        names = ", ".join(dict.fromkeys(model.name for model in models))
        raise ValueError(f"the model must be one of {names} for these rows, got {name!r}; choose another")
    return chosen


def of_estimator(estimator: Any) -> BaseModel:
    """Return the base model of a scikit-learn classifier of the user.

    Raises:
      ValueError: when it is not a classifier that gives probabilities.
    """
    with extra("clean"):
        from sklearn.base import clone, is_classifier

    if not hasattr(estimator, "fit") or not is_classifier(estimator):
        raise ValueError(
            f"estimator must be a scikit-learn classifier, got {type(estimator).__name__}; "
            "give for example LogisticRegression()"
        )
    if not hasattr(estimator, "predict_proba"):
        raise ValueError(
            f"estimator must have predict_proba, which {type(estimator).__name__} lacks; "
            "wrap it in sklearn.calibration.CalibratedClassifierCV"
        )
    return BaseModel(type(estimator).__name__, lambda: clone(estimator))


def choose(models: list[BaseModel], rows: Rows) -> Choice:
    """Return the model with the best cross-fitted accuracy.

    The accuracy is that on the trusted rows, or on the given labels without trusted rows. Models of
    equal accuracy are compared by their log-likelihood.

    Args:
      models: the candidates.
      rows: the rows; at most 4,000 training rows are used.
    """
    if len(models) == 1:
        return Choice(models[0], {}, f"The model {models[0].name} was given.")
    sample = rows.take(_sample(rows))
    judged = sample.trusted if sample.trusted.any() else np.ones(len(sample.labels), bool)
    labels = sample.labels[judged]
    score, accuracy = {}, {}
    for place, model in enumerate(models):
        outputs = cross_fitted(model, sample)[judged]
        right = outputs.argmax(axis=1) == labels
        likelihood = np.log(outputs[np.arange(len(labels)), labels]).mean()
        score[place] = right.mean() + 1e-3 * likelihood
        accuracy[model.name] = max(accuracy.get(model.name, 0.0), float(right.mean()))
    best = models[max(score, key=score.__getitem__)]
    kind = "trusted rows" if rows.trusted.any() else "given labels"
    if len(accuracy) == 1:
        return Choice(best, accuracy, f"The model {best.name} was given.")
    others = ", ".join(f"{name} {value:.3f}" for name, value in accuracy.items() if name != best.name)
    reason = (
        f"The model {best.name} has the best accuracy on the {kind} that it has not seen: "
        f"{accuracy[best.name]:.3f} ({others})."
    )
    return Choice(best, accuracy, reason)


def _sample(rows: Rows) -> np.ndarray:
    """Return the positions of all trusted rows and of some training rows."""
    training = np.flatnonzero(~rows.trusted)
    if len(training) > CHOICE_ROWS:
        training = np.random.default_rng(0).choice(training, CHOICE_ROWS, replace=False)
    return np.concatenate([np.sort(training), np.flatnonzero(rows.trusted)])


def cross_fitted(model: BaseModel, rows: Rows, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the (N, K) probabilities for each row by a model trained without its fold.

    Args:
      model: the base model.
      rows: N rows.
      weights: (N,) weights of the rows in training; None means equal weights.
    """
    outputs = np.zeros((len(rows.labels), rows.classes))
    for fold in np.unique(rows.fold):
        held = rows.fold == fold
        trained = train(model, rows, ~held, weights)
        outputs[held] = probabilities(trained, rows.features[held], rows.classes)
    return outputs


def trusted_only(model: BaseModel, rows: Rows, seed: int) -> np.ndarray:
    """Return (N, K) probabilities by models of the trusted rows alone, which have not seen the row.

    Gradient boosting and networks need more rows than that; a forest replaces them.

    Args:
      model: the base model.
      rows: N rows.
      seed: seed of the forest.
    """
    if model.name in ("boosting", "mlp"):
        model = next(other for other in candidates(rows, seed) if other.name == "forest")
    outputs = np.zeros((len(rows.labels), rows.classes))
    for fold in np.unique(rows.fold):
        held = rows.fold == fold
        trained = train(model, rows, rows.trusted & ~held)
        outputs[held] = probabilities(trained, rows.features[held], rows.classes)
    return outputs


def train(model: BaseModel, rows: Rows, seen: np.ndarray, weights: np.ndarray | None = None) -> Any:
    """Return a classifier trained on some of the rows.

    A classifier without `sample_weight` is trained on the rows of weight at least 1/2.

    Args:
      model: the base model.
      rows: N rows.
      seen: (N,) bool, rows to train on.
      weights: (N,) weights in [0, 1]; None means equal weights.
    """
    classifier = model.make()
    options = {}
    if weights is not None:
        if _takes_weights(classifier):
            seen = seen & (weights > SMALLEST_WEIGHT)
            options = {"sample_weight": weights[seen]}
        else:
            seen = seen & (weights >= 0.5)
    if len(np.unique(rows.labels[seen])) < 2:
        return _Constant(rows.labels[seen])
    with warnings.catch_warnings():
        # Models are stopped early on purpose; what counts is their accuracy on rows they have not seen.
        warnings.filterwarnings("ignore", category=_convergence_warning())
        classifier.fit(rows.features[seen], rows.labels[seen], **options)
    return classifier


def probabilities(classifier: Any, features: Any, classes: int) -> np.ndarray:
    """Return (n, K) probabilities, a little above 0 in every class.

    Args:
      classifier: a trained classifier, which may know some of the classes only.
      features: (n, d) rows.
      classes: K.
    """
    outputs = np.zeros((features.shape[0], classes))
    outputs[:, classifier.classes_] = classifier.predict_proba(features)
    return (1 - UNIFORM) * outputs + UNIFORM / classes


class _Constant:
    """A classifier that saw one class, or none, only."""

    def __init__(self, labels):
        self.classes_ = np.unique(labels)

    def predict_proba(self, features):
        return np.ones((features.shape[0], len(self.classes_)))


def _takes_weights(classifier):
    return "sample_weight" in inspect.signature(classifier.fit).parameters


def _convergence_warning():
    from sklearn.exceptions import ConvergenceWarning

    return ConvergenceWarning
