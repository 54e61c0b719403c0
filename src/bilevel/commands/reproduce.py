"""`bilevel reproduce`: test claims of the papers on this machine."""

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from bilevel.commands.common import add_output, known


def add(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser("reproduce", help="test claims of the papers on this machine")
    parser.set_defaults(command=run)
    parser.add_argument("name", nargs="?", metavar="NAME", help="name of a claim; default: list all claims")
    parser.add_argument("--all", action="store_true", help="run every claim and write an index page")
    parser.add_argument(
        "--size",
        default="small",
        metavar="SIZE",
        help="small: seconds to minutes per claim; paper: the sizes of the paper; default: small",
    )
    add_output(parser, "bilevel-reproduce; a folder in it for each claim")


def run(options: Namespace) -> None:
    """Run one claim or all claims, or list them."""
    from bilevel.report.files import check_folder
    from bilevel_claims import get, names
    from bilevel_claims.types import SIZES

    known("size", options.size, SIZES)
    if options.name and options.all:
        raise ValueError(f"give either a claim or --all, got {options.name!r} and --all")
    if not (options.name or options.all):
        _list(options, [get(name) for name in names()])
        return
    claims = [get(name) for name in (names() if options.all else [options.name])]
    out = check_folder(options.out or "bilevel-reproduce")
    _run(options, claims, out)


def _list(options, claims):
    from bilevel.report.strict import strict_json
    from bilevel.text import text_table

    if options.json:
        print(strict_json([{"name": c.name, "title": c.title, "paper": c.paper} for c in claims]))
    elif not options.quiet:
        print(text_table(["name", "title"], [[c.name, c.title] for c in claims], words=["title"]))
        print("\nbilevel reproduce NAME, or --all")


def _run(options, claims, out: Path):
    from bilevel.report.strict import strict_json
    from bilevel_claims.page import finding_record, summary
    from bilevel_claims.run import run_claims

    spoken = not (options.json or options.quiet)

    def tell(run):
        if spoken and not (run.failure and not options.all):
            print(summary(run), flush=True)

    page = out / "index.html" if options.all else out / claims[0].name / "report.html"
    try:
        runs = run_claims(claims, out, size=options.size, index=options.all, tell=tell)
    except KeyboardInterrupt:
        left = f"{page} lists what was done" if options.all else "nothing was written"
        raise KeyboardInterrupt(f"interrupted; {left}") from None
    failed = [f"{run.claim.name} failed: {run.failure} (more in {out / run.claim.name / 'failure.txt'})"
              for run in runs if run.failure]  # fmt: skip
    if options.json and (options.all or not failed):
        records = [finding_record(run) for run in runs]
        print(strict_json(records if options.all else records[0]))
    if spoken and (options.all or not failed):
        print(f"open {os.path.relpath(page)}")
    if failed:
        counted = f"{len(failed)} of {len(runs)} claims failed; the first: " if len(runs) > 1 else ""
        raise ArithmeticError(counted + failed[0])
