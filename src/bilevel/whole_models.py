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
    """Return the variable with functions, booleans and texts as `Fixed` nodes.

    If it has any, it is a model, and its Python numbers (a dropout rate) are fixed too.
    """

    def is_setting(leaf):
        return callable(leaf) or isinstance(leaf, bool | str)

    leaves = jax.tree.leaves(variable)
    has_fixed = jax.tree.structure(variable) != jax.tree.structure(opened(variable))
    fixed = bool | str | float | int if has_fixed or any(map(is_setting, leaves)) else bool | str

    def close(leaf):
        return Fixed(leaf) if callable(leaf) or isinstance(leaf, fixed) else leaf

    return jax.tree.map(close, variable)


def opened(variable: Any) -> Any:
    """Return the variable with the values of its `Fixed` nodes in their places."""

    def is_fixed(node):
        return isinstance(node, Fixed)

    return jax.tree.map(lambda node: node.value if is_fixed(node) else node, variable, is_leaf=is_fixed)


@dataclass(frozen=True)
class Opening:
    """A function of x, y and data that opens x and y before it reads them."""

    function: Callable

    def __call__(self, *arguments):
        """Return the function of the opened variables and of the data."""
        return self.function(*map(opened, arguments[:2]), *arguments[2:])


@dataclass(frozen=True)
class OpeningMap:
    """A projection of a variable, which opens it and closes the result."""

    function: Callable

    def __call__(self, variable):
        """Return the projected variable."""
        return closed(self.function(opened(variable)))
