"""Write a set of files into a folder so that nothing there is ever lost or half-written."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def check_folder(path: str | os.PathLike) -> Path:
    """The folder as a `Path`, once a file could be written into it.

    Leaves no trace: what it makes to try, it takes away again. Call it before a long job.

    Args:
      path: the output folder; it and its parents need not exist.

    Raises:
      ValueError: the folder cannot be made or written.
    """
    folder = Path(path)
    missing = [place for place in (folder, *folder.parents) if not os.path.exists(place)]
    probe = _temporary(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        with suppress(OSError):
            probe.unlink()
        for place in missing:
            # Only empty folders can be removed, so a file that appeared meanwhile is safe.
            with suppress(OSError):
                place.rmdir()
    return folder


def write_files(path: str | os.PathLike, files: Mapping[str, str | bytes]) -> list[Path]:
    """Paths of the files written, in the order given.

    Every file is first written whole under a temporary name in the same folder; only when all of
    them are safe on disk do they take their names. A failure before that leaves the folder as it was.

    Args:
      path: the output folder, made when it does not exist.
      files: name to contents; text is written as UTF-8.

    Raises:
      ValueError: the folder cannot be made or written.
    """
    folder = Path(path)
    targets = [folder / name for name in files]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for target, contents in zip(targets, files.values(), strict=True):
            _write_whole(_temporary(target), contents)
        for target in targets:
            os.replace(_temporary(target), target)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        for target in targets:
            with suppress(OSError):
                _temporary(target).unlink()
    return targets


def _temporary(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def _write_whole(path: Path, contents: str | bytes) -> None:
    data = contents if isinstance(contents, bytes) else contents.encode("utf-8", errors="replace")
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _unwritable(folder: Path, error: OSError) -> ValueError:
    reason = error.strerror or type(error).__name__
    return ValueError(
        f"the output folder must be one that can be written, got '{folder}' ({reason}): "
        "choose another folder, or free this one"
    )
