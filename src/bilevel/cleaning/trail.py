"""What early stopping chooses from, kept beside the checkpoint so that a resumed run can choose too."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np


class Trail:
    """Outer variables and held-out losses at the log points of a run.

    Args:
      folder: of the checkpoint; None keeps the trail in memory alone.
      x: an outer variable, for its structure.
    """

    def __init__(self, folder: Path | None, x: Any):
        self.file = None if folder is None else folder.with_name(folder.name + ".trail.npz")
        self.structure = jax.tree.structure(x)
        self.points: dict[int, tuple[list[np.ndarray], np.ndarray]] = {}
        if self.file is not None and self.file.exists() and folder is not None and folder.is_dir():
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

    def remove(self) -> None:
        """Remove the file, when the run is over."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)

    def _save(self, file: Path):
        arrays = {"steps": np.array(self.steps())}
        for step, (leaves, losses) in self.points.items():
            arrays |= {f"{step}.{i}": leaf for i, leaf in enumerate(leaves)} | {f"{step}.losses": losses}
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        with part.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
        os.replace(part, file)
