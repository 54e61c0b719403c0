"""A paragraph that says what a cleaning run did."""

import math

from bilevel.cleaning.base_models import Choice
from bilevel.cleaning.result import Estimates
from bilevel.text import numeral


def paragraph(
    no_signal: str, taught: bool, choice: Choice, estimates: Estimates, trusted: int, flagged: int
) -> str:
    """Return what was done on this data set, in plain sentences.

    Args:
      no_signal: why nothing is flagged, or "".
      taught: whether trusted rows taught the detector.
      choice: the chosen base model.
      estimates: the estimates.
      trusted: number of trusted rows.
      flagged: number of flags.
    """
    name = choice.model.name if choice.model else "given"
    sentences = [
        f"The {name} model predicted each row without having seen it."
        if choice.model
        else "The given probabilities predicted each row."
    ]
    if taught:
        sentences.append(
            f"Its predictions, a model of the {numeral(trusted)} trusted rows alone and the nearest "
            "neighbours gave scores to every row. A detector learnt how these scores look for wrong labels "
            "from the trusted rows, with right and wrong labels in turn."
        )
    else:
        sentences.append(
            "Without enough trusted rows, confident learning compared these predictions with the given "
            "labels. The estimates are rough, since nothing here is known to be right."
        )
    if no_signal:
        sentences.append(f"Nothing is flagged: {no_signal}.")
    elif flagged:
        sentences.append(
            f"About {numeral(round(estimates.wrong))} labels are expected to be wrong "
            f"({100 * estimates.rate:.1f} %). {numeral(flagged)} rows are flagged; "
            f"{_percent(estimates.precision)} of them are expected to be wrong, and to hold "
            f"{_percent(estimates.recall)} of all wrong labels."
        )
    else:
        sentences.append("No row is flagged.")
    return " ".join(sentences)


def _percent(share):
    return "an unknown share" if math.isnan(share) else f"{100 * share:.0f} %"
