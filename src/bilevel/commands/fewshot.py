"""`bilevel fewshot`: learn new classes from a few images of each."""

import ast
from typing import Any

from bilevel.commands.common import add_output, known, resumable, show


def add(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser("fewshot", help="learn new classes from a few images of each")
    parser.set_defaults(command=run)
    parser.add_argument("--dataset", default="omniglot", metavar="NAME", help="omniglot or miniimagenet")
    parser.add_argument("--ways", type=int, default=5, metavar="N", help="classes of a test task; default: 5")
    parser.add_argument(
        "--shots", type=int, default=1, metavar="K", help="support images of each class; default: 1"
    )
    parser.add_argument(
        "--algorithm",
        default="protonet",
        metavar="NAME",
        help="maml, fomaml, anil, imaml, reptile, itd_bio, fo_itd_bio, pzobo, ufo_blo or protonet; "
        "default: protonet",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="number of outer steps")
    parser.add_argument("--seconds", type=float, metavar="S", help="seconds of training; default: 180")
    parser.add_argument(
        "--size", metavar="SIZE", help="paper: use the hyper-parameters and steps of the published run"
    )
    parser.add_argument(
        "--network", metavar="NAME", help="conv4-32, conv4-64, conv4-64-stride, resnet12, lenet"
    )
    parser.add_argument(
        "--split", metavar="KIND", help="omniglot only: characters or alphabets; default: characters"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change one hyper-parameter, such as tasks=4, inner_step=0.1, inner_steps=5, outer_step=1e-3, "
        "train_ways=20; a wrong name lists the right ones",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="seed of the start and the training tasks; default: 0",
    )
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    add_output(parser, "bilevel-fewshot-DATASET-ALGORITHM")


def run(options: Any) -> None:
    """Train and test a learner, and write the output folder."""
    from bilevel import datasets
    from bilevel.fewshot import METHODS, learn, paper_recipe
    from bilevel.report.files import check_folder

    known("data set of images by class", options.dataset, datasets.class_sets())
    algorithm = known("algorithm", options.algorithm, METHODS)
    changes = _changes(options.set)
    steps, seconds = options.steps, options.seconds
    if options.size is not None:
        known("size", options.size, ["paper"])
        published = paper_recipe(options.dataset, algorithm)
        changes = published.changes | changes
        options.network = options.network or published.network
        steps = published.steps if steps is seconds is None else steps
    if steps is seconds is None:
        seconds = 180.0
    out = check_folder(options.out or f"bilevel-fewshot-{options.dataset}-{algorithm}")
    data = _data(options)
    with resumable(options, out, _identity(options)) as checkpoint:
        result = learn(
            data,
            algorithm,
            ways=options.ways,
            shots=options.shots,
            steps=steps,
            seconds=seconds,
            network=options.network,
            changes=changes,
            seed=options.seed,
            checkpoint=checkpoint,
            progress=not options.quiet,
        )
    from bilevel.report import fewshot_table, write_fewshot

    result.summary["command"] = options.command_line
    paths = write_fewshot(result, out)
    checkpoint.remove()
    show(options, fewshot_table(result), result.summary | {"history": result.history}, paths)
    if result.summary["diverged"]:
        raise ArithmeticError(result.summary["stopped"])


def _data(options) -> Any:
    from bilevel import datasets

    if options.split is not None and options.dataset != "omniglot":
        raise ValueError(
            f"--split can be used with omniglot only, got the data set {options.dataset!r}; leave it out"
        )
    choice = {} if options.split is None else {"split": options.split}
    return datasets.load_classes(options.dataset, **choice)


def _changes(texts) -> dict[str, Any]:
    """Return the values of `--set NAME=VALUE` by name."""
    changes = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set must have the form NAME=VALUE, got {text!r}")
        try:
            changes[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            changes[name] = value
    return changes


def _identity(options) -> str:
    """Return the options that must not change when a run is resumed."""
    names = ("dataset", "split", "ways", "shots", "steps", "network", "size", "set", "seed")
    return " ".join(f"{name}={getattr(options, name)}" for name in names)
