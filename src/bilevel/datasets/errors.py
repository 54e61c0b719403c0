"""The error for a missing data set, and suggestions for misspelt names."""

import difflib
from collections.abc import Iterable


class DataNotFoundError(FileNotFoundError):
    """Error for a data set that is neither on this machine nor available to download."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the nearest known word and the known words.

    Args:
      word: the word that is not known.
      known: all known words; the first twelve are shown.

    >>> did_you_mean("mnits", ["digits", "mnist"])
    "did you mean 'mnist'? known: digits, mnist"
    """
    known = list(known)
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    question = f"did you mean {nearest[0]!r}? " if nearest else ""
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"{question}known: {shown}"
