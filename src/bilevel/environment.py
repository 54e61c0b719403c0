"""Versions and hardware of this machine, for records of measurements."""

import os
import platform
from importlib.metadata import version
from typing import Any

import jax


def environment() -> dict[str, Any]:
    """Return the facts that timings depend on: versions, device, cores and precision."""
    return {
        "bilevel": version("bilevel"),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "float": str(jax.numpy.result_type(float)),
    }
