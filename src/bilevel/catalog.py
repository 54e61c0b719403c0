"""Catalogue of algorithms, tasks, data sets and claims for `bilevel list`."""

import inspect
from typing import Any

from bilevel import algorithms, datasets, tasks

TASKS = tuple(tasks.__all__)


def catalog() -> dict[str, list[dict[str, Any]]]:
    """Return all algorithms, tasks, data sets and claims, one dict each.

    The entry of an algorithm holds its oracle calls per step with default settings.

    >>> [entry["name"] for entry in catalog()["tasks"]]
    ['few_shot', 'hyperclean', 'quadratic', 'regularization', 'worst_case']
    """
    # The claims import matplotlib, which other commands load late or never.
    from bilevel_claims import get, names

    problem = tasks.quadratic().problem
    claims = map(get, names())
    return {
        "algorithms": [
            {
                "name": name,
                "family": algorithms.about(factory).family,
                **factory(problem).cost._asdict(),
                "paper": algorithms.about(factory).reference,
            }
            for name, factory in algorithms.ALGORITHMS.items()
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
