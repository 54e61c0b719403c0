"""Kinds of hyper-parameters: a type and the rule that its values obey.

Methods annotate their hyper-parameters with these kinds, so a signature says what is accepted.
"""

import math
from collections.abc import Callable
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from bilevel.types import require


class Rule(NamedTuple):
    """A condition on a value, and the words that follow "must be" in its message."""

    words: str
    holds: Callable[[Any], bool]


Positive = Annotated[float, Rule("positive and finite", lambda value: 0 < value < math.inf)]
NotNegative = Annotated[float, Rule("at least 0 and finite", lambda value: 0 <= value < math.inf)]
Momentum = Annotated[float, Rule("in [0, 1)", lambda value: 0 <= value < 1)]
Probability = Annotated[float, Rule("in (0, 1]", lambda value: 0 < value <= 1)]
Steps = Annotated[int, Rule("at least 0", lambda value: value >= 0)]
Count = Annotated[int, Rule("at least 1", lambda value: value >= 1)]

_NAMES = {float: "a number", int: "a whole number", bool: "True or False", NoneType: "None"}


def require_kind(name: str, value: Any, kind: Any, default: Any) -> None:
    """Raise `ValueError` unless the value is of the kind.

    Args:
      name: name of the hyper-parameter, for the message.
      value: what the user gave.
      kind: one of the kinds above, or `bool`, or a union of plain types.
      default: a value of the kind, shown as an example.
    """
    plain, *rules = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    types = get_args(plain) or (plain,)
    example = "" if default is None else f", such as {default}"
    rule = f"{name} must be {' or '.join(_NAMES[type_] for type_ in types)}{example}"
    # An int is accepted as a float, but True is not accepted as 1.
    require(type(value) in types or (float in types and type(value) is int), rule, repr(value))
    for rule in rules:
        require(rule.holds(value), f"{name} must be {rule.words}", value)
