"""Output options, checks of names, resuming and printing for several commands."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def add_output(parser: ArgumentParser, default: str) -> None:
    """Add the options of a command that writes a folder.

    Args:
      parser: the parser of the command.
      default: the default folder, for the help.
    """
    parser.add_argument("--out", metavar="DIR", help=f"output folder; default: {default}")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument("--quiet", action="store_true", help="print only errors")
    parser.add_argument(
        "--no-compile-cache",
        dest="compile_cache",
        action="store_false",
        help="do not keep compiled programs for the next run",
    )


def known(kind: str, name: str, names: Collection[str]) -> str:
    """Return the name if it is one of `names`.

    Args:
      kind: the kind of thing that is named, for the error message.
      name: the name.
      names: all names of this kind.

    Raises:
      ValueError: when it is not one of them.
    """
    from bilevel.datasets.errors import did_you_mean

    if name not in names:
        raise ValueError(f"unknown {kind} {name!r}; {did_you_mean(name, names)}")
    return name


def show(options: Namespace, table: str, numbers: Any, paths: Sequence[Path]) -> None:
    """Print the numbers as JSON, or the table and the path of the page.

    Args:
      options: with `json` and `quiet`.
      table: table for the terminal.
      numbers: JSON-ready numbers.
      paths: the written files.
    """
    from bilevel.report.strict import strict_json

    if options.json:
        print(strict_json(numbers))
    elif not options.quiet:
        page = next(path for path in paths if path.name == "report.html")
        print(f"{table}\n\n{len(paths)} files in {page.parent}; open {os.path.relpath(page)}")


@contextmanager
def resumable(options: Namespace, out: Path, identity: str) -> Iterator[Any]:
    """Return a context with a `Checkpoint` in the output folder.

    If the run is interrupted inside the context, the message gives the command that resumes it.

    Args:
      options: with `resume`, `quiet` and `command_line`.
      out: the output folder.
      identity: the options that determine the run; a checkpoint with other values is refused.

    Raises:
      ValueError: when the run to resume is complete.
    """
    from bilevel import Checkpoint

    checkpoint = Checkpoint(out / ".bilevel-checkpoint", identity=identity, resume=options.resume)
    nothing = options.resume and not checkpoint.folder.is_dir()
    if nothing and (out / "summary.json").exists():
        raise ValueError(
            f"the run in {out} is complete and cannot be resumed; run it again without --resume, "
            "or choose another folder with --out"
        )
    if nothing and not options.quiet:
        print(f"bilevel: there is nothing to resume in {out}; a new run starts", file=sys.stderr)
    try:
        yield checkpoint
    except KeyboardInterrupt:
        if checkpoint.resume and checkpoint.folder.is_dir():
            again = f"{options.command_line}{'' if options.resume else ' --resume'}"
            raise KeyboardInterrupt(f"interrupted; resume with: {again}") from None
        raise
