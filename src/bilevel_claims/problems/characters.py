"""Few-shot tasks of handwritten characters: five characters, five drawings each."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel.datasets.errors import DataNotFoundError
from bilevel.datasets.omniglot import read_drawings
from bilevel.datasets.source import named_folder, packed
from bilevel.types import Batch, PyTree
from bilevel_claims.experiment import each_seed
from bilevel_claims.search import chosen
from bilevel_claims.types import Search

CLASSES, SHOTS, SIDE = 5, 5, 14
INK, WIDTHS = 4, (128, 64)


def drawings() -> tuple[np.ndarray, np.ndarray]:
    """Return Omniglot as `(background, evaluation)`, each (characters, 20, 196).

    A value, from 0 to 4, counts the inked pixels among 2x2 pixels of the 28x28 drawings.
    """
    path = packed("omniglot.npz")
    if path is None:
        raise DataNotFoundError(
            f"omniglot: there is no omniglot.npz in {named_folder()}; it holds `bits` (1623, 20, 98), the "
            "28x28 drawings of numpy.packbits, and `evaluation` (1623,), true in the evaluation alphabets"
        )
    ink, _, evaluation = read_drawings(path)
    pixels = ink.reshape(*ink.shape[:2], SIDE, 2, SIDE, 2)
    drawings = pixels.sum((3, 5), dtype=np.uint8).reshape(*ink.shape[:2], SIDE**2)
    return drawings[~evaluation], drawings[evaluation]


def tasks_of(characters: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return (count, 5, 10, pixels) random tasks: five characters, five drawings to learn and to test."""
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.choice(len(characters), CLASSES, replace=False) for _ in range(count)])
    order = rng.permuted(np.tile(np.arange(characters.shape[1]), (count, CLASSES, 1)), axis=2)
    return characters[drawn[..., None], order[..., : 2 * SHOTS]]


def splits(count: int, held: int) -> tuple[np.ndarray, Any, Any]:
    """Return `count` training tasks, `held` validation tasks and `held` test tasks.

    The first 100 background characters are for validation, the evaluation alphabets for the test.
    """
    background, evaluation = drawings()
    valid, test = (jnp.asarray(tasks_of(part, held, 1)) for part in (background[:100], evaluation))
    return tasks_of(background[100:], count, 0), valid, test


def search_inner_step(
    label: str, build: Callable, rates: Sequence[float], steps: int, data: Batch, held: Any
) -> Search:
    """Search the inner step of a method by the error on held tasks after all steps.

    The trials run one after another, with seed 100: each measures "error" with its own inner step. `build`
    is `(rate, data, held, seeds) -> (algorithm, experiment)`, jax code; a trial has `steps` outer steps.
    """

    def scores(rates, data, held):
        def error(rate):
            algorithm, experiment = build(rate, data, held, (100,))
            return each_seed(algorithm, experiment, np.array([steps]))(data, held)["error"].mean()

        return lax.map(error, rates)

    found = np.asarray(jax.jit(scores)(jnp.asarray(rates), data, held))
    score = "error on tasks of held-out training characters"
    return chosen(label, {"inner_optimizer": rates}, found, score=score, budget=f"{steps:,} steps")


def linear_layer(key: Any, inputs: int, outputs: int, scale: float = 2.0) -> dict[str, Any]:
    """Return a random linear layer; its weights have variance scale / inputs."""
    weight = jax.random.normal(key, (inputs, outputs)) * (scale / inputs) ** 0.5
    return {"weight": weight, "bias": jnp.zeros(outputs)}


def hidden_layer(parameters: PyTree, values: Any) -> Any:
    """Apply a linear layer, layer norm without a scale, and the rectifier."""
    values = values @ parameters["weight"] + parameters["bias"]
    values = values - values.mean(-1, keepdims=True)
    return jax.nn.relu(values * jax.lax.rsqrt(jnp.mean(values**2, -1, keepdims=True) + 1e-5))


def two_layers(key: Any) -> dict[str, Any]:
    """Return random weights of 196-128-64 features, for `embed`."""
    first, second = jax.random.split(key)
    return {"first": linear_layer(first, SIDE**2, WIDTHS[0]), "second": linear_layer(second, *WIDTHS)}


def embed(layers: PyTree, images: Any) -> Any:
    """Return features (..., 64) of stored images (..., 196)."""
    return hidden_layer(layers["second"], hidden_layer(layers["first"], images.astype(jnp.float32) / INK))


def head_loss(features: Any, y: PyTree, penalty: float = 0.0) -> Any:
    """Return the mean cross-entropy of a head on features (5, images, 64), plus penalty |y|^2 / 2."""
    chances = jax.nn.log_softmax(features @ y["weight"] + y["bias"])
    squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(y))
    return 0.5 * penalty * squares - jnp.mean(jnp.diagonal(chances, axis1=0, axis2=2))


def head_error(features: Any, y: PyTree) -> Any:
    """Return the share of images that a linear head misclassifies."""
    found = jnp.argmax(features @ y["weight"] + y["bias"], -1)
    return jnp.mean(found != jnp.arange(CLASSES)[:, None])
