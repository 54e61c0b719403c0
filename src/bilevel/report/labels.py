"""Flagged rows in order of suspicion, and `labels.csv` with all rows."""

import csv
import io

import numpy as np

from bilevel.cleaning.result import Cleaning

# A spreadsheet runs a cell that begins with one of these as a formula.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")


def suspects(cleaning: Cleaning) -> np.ndarray:
    """Return the flagged rows in order of increasing weight."""
    rows = np.flatnonzero(cleaning.flagged)
    return rows[np.argsort(np.asarray(cleaning.weights)[rows], kind="stable")]


def labels_csv(cleaning: Cleaning) -> str:
    """Return the contents of `labels.csv`, one line per row of the data, in its order.

    The columns are row (from 0), given, weight, flagged and suggested.
    """
    names = [spreadsheet_safe(name) for name in cleaning.classes]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "given", "weight", "flagged", "suggested"])
    columns = (cleaning.given, cleaning.weights, cleaning.flagged, cleaning.suggested)
    for row, (given, weight, flagged, suggested) in enumerate(zip(*columns, strict=True)):
        writer.writerow(
            [row, names[given], f"{weight:.6g}", "true" if flagged else "false", names[suggested]]
        )
    return text.getvalue()


def spreadsheet_safe(name: str) -> str:
    """Return a name, with a quote in front if a spreadsheet would run it as a formula.

    >>> spreadsheet_safe("=1+1"), spreadsheet_safe("-1"), spreadsheet_safe("cat")
    ("'=1+1", '-1', 'cat')
    """
    name = str(name)
    return f"'{name}" if name.startswith(FORMULA_STARTS) and not _is_numeral(name) else name


def _is_numeral(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
