"""Data sets: public ones by name, and files of the user."""

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
    "load",
    "load_classes",
    "names",
    "read_file",
]
