"""`bilevel check`: compare the hypergradients of a problem with a reference."""

import runpy
import sys
import traceback
from argparse import Namespace
from pathlib import Path
from typing import Any

from bilevel.commands.common import add_output, show


def add(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser("check", help="check the hypergradients of your problem")
    parser.set_defaults(command=run)
    parser.add_argument(
        "place", metavar="FILE.py:NAME", help="a bilevel.Task in a Python file: problem, data, x, y"
    )
    parser.add_argument("--advise", action="store_true", help="recommend a response, with reasons")
    parser.add_argument("--inner-steps", type=int, metavar="N", help="inner steps; default: from the Hessian")
    parser.add_argument(
        "--inner-step",
        type=float,
        metavar="RATE",
        help="inner step size; default: from the task or the Hessian",
    )
    parser.add_argument(
        "--linear-steps", type=int, metavar="N", help="linear steps; default: from the Hessian"
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.01, metavar="T", help="largest relative error; default: 0.01"
    )
    add_output(parser, "bilevel-check-NAME")


def run(options: Namespace) -> None:
    """Check the task, and write the output folder."""
    from bilevel.report.files import check_folder

    file, name = _split(options.place)
    if options.inner_step is not None and not options.inner_step > 0:
        raise ValueError(f"--inner-step must be positive, got {options.inner_step}")
    out = check_folder(options.out or f"bilevel-check-{name}")
    task = load_task(file, name)
    from bilevel.checking import advise, check
    from bilevel.report import write_check

    arguments = {
        "inner_optimizer": task.inner_step if options.inner_step is None else options.inner_step,
        "inner_steps": options.inner_steps,
        "linear_steps": options.linear_steps,
        "tolerance": options.tolerance,
    }
    given = task.problem, task.x, task.y, task.data
    if options.advise:
        result = advise(*given, **arguments)
        report = result.report
    else:
        result = report = check(*given, **arguments)
    report.environment["command"] = options.command_line
    report.environment["subject"] = f"{Path(file).name}:{name}"
    paths = write_check(result, out)
    show(options, str(result), result.numbers(), paths)
    if not report.ok:
        count = len(report.findings)
        detail = report.findings[0] if options.quiet else f"see {paths[1]}"
        raise ArithmeticError(f"{count} {'fault' if count == 1 else 'faults'} found; {detail}")


def load_task(file: str, name: str) -> Any:
    """Return a task of a Python file.

    The file may import others of its folder, which stays on the import path, as for `python FILE.py`.

    Args:
      file: path of the file.
      name: name of the task in it.

    Raises:
      ValueError: if the file fails, has no such name, or the name is not a `Task`.
      FileNotFoundError: if there is no such file.
    """
    from bilevel.datasets.errors import did_you_mean
    from bilevel.types import Task

    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {file}; give FILE.py:NAME")
    sys.path.insert(0, str(path.resolve().parent))
    try:
        values = runpy.run_path(str(path), run_name="bilevel_check")
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{file} fails{_line(error, path)}: {type(error).__name__}: {_one_line(error)}"
        ) from error
    tasks = [key for key, value in values.items() if isinstance(value, Task)]
    if name not in values:
        raise ValueError(
            f"{file} has no {name!r}; {did_you_mean(name, tasks) if tasks else 'it has no task'}"
        )
    if not isinstance(values[name], Task):
        raise ValueError(
            f"{name} in {file} must be a bilevel.Task, got {type(values[name]).__name__}; write {name} = "
            "bilevel.Task(problem=..., data=..., x=..., y=...)"
        )
    return values[name]


def _split(place):
    file, colon, name = place.rpartition(":")
    if not (colon and file and name.isidentifier()):
        raise ValueError(f"the task must have the form FILE.py:NAME, got {place!r}")
    return file, name


def _line(error, path):
    """Return the line of the file where an error came from, as words."""
    if isinstance(error, SyntaxError):
        return f" at line {error.lineno}"
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return f" at line {lines[-1]}" if lines else ""


def _one_line(error):
    return " ".join(str(error).split())
