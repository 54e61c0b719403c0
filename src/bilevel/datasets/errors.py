"""What a loader says when it cannot go on."""

import difflib
from collections.abc import Iterable


class DataNotFoundError(FileNotFoundError):
    """A data set that is neither on this machine nor at its public home."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error line: the nearest known word, and all of them when few.

    >>> did_you_mean("mnits", ["digits", "mnist"])
    "did you mean 'mnist'? known: digits, mnist"
    """
    known = list(known)
    nearest = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    question = f"did you mean {nearest[0]!r}? " if nearest else ""
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    return f"{question}known: {shown}"
