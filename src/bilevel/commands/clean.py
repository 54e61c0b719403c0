"""`bilevel clean`: find the wrong labels of a data set."""

from pathlib import Path
from typing import Any

from bilevel.commands.common import add_output, known, resumable, show


def add(commands) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser("clean", help="find the wrong labels of a data set")
    parser.set_defaults(command=run)
    parser.add_argument(
        "source",
        nargs="?",
        default="digits",
        help="a known set (bilevel list) or a .npz, .csv, .parquet file",
    )
    bench = parser.add_argument_group("known sets only")
    bench.add_argument("--rows", type=int, metavar="N", help="training rows (all that are left)")
    bench.add_argument("--trusted-rows", type=int, metavar="N", help="trusted rows (200)")
    bench.add_argument("--noise", type=float, metavar="RATE", help="share of labels to corrupt (0.4)")
    bench.add_argument(
        "--noise-kind", metavar="KIND", help="uniform, or pair: class c becomes c + 1 (uniform)"
    )
    table = parser.add_argument_group("tables only")
    table.add_argument("--label", metavar="COLUMN", help="the column of labels")
    table.add_argument("--trusted", metavar="FILE", help="rows of the same columns whose labels are right")
    parser.add_argument("--weights", metavar="KIND", help="per-row or shared (by the number of trusted rows)")
    parser.add_argument("--model", default="linear", metavar="KIND", help="linear or mlp (linear)")
    parser.add_argument("--algorithm", default="soba", metavar="NAME", help="a bilevel algorithm (soba)")
    parser.add_argument("--steps", type=int, metavar="N", help="outer steps (what fits the algorithm)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all that is random (0)")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    add_output(parser, "bilevel-clean-SOURCE")


def run(options) -> None:
    """Clean, and write the folder."""
    from bilevel import algorithms
    from bilevel.cleaning import clean
    from bilevel.report.files import check_folder

    options.algorithm = known("algorithm", options.algorithm, algorithms.ALGORITHMS)
    out = check_folder(options.out or f"bilevel-clean-{Path(options.source).stem}")
    dataset, truth = _source(options)
    with resumable(options, out, _identity(options)) as checkpoint:
        cleaning = clean(
            dataset,
            truth,
            weights=options.weights,
            model=options.model,
            algorithm=options.algorithm,
            steps=options.steps,
            seed=options.seed,
            checkpoint=checkpoint,
            progress=not options.quiet,
        )
    from bilevel.report import cleaning_table, write_cleaning

    cleaning.summary["command"] = options.command_line
    paths = write_cleaning(cleaning, out)
    checkpoint.remove()
    show(options, cleaning_table(cleaning), cleaning.summary, paths)


def _source(options) -> tuple[Any, Any]:
    """The data set to clean, and its true labels where they are known."""
    from bilevel import datasets
    from bilevel.cleaning import split

    bench = {"rows": options.rows, "trusted_rows": options.trusted_rows}
    bench |= {"noise": options.noise, "kind": options.noise_kind}
    bench = {name: value for name, value in bench.items() if value is not None}
    if Path(options.source).suffix:
        if bench:
            named = {"kind": "--noise-kind", "trusted_rows": "--trusted-rows"}
            names = ", ".join(named.get(name, f"--{name}") for name in bench)
            raise ValueError(f"{names}: for known sets only, and {options.source} is your own file; drop it")
        return datasets.read_file(options.source, label=options.label, trusted=options.trusted), None
    if options.source not in datasets.class_sets():  # `load` says what those are for
        known("data set", options.source, datasets.names())
    if options.label or options.trusted:
        raise ValueError(
            f"--label and --trusted go with a .csv or .parquet file, but {options.source!r} is a known set"
        )
    return split(datasets.load(options.source), seed=options.seed, **bench)


def _identity(options) -> str:
    """What must be the same for a checkpoint to be gone on with."""
    names = (
        "source",
        "rows",
        "trusted_rows",
        "noise",
        "noise_kind",
        "label",
        "trusted",
        "weights",
        "model",
        "seed",
    )
    return " ".join(f"{name}={getattr(options, name)}" for name in names)
