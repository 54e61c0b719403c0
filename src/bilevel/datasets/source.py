"""Where the files of a known data set come from: BILEVEL_DATA, the user's cache, the public home."""

import os
from pathlib import Path
from typing import NamedTuple, NoReturn

from bilevel.datasets.errors import DataNotFoundError


class Source(NamedTuple):
    """The public home of a data set.

    Attributes:
      name: name of the data set, and of the folder that keeps its files.
      homes: addresses, tried in turn; `{file}` stands for the name of a file.
      files: for each file its checksum, `md5:...` or `sha256:...`, or None where none is published.
    """

    name: str
    homes: tuple[str, ...]
    files: dict[str, str | None]


def packed(file: str) -> Path | None:
    """Path of a prepared .npz file in the BILEVEL_DATA folder, or None."""
    return _own(file)


def named_folder() -> str:
    """What BILEVEL_DATA names, for an error line."""
    folder = os.environ.get("BILEVEL_DATA")
    if not folder:
        return "the folder that BILEVEL_DATA names (it is not set)"
    return f"{folder}, which BILEVEL_DATA names" + (
        "" if Path(folder).is_dir() else " and which is no folder"
    )


def originals(source: Source) -> list[Path]:
    """Paths of the files as first published, downloaded when this machine lacks them.

    Looks in the folder `source.name` inside BILEVEL_DATA, then in the user's cache, then at each home.

    Raises:
      DataNotFoundError: when a file cannot be had, or is not what its checksum says.
    """
    return [_original(source, file) for file in source.files]


def reject(source: Source, path: Path, why: str) -> NoReturn:
    """Refuse a file that is not the published one; a cached copy goes, so that a retry can help."""
    if _cache() in path.parents:
        path.unlink()
    raise DataNotFoundError(f"{source.name}: {path} is not the published file ({why}); {_remedy(source)}")


def _original(source, file):
    import pooch

    checksum = source.files[file]
    own = _own(f"{source.name}/{file}")
    if own:
        if checksum and not pooch.hashes.hash_matches(str(own), checksum):
            reject(source, own, "its checksum differs")
        return own
    reasons = []
    for home in source.homes:
        address = home.format(file=file)
        try:
            return Path(pooch.retrieve(address, checksum, fname=file, path=_cache() / source.name))
        except (OSError, ValueError) as error:  # no network, no such page, a wrong checksum
            reasons.append(f"{address}: {_first_line(error)}")
    raise DataNotFoundError(f"{source.name}: cannot get {file} ({'; '.join(reasons)}); {_remedy(source)}")


def _own(file):
    folder = os.environ.get("BILEVEL_DATA")
    path = Path(folder, file) if folder else None
    return path if path and path.is_file() else None


def _cache():
    import pooch

    return Path(pooch.os_cache("bilevel"))


def _remedy(source):
    addresses = " and ".join(source.homes[0].format(file=file) for file in source.files)
    return (
        f"download {addresses} by hand into a folder named {source.name!r} "
        "and set BILEVEL_DATA to the folder that holds it"
    )


def _first_line(error):
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
