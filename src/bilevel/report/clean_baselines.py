"""The cleaned model of a run and the baselines that it is compared with."""

from collections.abc import Mapping
from typing import Any, NamedTuple

# Title of each method, and its meaning. Methods that only flag rows have no model.
METHODS = {
    "as_given": ("Trained as given", "every row with its given label, without the trusted rows."),
    "trusted_only": (
        "Trusted rows only",
        "the trusted rows alone; it flags the rows to which this model gives another label.",
    ),
    "disagreement": (
        "Disagreement",
        "flags the rows whose label differs from the prediction of a model that did not see them.",
    ),
    "confident_learning": (
        "Confident learning",
        "without the rows to which a model that did not see them gives another class, with more confidence "
        "than is usual for rows of that class.",
    ),
    "influence": ("Influence", "flags the rows without which the loss on the trusted rows would be lower."),
    "cleaned": ("Cleaned", "without the rows that this run flagged."),
    "oracle": (
        "Truth known",
        "without the rows whose label is wrong, which are known only in an experiment.",
    ),
}
SCORES = ("precision", "recall", "f1", "auroc")


class Method(NamedTuple):
    """A method to find wrong labels and train without them, with its results.

    Attributes:
      name: key in the summary.
      title: title in tables and figures.
      meaning: rows that its model is trained on, or that it flags.
      test_accuracy: accuracy on the test rows, in [0, 1]; None where unknown.
      detection: the `SCORES` of its flags; None where unknown.
    """

    name: str
    title: str
    meaning: str
    test_accuracy: float | None
    detection: tuple[float | None, ...]


def methods(summary: Mapping[str, Any]) -> list[Method]:
    """Return the cleaned model and the baselines with at least one known number."""
    accuracy = summary["test_accuracy"]
    # Both entries are missing when the truth is not known.
    detection = summary.get("baseline_detection", {}) | {"cleaned": summary.get("detection", {})}
    table = [
        Method(
            name=name,
            title=title,
            meaning=meaning,
            test_accuracy=accuracy.get(name),
            detection=tuple(detection.get(name, {}).get(score) for score in SCORES),
        )
        for name, (title, meaning) in METHODS.items()
    ]
    return [
        method
        for method in table
        if method.name == "cleaned" or any(n is not None for n in (method.test_accuracy, *method.detection))
    ]
