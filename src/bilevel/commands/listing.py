"""`bilevel list`: list algorithms, tasks, data sets and claims."""

from argparse import Namespace
from typing import Any


def add(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser("list", help="list algorithms, tasks, data sets and claims")
    parser.set_defaults(command=run, compile_cache=False)
    parser.add_argument("--json", action="store_true", help="print the lists as JSON, with full references")


def run(options: Namespace) -> None:
    """Print the catalogue."""
    from bilevel.catalog import catalog
    from bilevel.report.strict import strict_json

    entries = catalog()
    if options.json:
        print(strict_json(entries))
        return
    from bilevel.text import text_table

    for kind, rows in entries.items():
        cells = [[_brief(value) for value in row.values()] for row in rows]
        print(f"{kind}\n{text_table(list(rows[0]), cells, words=('family', 'paper', 'about', 'title'))}\n")


def _brief(value) -> str:
    """Return a value as text, with a reference cut to its venue and arXiv number."""
    before, arxiv, after = str(value).partition(", arXiv:")
    if not arxiv:
        return str(value)
    return before.rpartition(", ")[2] + arxiv + after.split(" ")[0].rstrip(",;")
