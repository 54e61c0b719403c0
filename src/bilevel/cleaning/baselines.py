"""Accuracy and detection of simpler methods, to compare a cleaning run with."""

from typing import Any

import numpy as np
import scipy.sparse

from bilevel.cleaning.base_models import STRENGTHS, BaseModel, train
from bilevel.cleaning.rows import Rows
from bilevel.cleaning.scoring import accuracy, detection
from bilevel.extras import extra


def final_model(model: BaseModel, rows: Rows, keep: np.ndarray) -> Any:
    """Return the base model trained on the kept rows.

    The penalty of the linear model is chosen by cross-validation on these rows.

    Args:
      model: the base model.
      rows: N rows.
      keep: (N,) bool.
    """
    if model.name != "linear" or min(np.bincount(rows.labels[keep])[np.unique(rows.labels[keep])]) < 5:
        return train(model, rows, keep)
    with extra("clean"):
        from sklearn.model_selection import GridSearchCV

    search = BaseModel("linear", lambda: GridSearchCV(model.make(), {"C": list(STRENGTHS)}, cv=5))
    return train(search, rows, keep)


def test_accuracy(
    model: BaseModel, rows: Rows, keeps: dict[str, np.ndarray], features: Any, labels: np.ndarray
) -> dict[str, float]:
    """Return the accuracy on test rows of the base model trained on each choice of the rows.

    Args:
      model: the base model.
      rows: N rows.
      keeps: (N,) bool by name, the rows to train on.
      features, labels: the test rows.
    """
    flat = features if scipy.sparse.issparse(features) else features.reshape(len(features), -1)
    found = {}
    for name, keep in keeps.items():
        trained = final_model(model, rows, keep)
        outputs = np.zeros((len(labels), rows.classes))
        outputs[:, trained.classes_] = trained.predict_proba(flat)
        found[name] = accuracy(outputs, labels)
    return found


def baseline_detections(
    given: np.ndarray,
    outputs: np.ndarray,
    alone: np.ndarray | None,
    influence: np.ndarray | None,
    confident: np.ndarray,
    wrong: np.ndarray,
) -> dict[str, dict[str, float | None]]:
    """Return precision, recall, f1 and AUROC of each baseline at finding wrong labels.

    Args:
      given: (n,) given class indices.
      outputs: (n, K) probabilities by the base model trained as given, which has not seen the row.
      alone: (n, K) probabilities by models of the trusted rows alone, or None.
      influence: (n,) influence of the rows, or None.
      confident: (n,) bool, flags of confident learning.
      wrong: (n,) bool, rows whose label is wrong.
    """
    suspicion = _suspicion(outputs, given)
    found = {
        "confident_learning": detection(confident, suspicion, wrong),
        "disagreement": detection(outputs.argmax(axis=1) != given, suspicion, wrong),
    }
    if alone is not None:
        found["trusted_only"] = detection(alone.argmax(axis=1) != given, _suspicion(alone, given), wrong)
    if influence is not None:
        found["influence"] = detection(influence > 0, influence, wrong)
    return found


def _suspicion(outputs, given):
    return -outputs[np.arange(len(given)), given]
