"""`bilevel compare`: several algorithms on one task under one budget."""

import ast
import inspect
from typing import Any

from bilevel.commands.common import add_output, known, show


def add(commands) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser("compare", help="run several algorithms on one task under one budget")
    parser.set_defaults(command=run)
    parser.add_argument("task", metavar="TASK", help="a task of bilevel list")
    parser.add_argument("--algorithms", metavar="A,B,C", help="names from bilevel list (eight usual ones)")
    parser.add_argument("--dataset", metavar="NAME", help="data set of the task")
    parser.add_argument("--steps", type=int, metavar="N", help="budget in outer steps (1000)")
    parser.add_argument("--seconds", type=float, metavar="S", help="budget in seconds")
    parser.add_argument("--oracle-calls", type=int, metavar="N", help="budget in gradients and products")
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="runs of each algorithm, all at once (1)"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="rows of a minibatch, 0 for all")
    parser.add_argument("--inner-step", type=float, metavar="RATE", help="inner step size of all algorithms")
    parser.add_argument("--outer-step", type=float, metavar="RATE", help="outer step size of all algorithms")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="A.NAME=VALUE",
        help="one hyper-parameter of one algorithm",
    )
    add_output(parser, "bilevel-compare-TASK")


def run(options) -> None:
    """Compare, and write the folder."""
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
        raise ValueError(f"{task} makes its own data; drop --dataset")
    budget = Budget(options.steps, options.seconds, options.oracle_calls)
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
    told = [f"warning: {record['algorithm']}, seed {record['seed']}: {record['diverged']}" for record in lost]
    show(options, "\n".join([comparison_table(records), *told]), records, paths)
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
        settings.setdefault(known("algorithm", algorithm, names), {})[name] = parsed
    return settings
