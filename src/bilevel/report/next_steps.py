"""The steps that a user should take after a cleaning run."""

import shlex
from typing import NamedTuple

import numpy as np

from bilevel.cleaning.result import Cleaning
from bilevel.text import is_number, numeral

# Trusted rows of a class below which its estimates are unsure.
FEW_TRUSTED = 10
# Expected precision below which flags need a look one by one, and above which they can be dropped.
LOW_PRECISION, HIGH_PRECISION = 0.6, 0.9
LOW_RECALL = 0.5
# Share of the right labels of a class that may be flagged, and its ratio to the share over all classes.
ALARMING, UNEQUAL = 0.05, 3.0
NAMED = 8  # classes named in a sentence


class Step(NamedTuple):
    """A step to take.

    Attributes:
      text: one or two sentences.
      command: the command to run, or "".
    """

    text: str
    command: str = ""


def next_steps(cleaning: Cleaning, folder: str = "") -> list[Step]:
    """Return the steps that follow from a run, the most useful first.

    Args:
      cleaning: result of `bilevel.cleaning.clean`.
      folder: output folder, for the commands.
    """
    summary, flags = cleaning.summary, int(cleaning.flagged.sum())
    steps = []
    if not summary["signal"]:
        steps.append(_no_signal())
    if cleaning.to_check is not None:
        steps.append(_check_rows(cleaning, folder))
    if flags:
        steps += [_review(flags), *_trust_flags(cleaning)]
    elif summary["signal"]:
        steps.append(_nothing_flagged(round(cleaning.estimates.wrong)))
    steps += _classes(cleaning)
    accuracy = summary["test_accuracy"]
    cleaned, as_given = accuracy.get("cleaned"), accuracy.get("as_given")
    if flags and is_number(cleaned) and is_number(as_given) and cleaned < as_given:
        steps.append(
            Step(
                f"On the test rows the model without the flagged rows ({cleaned:.3f}) is not better than the "
                f"model trained as given ({as_given:.3f}). Correct labels after review rather than drop rows."
            )
        )
    if flags:
        steps.append(
            Step(
                "Use the result: labels.csv lists every row with its probability, flag and suggested label; "
                "in Python, cleaning.to_frame() returns the same beside your columns."
            )
        )
    return steps


def _no_signal() -> Step:
    return Step(
        "No row can be flagged on these data. Give more trusted rows, or better features: a model has to "
        "predict the labels better than chance before it can find wrong ones."
    )


def _nothing_flagged(wrong: int) -> Step:
    if wrong < 1:
        return Step("No row is flagged and no wrong label is expected: use the data as they are.")
    return Step(
        f"No single row is sure enough to be flagged, yet about {numeral(wrong)} wrong labels are expected. "
        "Look at the rows of highest probability in labels.csv, or run again with a smaller --cost, which "
        "flags more rows."
    )


def _check_rows(cleaning: Cleaning, folder: str) -> Step:
    count = numeral(len(cleaning.to_check))  # pyright: ignore[reportArgumentType]
    place = f"{folder}/to_check.csv" if folder else "to_check.csv"
    command = cleaning.summary.get("command", "")
    again = "with it as the trusted rows" if not command else ""
    return Step(
        f"Check the {count} rows of to_check.csv: write the right label of each row into the column "
        "checked_label, or decide them under “Rows to check” in report.html and download checked.csv. "
        "They teach the run how far its scores can be trusted, so the flags and estimates improve. "
        f"Then run again {again}".rstrip()
        + (":" if command else "."),
        f"{command} --trusted {shlex.quote(place)}" if command else "",
    )


def _review(flags: int) -> Step:
    rows = "the flagged row" if flags == 1 else f"the {numeral(flags)} flagged rows, most suspicious first"
    return Step(
        f"Review {rows}, under “Review the flagged rows” in report.html. Accept, reject or relabel each "
        "one with the mouse or the keys a, r and 1 to 9, and download reviewed.csv. Correct your data with "
        "its labels. Do not use these rows as trusted rows: they are all suspicious, and trusted rows must "
        "stand for all rows."
    )


def _trust_flags(cleaning: Cleaning) -> list[Step]:
    estimates, steps = cleaning.estimates, []
    precision, recall = estimates.precision, estimates.recall
    if is_number(precision) and precision < LOW_PRECISION:
        steps.append(
            Step(
                f"Do not drop flagged rows unseen: only about {_percent(precision)} of them are expected to "
                "have a wrong label. A larger --cost leaves fewer false alarms."
            )
        )
    elif is_number(precision) and precision >= HIGH_PRECISION:
        steps.append(
            Step(
                f"If you have no time to review, drop the flagged rows: about {_percent(precision)} of them "
                "are expected to have a wrong label."
            )
        )
    if is_number(recall) and recall < LOW_RECALL:
        steps.append(
            Step(
                f"Only about {_percent(recall)} of the wrong labels are expected to be flagged. A smaller "
                "--cost flags more rows; more trusted rows make the scores better."
            )
        )
    return steps


def _classes(cleaning: Cleaning) -> list[Step]:
    classes, steps = cleaning.estimates.classes, []
    few = [entry.name for entry in classes if entry.trusted < FEW_TRUSTED and entry.rows]
    if cleaning.summary["trusted"] and few:
        steps.append(
            Step(
                f"Add trusted rows of {_listed(few)}: with fewer than {FEW_TRUSTED} trusted rows, the "
                "estimates for a class are unsure."
            )
        )
    alarms = np.array([entry.false_alarms for entry in classes], float)
    sizes = np.array([entry.rows for entry in classes], float)
    known = np.isfinite(alarms)
    overall = float((alarms * sizes)[known].sum() / max(sizes[known].sum(), 1))
    limit = max(ALARMING, UNEQUAL * overall)
    loud = [entry.name for entry in classes if is_number(entry.false_alarms) and entry.false_alarms > limit]
    if loud:
        steps.append(
            Step(
                f"Look closely at the flags of {_listed(loud)}: more than {_percent(limit)} of the right "
                "labels there are expected to be flagged."
            )
        )
    return steps


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"“{name}”" for name in names[:NAMED])
    more = len(names) - NAMED
    return f"{'class' if len(names) == 1 else 'the classes'} {shown}" + (
        f" and {numeral(more)} more" if more > 0 else ""
    )


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"
