"""The command line: `bilevel clean | check | compare | fewshot | reproduce | list`."""

import argparse
import os
import shlex
import sys
from typing import NoReturn

from bilevel import __version__
from bilevel.commands import COMMANDS
from bilevel.extras import explain

# The extra that installs the packages of a command; other commands need `all`.
EXTRAS = {"clean": "clean", "check": "report", "compare": "report", "fewshot": "fewshot"}


class _Parser(argparse.ArgumentParser):
    """Parser whose error messages are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bilevel: error: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    The code is 0 for success, 1 for a diverged or failed run or a fault that `check` found, 2 for bad
    input or a missing package, and 130 for an interrupt.

    Args:
      arguments: arguments of the command line; default: `sys.argv[1:]`.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.command_line = shlex.join(["bilevel", *arguments])
    if options.compile_cache:
        _keep_compiled_programs()
    try:
        options.command(options)
        sys.stdout.flush()
    except ArithmeticError as error:
        return _fail(error, 1)
    except (ValueError, FileNotFoundError) as error:
        return _fail(error, 2)
    except ModuleNotFoundError as error:
        missing = explain(
            error, f"bilevel {options.name_of_command}", EXTRAS.get(options.name_of_command, "all")
        )
        if missing is None:
            raise
        return _fail(missing, 2)
    except BrokenPipeError:
        # The reader of the output has closed it, like `| head`. Without this, the interpreter would
        # print an error when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as interrupt:
        return _fail(interrupt.args[0] if interrupt.args else "interrupted; nothing was written", 130)
    return 0


def _fail(message, code):
    print(f"bilevel: {'error: ' if code < 130 else ''}{message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bilevel",
        description="Bilevel optimisation: find wrong labels, check hypergradients, learn from few images, "
        "compare algorithms, and reproduce the claims of papers.",
    )
    parser.add_argument("--version", action="version", version=f"bilevel {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="name_of_command")
    for command in COMMANDS:
        command.add(commands)
    return parser


def _keep_compiled_programs():
    """Keep compiled programs for later runs with the same shapes."""
    import jax

    if jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        return
    try:
        import filelock  # noqa: F401  (JAX needs it to limit the size of the cache)
        import pooch
    except ModuleNotFoundError:  # they come with extras, and the cache only saves time
        return

    jax.config.update("jax_compilation_cache_dir", str(pooch.os_cache("bilevel") / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_compilation_cache_max_size", 2**29)


if __name__ == "__main__":
    sys.exit(main())
