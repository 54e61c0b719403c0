"""What a problem's data and curvature tell an algorithm that is chosen by name."""

import inspect
from typing import Any

from bilevel import algorithms
from bilevel.estimators import count_blocks
from bilevel.types import Batch


def fitting(name: str, data: Batch, **facts: Any) -> dict[str, Any]:
    """Those facts that a named algorithm has parameters for, the size of tables among them.

    Args:
      name: of the algorithm.
      data: what it will run on.
      **facts: what else is known, for example `inner_condition`; None is not known.
    """
    parameters = inspect.signature(getattr(algorithms, name)).parameters
    known = {key: fact for key, fact in facts.items() if key in parameters and fact is not None}
    return known | ({"blocks": count_blocks(data)} if "blocks" in parameters else {})
