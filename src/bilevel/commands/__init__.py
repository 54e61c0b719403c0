"""The commands of `bilevel`, one a module: `add` makes its parser, whose `command` default runs it."""

from bilevel.commands import clean, compare, fewshot, listing, reproduce

COMMANDS = (clean, compare, fewshot, reproduce, listing)

__all__ = ["COMMANDS"]
