"""Checkpoints of a run by orbax, and values of its log points beside them."""

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import numpy as np

from bilevel.extras import extra


class Checkpoint:
    """Folder that holds the last saves of one run.

    Each save is written under a temporary name and renamed when it is complete. So a run that is
    killed in the middle of a save resumes from the save before, bit for bit.

    Args:
      folder: folder to save in; it is made if it is missing.
      every_seconds: shortest time between two saves (the end and an interrupt always save).
      identity: text that distinguishes this problem from others of the same shapes, for example the
        name of the data set and the hyper-parameters. A save with another identity is refused.
      resume: whether to resume from an earlier save; otherwise the first new save replaces it.
    """

    def __init__(
        self, folder: str | Path, *, every_seconds: float = 60.0, identity: str = "", resume: bool = True
    ):
        self.folder = Path(folder).absolute()
        self.every_seconds = every_seconds
        self.identity = identity
        self.resume = resume
        self._saved_at = time.monotonic()

    def due(self) -> bool:
        """Return whether the last save is `every_seconds` old."""
        return time.monotonic() - self._saved_at >= self.every_seconds

    def save(self, step: int, state: Any, history: list[dict]) -> None:
        """Write the state after `step` steps, and the history; call `restore` before."""
        import orbax.checkpoint as ocp

        if not self.resume:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.resume = True
        about = {**self._run, "step": step, "history": history}
        leaves = {str(i): np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
        with self._manager() as manager:
            if step not in manager.all_steps():
                manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(leaves), about=ocp.args.JsonSave(about)
                    ),
                )
        self._saved_at = time.monotonic()

    def restore(self, algorithm: str, state: Any, key: Any) -> tuple[int, Any, list[dict]] | None:
        """Return `(step, state, history)` of the newest complete save, or None.

        Start, algorithm, key and `identity` identify a run.

        Args:
          algorithm: name of the algorithm.
          state: state at the start of the run.
          key: random key of the run.

        Raises:
          ValueError: if start, algorithm, key, shapes or identity of the save differ.
        """
        # Imported at the start of a run, so that a missing package ends it before any work is lost.
        with extra("clean"):
            import orbax.checkpoint as ocp

        self._run = self._about(algorithm, state, key)
        if not (self.resume and self.folder.is_dir() and any(self.folder.iterdir())):
            return None
        with self._manager() as manager:
            step = manager.latest_step()
            if step is None:
                return None
            about = manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore())).about
            for name, expected in self._run.items():
                if about.get(name) != expected:
                    found, wanted = _apart(about.get(name), expected)
                    raise ValueError(
                        f"the checkpoint in {self.folder} belongs to another run: "
                        f"its {name} is {found!r}, not {wanted!r}; "
                        "choose another folder or remove this one"
                    )
            leaves, structure = jax.tree.flatten(state)
            target = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
            args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
            restored = manager.restore(step, args=args).state
        values = [jax.numpy.asarray(restored[str(i)]) for i in range(len(leaves))]
        return about["step"], jax.tree.unflatten(structure, values), about["history"]

    def remove(self) -> None:
        """Remove the folder, and the files beside it that begin with its name."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for path in self.folder.parent.glob(self.folder.name + ".*"):
            path.unlink()

    def _manager(self):
        import orbax.checkpoint as ocp

        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self.folder, options=options)

    def _about(self, algorithm, state, key):
        leaves = jax.tree_util.tree_leaves_with_path(state)
        shapes = {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in leaves}
        digest = hashlib.sha256()
        for _, leaf in leaves:
            digest.update(np.asarray(leaf).tobytes())
        return {
            "identity": self.identity,
            "algorithm": algorithm,
            "variables": shapes,
            "key": np.asarray(jax.random.key_data(key)).tolist(),
            "start": digest.hexdigest()[:16],
        }


class PointLog:
    """Values at the log points of a run, in one file beside its checkpoint.

    A resumed run finds the values of the points before. The file is written under a temporary name and then
    renamed, as a checkpoint is.

    Args:
      checkpoint: the file lies beside its folder; None keeps the values in memory only.
      x: a value of the outer variable, for its structure.
      every_x: whether to keep x of every point; otherwise only the last x given to `add`.

    Attributes:
      facts: JSON-ready facts about the run, saved with the next point.
      points: `step -> {name: array}`.
    """

    def __init__(self, checkpoint: Checkpoint | None, x: Any, *, every_x: bool = True):
        self.structure, self.every_x = jax.tree.structure(x), every_x
        self.facts: dict[str, Any] = {}
        self.points: dict[int, dict[str, np.ndarray]] = {}
        self._leaves: dict[int, list[np.ndarray]] = {}
        self.file: Path | None = None
        if checkpoint is not None:
            self.file = checkpoint.folder.with_name(checkpoint.folder.name + ".points.npz")
            if checkpoint.resume and checkpoint.folder.is_dir() and self.file.exists():
                self._load(self.file)

    def add(self, step: int, x: Any = None, **values: Any) -> None:
        """Keep the values of a log point, and its x if one is given.

        Args:
          step: number of steps made. A resumed run adds its first point again.
          x: outer variable, or None.
          **values: numbers and arrays.
        """
        self.points[step] = {name: np.asarray(value) for name, value in values.items()}
        if x is not None:
            if not self.every_x:
                self._leaves.clear()
            self._leaves[step] = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
        if self.file is not None:
            self._save(self.file)

    def steps(self) -> list[int]:
        """Return the steps of the log points, in order."""
        return sorted(self.points)

    def values(self, name: str) -> list[np.ndarray]:
        """Return one value at every log point, in order."""
        return [self.points[step][name] for step in self.steps()]

    def steps_with_x(self) -> list[int]:
        """Return the steps of the log points whose x is kept, in order."""
        return sorted(self._leaves)

    def x(self, step: int) -> Any:
        """Return the outer variable at a log point."""
        return jax.tree.unflatten(self.structure, self._leaves[step])

    def _load(self, file):
        try:
            # numpy leaves a damaged file open if it is given a path.
            with file.open("rb") as stream, np.load(stream) as saved:
                about = json.loads(str(saved["about"]))
                self.facts = about["facts"]
                for step, names in about["points"].items():
                    self.points[int(step)] = {name: saved[f"{step}.{name}"] for name in names}
                for step, count in about["leaves"].items():
                    self._leaves[int(step)] = [saved[f"{step}/{i}"] for i in range(count)]
        except (OSError, EOFError, BadZipFile, ValueError, KeyError) as error:
            raise ValueError(
                f"{file} is damaged and cannot be resumed; run again without --resume"
            ) from error

    def _save(self, file):
        about = {
            "facts": self.facts,
            "points": {step: list(values) for step, values in self.points.items()},
            "leaves": {step: len(leaves) for step, leaves in self._leaves.items()},
        }
        arrays = {f"{step}.{name}": v for step, values in self.points.items() for name, v in values.items()}
        for step, leaves in self._leaves.items():
            arrays |= {f"{step}/{i}": leaf for i, leaf in enumerate(leaves)}
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        with part.open("wb") as stream:
            np.savez(stream, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
        os.replace(part, file)


def _apart(one, other):
    """Return the words in which two texts of equal length differ; other values unchanged."""
    if not (isinstance(one, str) and isinstance(other, str)) or len(one.split()) != len(other.split()):
        return one, other
    pairs = [pair for pair in zip(one.split(), other.split(), strict=True) if pair[0] != pair[1]]
    return tuple(" ".join(words) for words in zip(*pairs, strict=True)) or (one, other)
