"""Optional packages, and the extras of `bilevel` that install them."""

from collections.abc import Iterator
from contextlib import contextmanager

# For each imported name: the package, and the extras of `pyproject.toml` that install it.
PACKAGES = {
    "PIL": ("pillow", ("report", "clean", "fewshot")),
    "filelock": ("filelock", ("clean", "fewshot")),
    "flax": ("flax", ("fewshot",)),
    "jinja2": ("jinja2", ("report", "clean", "fewshot")),
    "lineax": ("lineax", ("lineax",)),
    "matplotlib": ("matplotlib", ("report", "clean", "fewshot")),
    "orbax": ("orbax-checkpoint", ("clean", "fewshot")),
    "polars": ("polars", ("clean",)),
    "pooch": ("pooch", ("clean", "fewshot")),
    "scipy": ("scipy", ("clean", "fewshot")),
    "sklearn": ("scikit-learn", ("clean",)),
    "skrub": ("skrub", ("clean",)),
    "tqdm": ("tqdm", ("clean", "fewshot")),
}


def explain(error: ModuleNotFoundError, who: str, extra: str) -> str | None:
    """Return the line that names the missing package and how to install it.

    Args:
      error: the failed import.
      who: what needs the package, the subject of the sentence.
      extra: the extra to name if it installs the package; else another one that does.

    Returns:
      The line, or None when no extra installs the missing module.

    >>> explain(ModuleNotFoundError(name="sklearn.metrics"), "bilevel clean", "clean")
    "bilevel clean needs scikit-learn, which is not installed; install it with: pip install 'bilevel[clean]'"
    """
    package, extras = PACKAGES.get((error.name or "").partition(".")[0], ("", ()))
    if not package:
        return None
    chosen = extra if extra in (*extras, "all") else extras[0]
    return f"{who} needs {package}, which is not installed; install it with: pip install 'bilevel[{chosen}]'"


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Return a context in which a missing package is an error that names its extra.

    Args:
      name: the extra to name if it installs the package; else another one that does.

    Raises:
      ModuleNotFoundError: with one line on how to install the package.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        message = explain(error, "this part of bilevel", name)
        if message is None:
            raise
        raise ModuleNotFoundError(message, name=error.name) from None
