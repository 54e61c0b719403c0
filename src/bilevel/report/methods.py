"""The ways to get a model out of noisy labels that a cleaning run compares."""

from collections.abc import Mapping
from typing import Any, NamedTuple

TITLES = {
    "as_given": "Trained as given",
    "trusted_only": "Trusted rows only",
    "disagreement": "Drop disagreements",
    "cleaned": "Cleaned",
    "oracle": "Truth known",
}
MEANINGS = {
    "as_given": "every row, with the label it came with, and no trusted rows.",
    "trusted_only": "the trusted rows alone.",
    "disagreement": "without the rows whose label a model that never saw them disagrees with.",
    "cleaned": "this run, without its flagged rows.",
    "oracle": "without the rows that are wrong in truth, which only a test bench knows.",
}
SCORES = ("precision", "recall", "f1", "auroc")


class Method(NamedTuple):
    """One line of the summary table; a number that is not known is None.

    Attributes:
      name: key in the summary.
      title: what a reader sees.
      meaning: what the model was trained on, a sentence.
      test_accuracy: accuracy on the test part, in [0, 1].
      detection: precision, recall, f1 and auroc of its flags, in this order.
    """

    name: str
    title: str
    meaning: str
    test_accuracy: float | None
    detection: tuple[float | None, ...]


def methods(summary: Mapping[str, Any]) -> list[Method]:
    """The methods of which at least one number is known, and always the cleaning itself."""
    accuracy = summary.get("test_accuracy") or {}
    detection = {**(summary.get("baseline_detection") or {}), "cleaned": summary.get("detection")}
    names = [*TITLES, *sorted({*accuracy, *detection} - {*TITLES})]
    table = [
        Method(
            name,
            TITLES[name] if name in TITLES else name.replace("_", " ").capitalize(),
            MEANINGS.get(name, ""),
            accuracy.get(name),
            tuple((detection.get(name) or {}).get(score) for score in SCORES),
        )
        for name in names
    ]
    return [
        method
        for method in table
        if method.name == "cleaned" or any(n is not None for n in (method.test_accuracy, *method.detection))
    ]
