"""What the commands share: options, names that must be known, what they print."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def add_output(parser, what: str) -> None:
    """The options of a command that writes a folder."""
    parser.add_argument("--out", metavar="DIR", help=f"output folder ({what})")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument(
        "--no-compile-cache", dest="compile_cache", action="store_false", help="do not keep compiled programs"
    )


def known(kind: str, name: str, names) -> str:
    """The name itself, when it is one of `names`.

    Raises:
      ValueError: when it is not.
    """
    from bilevel.datasets.errors import did_you_mean

    if name not in names:
        raise ValueError(f"unknown {kind} {name!r}; {did_you_mean(name, names)}")
    return name


def show(options, table: str, numbers, paths) -> None:
    """Print the numbers as JSON, or the table and where the page is."""
    from bilevel.report.strict import strict_json

    if options.json:
        print(strict_json(numbers))
    elif not options.quiet:
        page = next(path for path in paths if path.name in ("report.html", "index.html"))
        print(f"{table}\n\n{len(paths)} files in {page.parent}; open {os.path.relpath(page)}")


@contextmanager
def resumable(options, out: Path, identity: str) -> Iterator[Any]:
    """A `Checkpoint` in the output folder; an interrupted job tells the command that goes on with it.

    Args:
      options: with `resume`, `quiet` and `command_line`.
      out: the output folder.
      identity: what must be the same for a save to be gone on with.

    Raises:
      ValueError: when the run to resume is complete.
    """
    from bilevel import Checkpoint

    checkpoint = Checkpoint(out / ".bilevel-checkpoint", identity=identity, resume=options.resume)
    nothing = options.resume and not checkpoint.folder.is_dir()
    if nothing and (out / "summary.json").exists():
        raise ValueError(f"the run in {out} is complete; drop --resume to run it anew, or give another --out")
    if nothing and not options.quiet:
        print(f"bilevel: nothing to resume in {out}; starting afresh", file=sys.stderr)
    try:
        yield checkpoint
    except KeyboardInterrupt:
        if checkpoint.resume and checkpoint.folder.is_dir():
            again = f"{options.command_line}{'' if options.resume else ' --resume'}"
            raise KeyboardInterrupt(f"interrupted; go on with: {again}") from None
        raise
