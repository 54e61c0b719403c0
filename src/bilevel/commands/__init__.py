"""Commands of `bilevel`: in each module, `add` adds the parser and `run` runs it."""

from bilevel.commands import clean, compare, fewshot, listing, reproduce

COMMANDS = (clean, compare, fewshot, reproduce, listing)

__all__ = ["COMMANDS"]
