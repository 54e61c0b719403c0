"""Output folders: checked before a long run, and never half-written."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def check_folder(path: str | os.PathLike) -> Path:
    """Check that files can be written into a folder, and return it as a `Path`.

    Call it before a long run. It removes everything that it creates.

    Args:
      path: output folder; it and its parents need not exist.

    Raises:
      ValueError: the folder cannot be created or written.
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
            # `rmdir` removes empty folders only: a file that appeared meanwhile is safe.
            with suppress(OSError):
                place.rmdir()
    return folder


def write_files(path: str | os.PathLike, files: Mapping[str, str | bytes]) -> list[Path]:
    """Write files into a folder, and return their paths.

    All files are first written to disk under temporary names in the same folder, then renamed. A
    failure while writing leaves the folder as it was.

    Args:
      path: output folder, created if missing.
      files: contents by file name; text is encoded as UTF-8.

    Raises:
      ValueError: the folder cannot be created or written.
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
        f"the output folder must be writable, got '{folder}' ({reason}); "
        "choose another folder or make this one writable"
    )
