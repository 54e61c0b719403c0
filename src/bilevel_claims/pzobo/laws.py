"""Laws of the random directions of PZOBO."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.types import PyTree


def one_draw(key: Any, x: PyTree, count: int) -> PyTree:
    """Return standard normal directions, drawn at once for all tensors of `x`.

    They follow the law of `gaussian`, and this function compiles much faster.
    """
    leaves, structure = jax.tree.flatten(x)
    draw = jax.random.normal(key, (count, sum(leaf.size for leaf in leaves)), leaves[0].dtype)
    parts = jnp.split(draw, np.cumsum([leaf.size for leaf in leaves])[:-1], axis=1)
    shaped = [part.reshape(count, *leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


def unit_tensors(key: Any, x: PyTree, count: int) -> PyTree:
    """Return normal directions, each tensor scaled to length 1, as in the official code.

    The mean of the estimate is then 1/p of the indirect term, p the entries of a tensor.
    """

    def unit(u):
        return jax.tree.map(lambda leaf: leaf / jnp.linalg.norm(leaf.ravel()), u)

    return jax.vmap(unit)(one_draw(key, x, count))
