"""`bilevel clean`: find the wrong labels of a data set."""

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from bilevel.commands.common import add_output, known, show

# Options that turn a public data set into a test bench, and options of tables.
BENCH = ("rows", "trusted_rows", "noise", "noise_kind")
FILES = ("label", "trusted", "test", "id", "drop", "sep", "encoding", "missing")


def add(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser("clean", help="find the wrong labels of a data set")
    parser.set_defaults(command=run)
    parser.add_argument(
        "source",
        nargs="?",
        default="digits",
        metavar="SOURCE",
        help="a table (.csv, .tsv, .parquet, .jsonl, also compressed), an .npz file, a folder of images with "
        "one sub-folder for each class, or a public data set (see bilevel list); default: digits",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--label", metavar="COLUMN", help="name of the column of labels")
    files.add_argument(
        "--trusted",
        metavar="FILE",
        help="rows whose labels you have checked: a file like SOURCE, or the to_check.csv of an earlier run "
        "with the column checked_label filled in; default: no trusted rows",
    )
    files.add_argument("--test", metavar="FILE", help="rows to measure the accuracy on")
    files.add_argument("--id", metavar="COLUMN", help="column that names the rows and is no feature")
    files.add_argument(
        "--drop", action="append", metavar="COLUMN", help="column to leave out; may be repeated"
    )
    files.add_argument("--sep", metavar="CHAR", help="separator of the cells; default: detected")
    files.add_argument("--encoding", metavar="NAME", help="encoding of the text; default: detected")
    files.add_argument(
        "--missing",
        action="append",
        metavar="TEXT",
        help="marker of missing values; may be repeated; default: the usual ones, such as NA, null and ?",
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
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="linear, forest, boosting or mlp; default: the best of them on the trusted rows",
    )
    parser.add_argument(
        "--cost",
        type=float,
        metavar="RATIO",
        help="ratio of two costs, a false alarm to a missed wrong label; default: the largest expected f1",
    )
    parser.add_argument(
        "--to-check",
        type=int,
        default=50,
        metavar="N",
        help="number of rows in to_check.csv, which is written without trusted rows; default: 50",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the random numbers; default: 0"
    )
    add_output(parser, "bilevel-clean-SOURCE")


def run(options: Namespace) -> None:
    """Clean the data set, and write the output folder."""
    from bilevel.cleaning import clean_dataset
    from bilevel.report.files import check_folder

    out = check_folder(options.out or f"bilevel-clean-{Path(options.source).stem}")
    dataset, truth = _source(options)
    cleaning = clean_dataset(
        dataset,
        truth,
        estimator=options.model,
        cost=options.cost,
        to_check=options.to_check,
        seed=options.seed,
    )
    from bilevel.report import cleaning_table, write_cleaning

    cleaning.summary["command"] = options.command_line
    paths = write_cleaning(cleaning, out)
    show(options, cleaning_table(cleaning, os.path.relpath(out)), cleaning.summary, paths)


def _source(options) -> tuple[Any, Any]:
    """Return the data set to clean, and its true labels or None."""
    from bilevel import datasets
    from bilevel.cleaning import split

    bench = {name: value for name in BENCH if (value := getattr(options, name)) is not None}
    file = {name: value for name in FILES if (value := getattr(options, name)) is not None}
    path = Path(options.source)
    if options.source not in datasets.names() and (path.suffix or path.exists()):
        _refuse(bench, "public data sets", f"the file {options.source}")
        return datasets.read_file(options.source, **file), None
    if options.source not in datasets.class_sets():  # `load` explains those
        known("data set", options.source, datasets.names())
    _refuse(file, "files", f"the public data set {options.source!r}")
    if "noise_kind" in bench:
        bench["kind"] = bench.pop("noise_kind")
    return split(datasets.load(options.source), seed=options.seed, **bench)


def _refuse(options, use, source):
    if options:
        flags = ", ".join("--" + name.replace("_", "-") for name in options)
        raise ValueError(f"{flags} can be used with {use} only, got {source}; leave it out")
