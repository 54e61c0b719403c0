"""Files of public data sets: from BILEVEL_DATA, the cache, or their public homes."""

import os
from pathlib import Path
from typing import NamedTuple, NoReturn

from bilevel.datasets.errors import DataNotFoundError
from bilevel.extras import extra


class Source(NamedTuple):
    """The public home of a data set.

    Attributes:
      name: name of the data set and of the folder for its files.
      homes: addresses, tried in order; `{file}` stands for the name of a file.
      files: checksum of each file, `md5:...` or `sha256:...`, or None where none is published.
    """

    name: str
    homes: tuple[str, ...]
    files: dict[str, str | None]


def packed(file: str) -> Path | None:
    """Return the path of a file in the BILEVEL_DATA folder, or None.

    Args:
      file: its path relative to the folder.
    """
    folder = os.environ.get("BILEVEL_DATA")
    path = Path(folder, file) if folder else None
    return path if path and path.is_file() else None


def named_folder() -> str:
    """Return a description of the BILEVEL_DATA folder for an error message."""
    folder = os.environ.get("BILEVEL_DATA")
    if not folder:
        return "the folder BILEVEL_DATA, which is not set"
    return f"the folder BILEVEL_DATA, {folder}" + ("" if Path(folder).is_dir() else ", which does not exist")


def originals(source: Source) -> list[Path]:
    """Return the paths of the published files, and download those that are missing.

    They are searched for in the folder `source.name` inside BILEVEL_DATA, in the user's cache, and at
    each home, in this order.

    Args:
      source: the data set.

    Raises:
      DataNotFoundError: when a file cannot be found or downloaded, or has another checksum.
    """
    return [_original(source, file) for file in source.files]


def reject(source: Source, path: Path, why: str) -> NoReturn:
    """Raise for a file that is not the published one, and remove it from the cache.

    The next attempt then downloads the file again.

    Args:
      source: the data set.
      path: the file.
      why: the reason, for the message.

    Raises:
      DataNotFoundError: always.
    """
    if _cache() in path.parents:
        path.unlink()
    raise DataNotFoundError(f"{source.name}: {path} is not the published file ({why}); {_remedy(source)}")


def _original(source, file):
    with extra("clean"):
        import pooch

    checksum = source.files[file]
    own = packed(f"{source.name}/{file}")
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
    raise DataNotFoundError(
        f"{source.name}: cannot download {file} ({'; '.join(reasons)}); {_remedy(source)}"
    )


def _cache():
    with extra("clean"):
        import pooch

    return Path(pooch.os_cache("bilevel"))


def _remedy(source):
    addresses = " and ".join(source.homes[0].format(file=file) for file in source.files)
    return (
        f"download {addresses} by hand into a folder named {source.name!r} "
        "and set BILEVEL_DATA to the folder above it"
    )


def _first_line(error):
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
