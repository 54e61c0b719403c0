"""`bilevel compare`: compare algorithms on one task under one budget."""

import ast
import inspect
from argparse import Namespace
from typing import Any

from bilevel.commands.common import add_output, known, show


def add(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser("compare", help="compare algorithms on one task under one budget")
    parser.set_defaults(command=run)
    parser.add_argument("task", metavar="TASK", help="name of a task (see bilevel list)")
    parser.add_argument(
        "--algorithms", metavar="A,B,C", help="names of algorithms (see bilevel list); default: eight of them"
    )
    parser.add_argument("--dataset", metavar="NAME", help="data set of the task; default: chosen by the task")
    parser.add_argument("--steps", type=int, metavar="N", help="budget in outer steps; default: 1000")
    parser.add_argument("--seconds", type=float, metavar="S", help="budget in seconds, without compilation")
    parser.add_argument(
        "--oracle-calls", type=int, metavar="N", help="budget in gradients, Hessian and cross products"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="number of runs of each algorithm; default: 1"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="rows of a minibatch, 0 for all rows; default: chosen by the task",
    )
    parser.add_argument(
        "--inner-step",
        type=float,
        metavar="RATE",
        help="inner step size of all algorithms; default: chosen by the task",
    )
    parser.add_argument(
        "--outer-step",
        type=float,
        metavar="RATE",
        help="outer step size of all algorithms; default: chosen by the task",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.NAME=VALUE",
        help="set a hyper-parameter of algorithm A, for example aid_bio.inner_steps=5",
    )
    add_output(parser, "bilevel-compare-TASK")


def run(options: Namespace) -> None:
    """Compare the algorithms, and write the output folder."""
    from bilevel import algorithms, tasks
    from bilevel.catalog import TASKS
    from bilevel.comparison import USUAL, Budget, compare
    from bilevel.report.files import check_folder

    task = known("task", options.task, TASKS)
    names = options.algorithms.split(",") if options.algorithms else USUAL
    names = [known("algorithm", name.strip(), algorithms.ALGORITHMS) for name in names]
    settings = _settings(options.set, names)
    out = check_folder(options.out or f"bilevel-compare-{task}")
    make = getattr(tasks, task)
    if options.dataset and "dataset" not in inspect.signature(make).parameters:
        raise ValueError(f"{task} makes its own data, got --dataset {options.dataset}; leave it out")
    budget = Budget(steps=options.steps, seconds=options.seconds, oracle_calls=options.oracle_calls)
    if budget == Budget():
        budget = Budget(steps=1000)
    records = compare(
        make(**({"dataset": options.dataset} if options.dataset else {})),
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
    warnings = [
        f"warning: {record['algorithm']}, seed {record['seed']}: {record['diverged']}" for record in lost
    ]
    show(options, "\n".join([comparison_table(records), *warnings]), records, paths)
    if len(lost) == len(records):
        raise ArithmeticError(
            f"every run diverged; the first was {lost[0]['algorithm']}: {lost[0]['diverged']}"
        )


def _settings(texts, names) -> dict[str, dict[str, Any]]:
    """Return hyper-parameters by algorithm from texts like `soba.inner_optimizer=0.1`."""
    settings: dict[str, dict[str, Any]] = {}
    for text in texts:
        place, equals, value = text.partition("=")
        algorithm, dot, name = place.partition(".")
        if not (equals and dot and name):
            raise ValueError(f"--set must have the form ALGORITHM.NAME=VALUE, got {text!r}")
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parsed = value
        settings.setdefault(known("algorithm", algorithm, names), {})[name] = parsed
    return settings
