"""Variables with leaves that are not numbers, such as a whole Equinox module with its activation function.

JAX transforms arrays only. `closed` moves every other leaf into the structure of the pytree, and `opened`
restores it before a loss sees the variable.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["value"])
@dataclass(frozen=True)
class Fixed:
    """A leaf that no algorithm moves, as a node without leaves."""

    value: Any


def closed(variable: Any) -> Any:
    """Return the variable with functions, booleans and texts as `Fixed` nodes."""

    def close(leaf):
        return Fixed(leaf) if callable(leaf) or isinstance(leaf, bool | str) else leaf

    return jax.tree.map(close, variable)


def opened(variable: Any) -> Any:
    """Return the variable with the values of its `Fixed` nodes in their places."""

    def is_fixed(node):
        return isinstance(node, Fixed)

    return jax.tree.map(lambda node: node.value if is_fixed(node) else node, variable, is_leaf=is_fixed)


@dataclass(frozen=True)
class Opening:
    """A loss or a projection that opens its variables before it reads them."""

    function: Callable

    def __call__(self, *arguments):
        """Return the function of the opened variables and of the data."""
        return self.function(*map(opened, arguments[:2]), *arguments[2:])
