"""Run claims one after another and write each result as soon as it is known."""

import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from bilevel.environment import environment
from bilevel.report.files import write_files
from bilevel_claims.page import write_index, write_run
from bilevel_claims.types import Claim, Run


def run_claim(claim: Claim, size: str = "small", command: str = "") -> Run:
    """Run a claim; return its finding with seconds, environment and `command`, for the page."""
    with jax.enable_x64(claim.float64):
        begin = time.perf_counter()
        finding = claim.run(size)
        seconds, run = time.perf_counter() - begin, Run(claim=claim, size=size, command=command)
        return run._replace(finding=finding, seconds=seconds, environment=environment())


def run_claims(
    claims: Sequence[Claim],
    out: Path,
    *,
    size: str = "small",
    index: bool = False,
    tell: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """Run claims and write the page of each; if one fails, the others still run.

    Args:
      claims, size: from `get`; one of `SIZES`.
      out: folder; each claim writes into a folder of its own in it.
      index: whether to write an index page to `out`, before the first entry and after each.
      tell: called with each run.

    Raises:
      ValueError: if the folder cannot be written.
    """
    runs = [Run(claim, size) for claim in claims]
    for place, claim in enumerate(claims):
        if index:
            write_index(runs, out)
        folder, begin = out / claim.name, time.perf_counter()
        command = f"bilevel reproduce {claim.name}" + (f" --size {size}" if size != "small" else "")
        try:
            runs[place] = run_claim(claim, size, command)
        except Exception as error:
            failure = " ".join(f"{type(error).__name__}: {error}".split())
            run = runs[place]._replace(seconds=time.perf_counter() - begin, environment=environment())
            runs[place] = run._replace(command=command, failure=failure)
            write_files(folder, {"failure.txt": traceback.format_exc()})
        else:
            write_run(runs[place], folder)
            (folder / "failure.txt").unlink(missing_ok=True)
        tell(runs[place])
    if index:
        write_index(runs, out)
    return runs
