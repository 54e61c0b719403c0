"""`bilevel clean`: find the wrong labels of a data set."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from bilevel.commands.common import add_output, known, resumable, show

# Options that determine a run, besides its number of steps. A checkpoint with other values is refused.
IDENTITY = (
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
# Options that turn a public data set into a test bench.
BENCH = ("rows", "trusted_rows", "noise", "noise_kind")


def add(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser("clean", help="find the wrong labels of a data set")
    parser.set_defaults(command=run)
    parser.add_argument(
        "source",
        nargs="?",
        default="digits",
        metavar="SOURCE",
        help="public data set (see bilevel list), or a .npz, .csv or .parquet file; default: digits",
    )
    bench = parser.add_argument_group("public data sets only")
    bench.add_argument(
        "--rows", type=int, metavar="N", help="number of training rows; default: all but the trusted rows"
    )
    bench.add_argument("--trusted-rows", type=int, metavar="N", help="number of trusted rows; default: 200")
    bench.add_argument(
        "--noise", type=float, metavar="RATE", help="share of labels to make wrong; default: 0.4"
    )
    bench.add_argument(
        "--noise-kind",
        metavar="KIND",
        help="uniform (any other class) or pair (class c becomes c + 1); default: uniform",
    )
    table = parser.add_argument_group("tables only")
    table.add_argument("--label", metavar="COLUMN", help="name of the column of labels")
    table.add_argument(
        "--trusted", metavar="FILE", help="table with the same columns whose labels you have checked"
    )
    parser.add_argument(
        "--weights", metavar="KIND", help="per-row or shared; default: chosen by the number of trusted rows"
    )
    parser.add_argument("--model", default="linear", metavar="KIND", help="linear or mlp; default: linear")
    parser.add_argument(
        "--algorithm", default="soba", metavar="NAME", help="name of the bilevel algorithm; default: soba"
    )
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="number of outer steps; default: 1500, or 500 if a step of the algorithm is expensive",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the random numbers; default: 0"
    )
    parser.add_argument("--resume", action="store_true", help="resume an interrupted run")
    add_output(parser, "bilevel-clean-SOURCE")


def run(options: Namespace) -> None:
    """Clean the data set, and write the output folder."""
    from bilevel import algorithms
    from bilevel.cleaning import clean
    from bilevel.report.files import check_folder

    options.algorithm = known("algorithm", options.algorithm, algorithms.ALGORITHMS)
    out = check_folder(options.out or f"bilevel-clean-{Path(options.source).stem}")
    dataset, truth = _source(options)
    identity = " ".join(f"{name}={getattr(options, name)}" for name in IDENTITY)
    with resumable(options, out, identity) as checkpoint:
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
    """Return the data set to clean, and its true labels or None."""
    from bilevel import datasets
    from bilevel.cleaning import split

    bench = {name: value for name in BENCH if (value := getattr(options, name)) is not None}
    if Path(options.source).suffix:
        if bench:
            flags = ", ".join("--" + name.replace("_", "-") for name in bench)
            raise ValueError(
                f"{flags} can be used with public data sets only, got the file {options.source}; leave it out"
            )
        return datasets.read_file(options.source, label=options.label, trusted=options.trusted), None
    if options.source not in datasets.class_sets():  # `load` explains those
        known("data set", options.source, datasets.names())
    if options.label or options.trusted:
        raise ValueError(
            "--label and --trusted can be used with .csv and .parquet files only, got the public data set "
            f"{options.source!r}; leave them out"
        )
    if "noise_kind" in bench:
        bench["kind"] = bench.pop("noise_kind")
    return split(datasets.load(options.source), seed=options.seed, **bench)
