"""Detection of wrong labels, with or without trusted rows, and test benches for it."""

from bilevel.cleaning.clean import clean, clean_dataset
from bilevel.cleaning.influence import influence
from bilevel.cleaning.noise import corrupt
from bilevel.cleaning.result import ClassEstimates, Cleaning, Estimates
from bilevel.cleaning.split import split

__all__ = [
    "ClassEstimates",
    "Cleaning",
    "Estimates",
    "clean",
    "clean_dataset",
    "corrupt",
    "influence",
    "split",
]
