"""The command line: `bilevel clean | compare | list`."""

import argparse
import ast
import os
import shlex
import sys
from pathlib import Path
from typing import Any, NoReturn

from bilevel import __version__


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bilevel: error: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Exit code of the command: 0, 1 for a diverged run, 2 for bad input, 130 for an interrupt."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.command_line = shlex.join(["bilevel", *arguments])
    if options.compile_cache:
        _keep_compiled_programs()
    try:
        options.command(options)
    except ArithmeticError as error:
        return _tell(error, 1)
    except (ValueError, FileNotFoundError) as error:
        return _tell(error, 2)
    except KeyboardInterrupt as interrupt:
        return _tell(interrupt.args[0] if interrupt.args else "interrupted; nothing was written", 130)
    return 0


def _tell(message, code):
    print(f"bilevel: {'error: ' if code < 130 else ''}{message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bilevel", description="Bilevel optimisation: clean labels, compare algorithms.")
    parser.add_argument("--version", action="version", version=f"bilevel {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    clean = commands.add_parser("clean", help="find the wrong labels of a data set")
    clean.set_defaults(command=_clean)
    clean.add_argument(
        "source",
        nargs="?",
        default="digits",
        help="a known set (bilevel list) or a .npz, .csv, .parquet file",
    )
    known = clean.add_argument_group("known sets only")
    known.add_argument("--rows", type=int, metavar="N", help="training rows (all that are left)")
    known.add_argument("--trusted-rows", type=int, metavar="N", help="trusted rows (200)")
    known.add_argument("--noise", type=float, metavar="RATE", help="share of labels to corrupt (0.4)")
    known.add_argument(
        "--noise-kind", metavar="KIND", help="uniform, or pair: class c becomes c + 1 (uniform)"
    )
    table = clean.add_argument_group("tables only")
    table.add_argument("--label", metavar="COLUMN", help="the column of labels")
    table.add_argument("--trusted", metavar="FILE", help="rows of the same columns whose labels are right")
    clean.add_argument("--weights", metavar="KIND", help="per-row or shared (by the number of trusted rows)")
    clean.add_argument("--model", default="linear", metavar="KIND", help="linear or mlp (linear)")
    clean.add_argument("--algorithm", default="soba", metavar="NAME", help="a bilevel algorithm (soba)")
    clean.add_argument("--steps", type=int, metavar="N", help="outer steps (what fits the algorithm)")
    clean.add_argument("--seed", type=int, default=0, metavar="S", help="of all that is random (0)")
    clean.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    _common(clean)

    compare = commands.add_parser("compare", help="run several algorithms on one task under one budget")
    compare.set_defaults(command=_compare)
    compare.add_argument("task", metavar="TASK", help="quadratic, hyperclean or regularization")
    compare.add_argument("--algorithms", metavar="A,B,C", help="names from bilevel list (all)")
    compare.add_argument("--dataset", metavar="NAME", help="data set of the task")
    compare.add_argument("--steps", type=int, metavar="N", help="budget in outer steps (1000)")
    compare.add_argument("--seconds", type=float, metavar="S", help="budget in seconds")
    compare.add_argument("--oracle-calls", type=int, metavar="N", help="budget in gradients and products")
    compare.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="runs of each algorithm, all at once (1)"
    )
    compare.add_argument("--batch-size", type=int, metavar="N", help="rows of a minibatch, 0 for all")
    compare.add_argument("--inner-step", type=float, metavar="RATE", help="inner step size of all algorithms")
    compare.add_argument("--outer-step", type=float, metavar="RATE", help="outer step size of all algorithms")
    compare.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.NAME=VALUE",
        help="one hyper-parameter of one algorithm",
    )
    _common(compare)

    listing = commands.add_parser("list", help="list algorithms, tasks and data sets")
    listing.set_defaults(command=_list, compile_cache=False)
    listing.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _common(parser):
    parser.add_argument("--out", metavar="DIR", help="output folder (bilevel-COMMAND-NAME)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument(
        "--no-compile-cache", dest="compile_cache", action="store_false", help="do not keep compiled programs"
    )


def _clean(options):
    from bilevel import Checkpoint, algorithms
    from bilevel.cleaning import clean
    from bilevel.report.files import check_folder

    options.algorithm = _known("algorithm", options.algorithm, algorithms.__all__)
    out = check_folder(options.out or f"bilevel-clean-{Path(options.source).stem}")
    dataset, truth = _source(options)
    checkpoint = Checkpoint(out / ".bilevel-checkpoint", identity=_identity(options), resume=options.resume)
    if options.resume and not checkpoint.folder.is_dir() and not options.quiet:
        print(f"bilevel: nothing to resume in {out}; starting afresh", file=sys.stderr)
    try:
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
    except KeyboardInterrupt:
        if checkpoint.resume and checkpoint.folder.is_dir():
            again = f"{options.command_line}{'' if options.resume else ' --resume'}"
            raise KeyboardInterrupt(f"interrupted; go on with: {again}") from None
        raise
    from bilevel.report import cleaning_table, write_cleaning

    cleaning.summary["command"] = options.command_line
    paths = write_cleaning(cleaning, out)
    checkpoint.remove()
    _show(options, cleaning_table(cleaning), cleaning.summary, paths)


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
    _known("data set", options.source, datasets.names())
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


def _compare(options):
    from bilevel import algorithms, tasks
    from bilevel.catalog import TASKS
    from bilevel.comparison import Budget, compare
    from bilevel.report.files import check_folder

    task = _known("task", options.task, TASKS)
    names = options.algorithms.split(",") if options.algorithms else algorithms.__all__
    names = [_known("algorithm", name.strip(), algorithms.__all__) for name in names]
    settings = _settings(options.set, names)
    out = check_folder(options.out or f"bilevel-compare-{task}")
    if task == "quadratic" and options.dataset:
        raise ValueError("quadratic makes its own data; drop --dataset")
    budget = Budget(options.steps, options.seconds, options.oracle_calls)
    if budget == Budget():
        budget = Budget(steps=1000)
    records = compare(
        getattr(tasks, task)(**({"dataset": options.dataset} if options.dataset else {})),
        names,
        budget,
        seeds=options.seeds,
        batch_size=options.batch_size,
        inner_step=options.inner_step,
        outer_step=options.outer_step,
        settings=settings,
        progress=not options.quiet,
    )
    from bilevel.report import comparison_table, write_comparison

    for record in records:
        record["environment"]["command"] = options.command_line
    paths = write_comparison(records, out)
    lost = [record for record in records if record["diverged"]]
    told = [f"warning: {record['algorithm']}, seed {record['seed']}: {record['diverged']}" for record in lost]
    _show(options, "\n".join([comparison_table(records), *told]), records, paths)
    if len(lost) == len(records):
        raise ArithmeticError(f"no run ended well; the first: {lost[0]['algorithm']}, {lost[0]['diverged']}")


def _settings(texts, names) -> dict[str, dict[str, Any]]:
    """`soba.outer_optimizer=0.1` and the like, by algorithm."""
    settings: dict[str, dict[str, Any]] = {}
    for text in texts:
        place, equals, value = text.partition("=")
        algorithm, dot, name = place.partition(".")
        if not (equals and dot and name):
            raise ValueError(f"--set takes ALGORITHM.NAME=VALUE, got {text!r}")
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed = value
        settings.setdefault(_known("algorithm", algorithm, names), {})[name] = parsed
    return settings


def _list(options):
    from bilevel.catalog import catalog
    from bilevel.report.strict import strict_json

    entries = catalog()
    if options.json:
        print(strict_json(entries))
        return
    from bilevel.report.terminal import text_table

    for kind, rows in entries.items():
        cells = [[_brief(value) for value in row.values()] for row in rows]
        print(f"{kind}\n{text_table(list(rows[0]), cells, words=('family', 'paper', 'about'))}\n")


def _brief(value) -> str:
    """A value for the terminal: of a reference, what stands from its venue on."""
    before, arxiv, after = str(value).rpartition(", arXiv:")
    return before.rpartition(", ")[2] + arxiv + after


def _known(kind, name, names):
    """The name itself, when it is one of `names`."""
    from bilevel.datasets.errors import did_you_mean

    if name not in names:
        raise ValueError(f"unknown {kind} {name!r}; {did_you_mean(name, names)}")
    return name


def _show(options, table, numbers, paths):
    from bilevel.report.strict import strict_json

    if options.json:
        print(strict_json(numbers))
    elif not options.quiet:
        page = next(path for path in paths if path.name == "report.html")
        print(f"{table}\n\n{len(paths)} files in {page.parent}; open {os.path.relpath(page)}")


def _keep_compiled_programs():
    """A second run of the same shapes need not compile again."""
    import jax
    import pooch

    jax.config.update("jax_compilation_cache_dir", str(pooch.os_cache("bilevel") / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_compilation_cache_max_size", 2**29)


if __name__ == "__main__":
    sys.exit(main())
