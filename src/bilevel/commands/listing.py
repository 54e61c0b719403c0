"""`bilevel list`: what there is."""


def add(commands) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser("list", help="list algorithms, tasks, data sets and claims")
    parser.set_defaults(command=run, compile_cache=False)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options) -> None:
    """Print the catalogue."""
    from bilevel.catalog import catalog
    from bilevel.report.strict import strict_json

    entries = catalog()
    if options.json:
        print(strict_json(entries))
        return
    from bilevel.report.tables import text_table

    for kind, rows in entries.items():
        cells = [[_brief(value) for value in row.values()] for row in rows]
        print(f"{kind}\n{text_table(list(rows[0]), cells, words=('family', 'paper', 'about', 'title'))}\n")


def _brief(value) -> str:
    """A value for the terminal: of a reference, its venue and its number on arXiv; JSON has all of it."""
    before, arxiv, after = str(value).partition(", arXiv:")
    if not arxiv:
        return str(value)
    return before.rpartition(", ")[2] + arxiv + after.split(" ")[0].rstrip(",;")
