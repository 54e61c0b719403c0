"""Detection of wrong labels with a few trusted rows, and test benches for it."""

from bilevel.cleaning.clean import clean
from bilevel.cleaning.noise import corrupt
from bilevel.cleaning.result import Cleaning
from bilevel.cleaning.split import split

__all__ = ["Cleaning", "clean", "corrupt", "split"]
