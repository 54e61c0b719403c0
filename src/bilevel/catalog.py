"""What there is: algorithms, tasks, data sets and claims, as `bilevel list` shows them."""

import inspect
import re
from typing import Any

from bilevel import algorithms, datasets, tasks

TASKS = tuple(name for name in tasks.__all__ if name != "Task")


def catalog() -> dict[str, list[dict[str, Any]]]:
    """Algorithms (name, family, paper, oracle calls a step), tasks, data sets and claims.

    Family and paper are read from the docstring of each algorithm, its costs from the algorithm
    itself, built with its defaults.

    >>> [entry["name"] for entry in catalog()["tasks"]]
    ['few_shot', 'hyperclean', 'quadratic', 'regularization', 'worst_case']
    """
    # The claims bring the drawing of figures with them, which the other commands load late or never.
    from bilevel.reproduce import get, names

    problem = tasks.quadratic().problem
    claims = map(get, names())
    return {
        "algorithms": [
            {
                "name": name,
                "family": _field(getattr(algorithms, name), "Family"),
                **getattr(algorithms, name)(problem).cost._asdict(),
                "paper": _field(getattr(algorithms, name), "Reference"),
            }
            for name in algorithms.__all__
        ],
        "tasks": [{"name": name, "about": _first_line(getattr(tasks, name))} for name in TASKS],
        "datasets": [
            {"name": name, "about": datasets.describe(name)}
            for name in [*datasets.names(), *datasets.class_sets()]
        ],
        "claims": [{"name": claim.name, "paper": claim.paper, "title": claim.title} for claim in claims],
    }


def _first_line(thing):
    return str(inspect.getdoc(thing)).partition("\n")[0]


def _field(thing, name):
    """The text behind `name:` in a docstring, up to the next field or blank line."""
    found = re.search(
        rf"^{name}: (.*?)(?=\n\n|\n[A-Z][\w' ]*:|\Z)", str(inspect.getdoc(thing)), re.MULTILINE | re.DOTALL
    )
    return " ".join(found[1].split()).rstrip(".") if found else ""
