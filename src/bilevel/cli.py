"""The command line: `bilevel clean | compare | fewshot | reproduce | list`."""

import argparse
import os
import shlex
import sys
from typing import NoReturn

from bilevel import __version__
from bilevel.commands import COMMANDS


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"bilevel: error: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Exit code of the command: 0, 1 for a diverged or failed run, 2 for bad input, 130 for an interrupt."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.command_line = shlex.join(["bilevel", *arguments])
    if options.compile_cache:
        _keep_compiled_programs()
    try:
        options.command(options)
        sys.stdout.flush()
    except ArithmeticError as error:
        return _tell(error, 1)
    except (ValueError, FileNotFoundError) as error:
        return _tell(error, 2)
    except BrokenPipeError:
        # Who read the output has gone, as after `| head`; the interpreter would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as interrupt:
        return _tell(interrupt.args[0] if interrupt.args else "interrupted; nothing was written", 130)
    return 0


def _tell(message, code):
    print(f"bilevel: {'error: ' if code < 130 else ''}{message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bilevel",
        description="Bilevel optimisation: clean labels, learn from few shots, compare, test claims.",
    )
    parser.add_argument("--version", action="version", version=f"bilevel {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def _keep_compiled_programs():
    """A second run of the same shapes need not compile again."""
    import jax
    import pooch

    jax.config.update("jax_compilation_cache_dir", str(pooch.os_cache("bilevel") / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_compilation_cache_max_size", 2**29)


if __name__ == "__main__":
    sys.exit(main())
