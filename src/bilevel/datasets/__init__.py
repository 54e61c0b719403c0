"""Data sets: known ones by name, and the user's own files."""

from bilevel.datasets.errors import DataNotFoundError
from bilevel.datasets.files import read_file
from bilevel.datasets.known import describe, load, names
from bilevel.datasets.types import Dataset

__all__ = ["DataNotFoundError", "Dataset", "describe", "load", "names", "read_file"]
