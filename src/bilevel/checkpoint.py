"""Checkpoints of a run, by orbax: whole or not there at all."""

import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bilevel.extras import extra


class Checkpoint:
    """A folder that holds the last saves of one run.

    Each save is written under a temporary name and renamed when it is complete, so that a run
    killed in the middle of a save resumes from the one before, bit for bit.

    Args:
      folder: where to save; made when missing.
      every_seconds: least time between two saves (the end and an interrupt always save).
      identity: a text that tells this problem from others of the same shapes, for example the
        name of the data set and the hyper-parameters; a save with another one is refused.
      resume: go on with an earlier save; else the first new one replaces it.
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
        """Whether the last save is `every_seconds` old."""
        return time.monotonic() - self._saved_at >= self.every_seconds

    def save(self, step: int, state: Any, history: list[dict]) -> None:
        """Write the state after `step` steps, with all that is needed to go on."""
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
        """The newest complete save as `(step, state, history)`, or None when there is none.

        Args:
          algorithm: name of the algorithm.
          state: where the run starts; what a run saves is known by it, the algorithm and the key.
          key: of the run.

        Raises:
          ValueError: when the save is of another start, algorithm, key, shape or identity.
        """
        # A run starts here, so that a missing package ends it before any work is lost.
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
                        f"the checkpoint in {self.folder} is of another run: "
                        f"its {name} is {found!r}, not {wanted!r}; "
                        "choose another folder or remove it"
                    )
            leaves, structure = jax.tree.flatten(state)
            target = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
            args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
            restored = manager.restore(step, args=args).state
        values = [jax.numpy.asarray(restored[str(i)]) for i in range(len(leaves))]
        return about["step"], jax.tree.unflatten(structure, values), about["history"]

    def remove(self) -> None:
        """Remove what was saved, and files beside the folder that begin with its name."""
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


def _apart(one, other):
    """Of two texts of as many words the words that differ, else the two as they are."""
    if not (isinstance(one, str) and isinstance(other, str)) or len(one.split()) != len(other.split()):
        return one, other
    pairs = [pair for pair in zip(one.split(), other.split(), strict=True) if pair[0] != pair[1]]
    return tuple(" ".join(words) for words in zip(*pairs, strict=True)) or (one, other)
