"""What early stopping chooses from, kept beside the checkpoint so that a resumed run can choose too."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bilevel.checkpoint import Checkpoint


class Trail:
    """Outer variables and held-out losses at the log points of a run.

    Args:
      checkpoint: whose folder the trail is saved beside; None keeps it in memory alone.
      x: an outer variable, for its structure.
    """

    def __init__(self, checkpoint: Checkpoint | None, x: Any):
        self.structure = jax.tree.structure(x)
        self.points: dict[int, tuple[list[np.ndarray], np.ndarray]] = {}
        self.file = None
        if checkpoint is None:
            return
        self.file = checkpoint.folder.with_name(checkpoint.folder.name + ".trail.npz")
        if checkpoint.resume and checkpoint.folder.is_dir() and self.file.exists():
            with np.load(self.file) as saved:
                for step in saved["steps"].tolist():
                    leaves = [saved[f"{step}.{i}"] for i in range(self.structure.num_leaves)]
                    self.points[step] = leaves, saved[f"{step}.losses"]

    def add(self, step: int, x: Any, losses: np.ndarray) -> None:
        """Remember a log point; seen again after a resume, it is the same one."""
        self.points[step] = [np.asarray(leaf) for leaf in jax.tree.leaves(x)], losses
        if self.file is not None:
            self._save(self.file)

    def steps(self) -> list[int]:
        """The log points, in order."""
        return sorted(self.points)

    def losses(self) -> list[np.ndarray]:
        """Held-out losses at each log point."""
        return [self.points[step][1] for step in self.steps()]

    def x(self, step: int) -> Any:
        """The outer variable at a log point."""
        return jax.tree.unflatten(self.structure, self.points[step][0])

    def _save(self, file: Path):
        arrays = {"steps": np.array(self.steps())}
        for step, (leaves, losses) in self.points.items():
            arrays |= {f"{step}.{i}": leaf for i, leaf in enumerate(leaves)} | {f"{step}.losses": losses}
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        with part.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        os.replace(part, file)
