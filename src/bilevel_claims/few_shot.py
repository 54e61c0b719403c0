"""Few-shot tasks of handwritten characters: learn five of them from five drawings each."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bilevel.datasets.errors import DataNotFoundError
from bilevel.datasets.omniglot import read_drawings
from bilevel.datasets.source import named_folder, packed
from bilevel.response.types import Response
from bilevel.sampling import full
from bilevel.types import Problem, PyTree

CLASSES, SHOTS, SIDE = 5, 5, 14
INK, WIDTHS = 4, (128, 64)


def omniglot() -> tuple[np.ndarray, np.ndarray]:
    """`(background, evaluation)`: drawings (characters, 20, 196) of either part, ink from 0 to 4.

    A pixel counts the ink of 2x2 pixels of the 28x28 drawings.

    Raises:
      DataNotFoundError: when the prepared file is not there.
    """
    path = packed("omniglot.npz")
    if path is None:
        raise DataNotFoundError(
            f"omniglot: there is no omniglot.npz in {named_folder()}; it holds `bits` "
            "(1623, 20, 98), the 28x28 drawings packed by numpy.packbits, and `evaluation` (1623,), whether "
            "a character is one of the evaluation alphabets"
        )
    ink, _, evaluation = read_drawings(path)
    pixels = ink.reshape(*ink.shape[:2], SIDE, 2, SIDE, 2)
    drawings = pixels.sum((3, 5), dtype=np.uint8).reshape(*ink.shape[:2], SIDE**2)
    return drawings[~evaluation], drawings[evaluation]


def tasks_of(drawings: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(count, 5, 10, pixels) tasks: five characters, five drawings to learn from, five to be asked."""
    rng = np.random.default_rng(seed)
    characters = np.stack([rng.choice(len(drawings), CLASSES, replace=False) for _ in range(count)])
    order = rng.permuted(np.tile(np.arange(drawings.shape[1]), (count, CLASSES, 1)), axis=2)
    return drawings[characters[..., None], order[..., : 2 * SHOTS]]


def layer(key: Any, inputs: int, outputs: int, scale: float = 2.0) -> dict[str, Any]:
    """A linear layer whose weights have the variance scale / inputs."""
    return {
        "weight": jax.random.normal(key, (inputs, outputs)) * (scale / inputs) ** 0.5,
        "bias": jnp.zeros(outputs),
    }


def hidden(parameters: PyTree, values: Any) -> Any:
    """Linear, layer norm without a scale, rectified."""
    values = values @ parameters["weight"] + parameters["bias"]
    values = values - values.mean(-1, keepdims=True)
    return jax.nn.relu(values * jax.lax.rsqrt(jnp.mean(values**2, -1, keepdims=True) + 1e-5))


def classification(logits: Any, penalty: float = 0.0) -> Problem:
    """Cross-entropy of a task: the inner loss on its first drawings, the outer on the others.

    Args:
      logits: `(x, y, images) -> (..., 5)`.
      penalty: of |y|^2 / 2 in the inner loss.
    """

    def loss(x, y, images):
        chances = jax.nn.log_softmax(logits(x, y, images.astype(jnp.float32) / INK))
        return -jnp.mean(jnp.diagonal(chances, axis1=0, axis2=2))

    def inner(x, y, task):
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))
        return loss(x, y, task[:, :SHOTS]) + 0.5 * penalty * squares

    return Problem(lambda x, y, task: loss(x, y, task[:, SHOTS:]), inner)


def on_tasks(problem: Problem, response: Response, logits: Any, x: PyTree, tasks: Any) -> dict[str, Any]:
    """`{"loss", "error"}` of what is asked, mean over tasks that y was trained on."""

    def one(task):
        y, _ = response.respond(x, x, full(task, task), None)
        found = jnp.argmax(logits(x, y, task[:, SHOTS:].astype(jnp.float32) / INK), -1)
        return problem.outer(x, y, task), jnp.mean(found != jnp.arange(CLASSES)[:, None])

    losses, errors = jax.vmap(one)(tasks)
    return {"loss": losses.mean(), "error": errors.mean()}


def two_layers(key: Any) -> dict[str, Any]:
    """Weights of 196-128-64 features, for `embed`."""
    first, second = jax.random.split(key)
    return {"first": layer(first, SIDE**2, WIDTHS[0]), "second": layer(second, *WIDTHS)}


def embed(layers: PyTree, images: Any) -> Any:
    """Features (..., 64) of images (..., 196) as they are stored."""
    return hidden(layers["second"], hidden(layers["first"], images.astype(jnp.float32) / INK))


def head_loss(features: Any, y: PyTree, penalty: float = 0.0) -> Any:
    """Mean cross-entropy of a linear head on features (5, images, 64), and penalty |y|^2 / 2."""
    chances = jax.nn.log_softmax(features @ y["weight"] + y["bias"])
    squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))
    return 0.5 * penalty * squares - jnp.mean(jnp.diagonal(chances, axis1=0, axis2=2))


def head_error(features: Any, y: PyTree) -> Any:
    """Share of the images that a linear head takes for another class."""
    found = jnp.argmax(features @ y["weight"] + y["bias"], -1)
    return jnp.mean(found != jnp.arange(CLASSES)[:, None])
