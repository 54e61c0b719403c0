"""Run claims one after the other; after each, the folder tells the truth."""

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
    """A claim's finding with seconds and environment.

    Args:
      claim: from `get`.
      size: "small", or "paper" for the sizes of the paper.
      command: that makes the run again, for the page.
    """
    with jax.enable_x64(claim.float64):
        begin = time.perf_counter()
        finding = claim.run(size)
        return Run(claim, size, finding, time.perf_counter() - begin, environment(), command)


def run_claims(
    claims: Sequence[Claim],
    out: Path,
    *,
    size: str = "small",
    index: bool = False,
    tell: Callable[[Run], None] = lambda run: None,
) -> list[Run]:
    """Runs of all claims; one that fails is told, and the others still run.

    Args:
      claims: from `get`.
      out: folder; each claim has one of its own in it.
      size: "small", or "paper" for the sizes of the paper.
      index: whether to keep an index page in `out`, written before the first entry and after each.
      tell: called with each run.

    Raises:
      ValueError: when the folder cannot be written.
    """
    runs = [Run(claim, size) for claim in claims]
    for place, claim in enumerate(claims):
        if index:
            write_index(runs, out)
        command = f"bilevel reproduce {claim.name}" + (f" --size {size}" if size != "small" else "")
        begin = time.perf_counter()
        try:
            runs[place] = run_claim(claim, size, command)
        except Exception as error:
            told = " ".join(f"{type(error).__name__}: {error}".split())
            seconds = time.perf_counter() - begin
            runs[place] = Run(claim, size, None, seconds, environment(), command, told)
            write_files(out / claim.name, {"failure.txt": traceback.format_exc()})
        else:
            write_run(runs[place], out / claim.name)
            (out / claim.name / "failure.txt").unlink(missing_ok=True)
        tell(runs[place])
    if index:
        write_index(runs, out)
    return runs
