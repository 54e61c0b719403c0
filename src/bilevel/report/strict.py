"""JSON that every reader accepts: no NaN, no Infinity, no NumPy types."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def strict_json(value: Any) -> str:
    """JSON text of a nest of dicts, sequences, arrays and scalars; what is not finite becomes null."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """The same nest in Python's own types, with None for every number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "__array__"):
        return plain(np.asarray(value).tolist())
    return str(value)
