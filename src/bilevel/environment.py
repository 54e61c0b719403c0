"""Versions and hardware of this machine, for records of measurements."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax

try:
    VERSION = version("bilevel")
except PackageNotFoundError:  # a source tree that is not installed
    VERSION = "unknown"


def environment() -> dict[str, Any]:
    """Return the facts that timings depend on: versions, device, cores and precision."""
    return {
        "bilevel": VERSION,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "float": str(jax.numpy.result_type(float)),
    }
