"""Files of trained learners: parameters by name, and settings to rebuild them."""

import io
import json
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import numpy as np

from bilevel.datasets.errors import DataNotFoundError
from bilevel.fewshot.learner import Learner
from bilevel.fewshot.recipes import recipe
from bilevel.models import network
from bilevel.types import PyTree

FILE = "learner.npz"


def learner_file(x: PyTree, about: dict[str, Any]) -> bytes:
    """Return the contents of `learner.npz`.

    Args:
      x: the trained outer variable.
      about: algorithm, network, image_shape, train_ways, mean, std, and changes of hyper-parameters.
    """
    leaves = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(x)}
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, about=np.array(json.dumps(about)), **leaves)
    return stream.getvalue()


def load_learner(path: str | PathLike) -> tuple[Learner, PyTree, dict[str, Any]]:
    """Read `(learner, x, about)` from the `learner.npz` that `bilevel fewshot` wrote.

    `learner.answer(x, episode, ways)` answers new tasks. Make their episodes with
    `fewshot.as_episode(support, query, about["mean"], about["std"])`.

    Raises:
      DataNotFoundError: when the file does not exist.
      ValueError: when the file holds no learner, or its parameters belong to another network.
    """
    path = Path(path)
    if not path.is_file():
        raise DataNotFoundError(f"no such file: {str(path)!r}; give the {FILE} that bilevel fewshot wrote")
    try:
        # numpy leaves a damaged file open if it is given a path.
        with path.open("rb") as file, np.load(file) as saved:
            arrays = dict(saved)
        about = json.loads(str(arrays.pop("about")))
        name, algorithm, shape = about["network"], about["algorithm"], tuple(about["image_shape"])
        ways, changes = about["train_ways"], about["changes"]
    # numpy raises many kinds of errors for a file that it did not write.
    except (OSError, EOFError, BadZipFile, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path.name} must be a {FILE} that bilevel fewshot wrote, got other content; give such a file"
        ) from error
    net = network(name, shape)
    # Answers do not use the outer optimiser.
    learner = recipe(algorithm, changes).build(net, ways, 0.0)
    shapes = jax.eval_shape(learner.start, jax.random.key(0))[0]
    paths, structure = jax.tree_util.tree_flatten_with_path(shapes)
    expected = {jax.tree_util.keystr(path): leaf.shape for path, leaf in paths}
    found = {name: array.shape for name, array in arrays.items()}
    for name in expected | found:
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"{path.name} must hold the parameters of {algorithm} on {net.name}, where {name} has shape "
                f"{expected.get(name)}, got {found.get(name)}; it belongs to another network"
            )
    return learner, jax.tree.unflatten(structure, [arrays[name] for name in expected]), about
