"""A learner as a file: parameters by name, and what is needed to build it again."""

import io
import json
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import numpy as np

from bilevel.datasets.errors import DataNotFoundError
from bilevel.fewshot.defaults import recipe
from bilevel.fewshot.learner import Learner
from bilevel.fewshot.methods import METHODS
from bilevel.models import network
from bilevel.types import PyTree

FILE = "learner.npz"


def learner_file(x: PyTree, about: dict[str, Any]) -> bytes:
    """The contents of `learner.npz`.

    Args:
      x: what was learnt.
      about: algorithm, network, image_shape, train_ways, mean, std and the changes of the recipe.
    """
    leaves = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(x)}
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, about=np.array(json.dumps(about)), **leaves)
    return stream.getvalue()


def load_learner(path: str | PathLike) -> tuple[Learner, PyTree, dict[str, Any]]:
    """`(learner, x, about)` from the file that `bilevel fewshot` left.

    `learner.answer(x, episode, ways)` answers new tasks; make the episode by
    `fewshot.as_episode(support, query, about["mean"], about["std"])`.

    Raises:
      DataNotFoundError: when there is no such file.
      ValueError: when it is no learner, or the parameters are those of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise DataNotFoundError(f"no such file: {str(path)!r}; give the {FILE} that bilevel fewshot left")
    try:
        # numpy would leave a torn file open.
        with path.open("rb") as file, np.load(file) as saved:
            arrays = dict(saved)
        about = json.loads(str(arrays.pop("about")))
        name, algorithm, shape = about["network"], about["algorithm"], tuple(about["image_shape"])
        ways, changes = about["train_ways"], about["changes"]
    # numpy says in many ways that a file is not its own.
    except (OSError, EOFError, BadZipFile, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is no file of bilevel fewshot; give its {FILE}") from error
    net = network(name, shape)
    settings = recipe(algorithm, changes).settings
    learner = METHODS[algorithm](net, ways, 0.0, settings)
    some = jax.eval_shape(learner.start, jax.random.key(0))[0]
    paths, structure = jax.tree_util.tree_flatten_with_path(some)
    expected = {jax.tree_util.keystr(path): leaf.shape for path, leaf in paths}
    found = {name: array.shape for name, array in arrays.items()}
    for name in expected | found:
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"{path.name} must hold the parameters of {algorithm} on {net.name}, but {name} is "
                f"{found.get(name)}, not {expected.get(name)}; it is of another network"
            )
    return learner, jax.tree.unflatten(structure, [arrays[name] for name in expected]), about
