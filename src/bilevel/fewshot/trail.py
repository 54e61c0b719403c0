"""The best learner so far and the validation curve, kept beside the checkpoint of a run."""

import json
import os
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import numpy as np

from bilevel.checkpoint import Checkpoint
from bilevel.types import PyTree


class Trail:
    """Validation accuracy at the log points, and x at the best of them.

    Args:
      checkpoint: whose folder the file lies beside; None keeps it in memory alone.
      x: the outer variable, for its structure.

    Attributes:
      steps: the number of steps that were planned, or None.
      points: `step -> (accuracy, half width of its interval)`.
    """

    def __init__(self, checkpoint: Checkpoint | None, x: PyTree):
        self.structure = jax.tree.structure(x)
        self.steps: int | None = None
        self.points: dict[int, tuple[float, float]] = {}
        self._best: tuple[int, list[np.ndarray]] | None = None
        self.file: Path | None = None
        if checkpoint is None:
            return
        self.file = checkpoint.folder.with_name(checkpoint.folder.name + ".best.npz")
        if checkpoint.resume and checkpoint.folder.is_dir() and self.file.exists():
            self._load(self.file)

    def add(self, step: int, x: PyTree, accuracy: float, interval: float) -> None:
        """Remember a log point, and x if none was better."""
        best = self._best
        if best is None or accuracy > self.points[best[0]][0]:
            self._best = step, [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
        self.points[step] = accuracy, interval
        if self.file is not None:
            self._save(self.file)

    def best(self) -> tuple[int, PyTree]:
        """`(step, x)` of the best validation accuracy."""
        assert self._best is not None, "the start is always a log point"
        step, leaves = self._best
        return step, jax.tree.unflatten(self.structure, leaves)

    def _load(self, file):
        try:
            with file.open("rb") as stream, np.load(stream) as saved:
                about: dict[str, Any] = json.loads(str(saved["about"]))
                # As many as there are: that they are of another network, the checkpoint says.
                leaves = [saved[name] for name in saved.files if name != "about"]
        except (OSError, EOFError, BadZipFile, ValueError, KeyError) as error:
            raise ValueError(
                f"{file} is damaged, so that the run cannot be gone on with; start anew without resuming"
            ) from error
        self.steps = about["steps"]
        self.points = {int(step): tuple(point) for step, point in about["points"].items()}
        self._best = about["best"], leaves

    def _save(self, file):
        assert self._best is not None
        about = {"steps": self.steps, "points": self.points, "best": self._best[0]}
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        with part.open("wb") as stream:
            arrays = {str(i): leaf for i, leaf in enumerate(self._best[1])}
            np.savez(stream, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
        os.replace(part, file)
