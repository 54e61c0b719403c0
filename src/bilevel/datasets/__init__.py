"""Data sets: public ones by name, files of the user, and rows in memory."""

from bilevel.datasets.arrays import from_arrays
from bilevel.datasets.errors import DataNotFoundError
from bilevel.datasets.files import read_file
from bilevel.datasets.known import class_sets, describe, load, load_classes, names
from bilevel.datasets.types import Dataset, ImageClasses

__all__ = [
    "DataNotFoundError",
    "Dataset",
    "ImageClasses",
    "class_sets",
    "describe",
    "from_arrays",
    "load",
    "load_classes",
    "names",
    "read_file",
]
