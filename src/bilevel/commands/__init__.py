"""Commands of `bilevel`: in each module, `add` adds the parser and `run` runs it."""

from bilevel.commands import check, clean, compare, fewshot, listing, reproduce

COMMANDS = (clean, check, compare, fewshot, reproduce, listing)

__all__ = ["COMMANDS"]
