"""The data sets known by name."""

from typing import Any

from bilevel.datasets.embedded import breast_cancer, digits
from bilevel.datasets.errors import did_you_mean
from bilevel.datasets.ijcnn1 import ijcnn1
from bilevel.datasets.images import fashion_mnist, mnist
from bilevel.datasets.miniimagenet import miniimagenet
from bilevel.datasets.newsgroups import newsgroups
from bilevel.datasets.omniglot import omniglot
from bilevel.datasets.types import Dataset, ImageClasses

_LOADERS = {
    loader.__name__: loader for loader in (digits, breast_cancer, mnist, fashion_mnist, newsgroups, ijcnn1)
}
_CLASS_LOADERS = {loader.__name__: loader for loader in (omniglot, miniimagenet)}


def names() -> list[str]:
    """Names of the known data sets that have labels, the embedded ones first.

    >>> names()[0]
    'digits'
    """
    return list(_LOADERS)


def class_sets() -> list[str]:
    """Names of the known data sets for few-shot learning.

    >>> class_sets()
    ['omniglot', 'miniimagenet']
    """
    return list(_CLASS_LOADERS)


def describe(name: str) -> str:
    """One line about a known data set, of either kind.

    >>> describe("digits")
    'Handwritten digits, 8x8: 1,400 and 397 test images, embedded.'
    """
    return (_loader(name, _LOADERS | _CLASS_LOADERS).__doc__ or "").partition("\n")[0]


def load(name: str) -> Dataset:
    """A known data set, scaled for learning.

    Each loader but the embedded ones looks in the folder that the environment variable BILEVEL_DATA
    names, then in the user's cache, then downloads the original and compares its checksum.

    Args:
      name: one of `names()`.

    Returns:
      A `Dataset` with a test part.

    Raises:
      ValueError: for a name that is not known, or that is one of `class_sets()`.
      DataNotFoundError: when the files cannot be had; the message says where to put which.

    >>> digits = load("digits")
    >>> digits.features.shape, digits.image_shape, str(digits.labels.dtype)
    ((1400, 8, 8), (8, 8), 'int32')
    """
    if name in _CLASS_LOADERS:
        raise ValueError(
            f"{name!r} is a set for few-shot learning (`bilevel fewshot`); a set with labels is wanted here: "
            f"{', '.join(_LOADERS)}"
        )
    return _loader(name, _LOADERS)()


def load_classes(name: str, **options: Any) -> ImageClasses:
    """A known data set for few-shot learning: training, validation and test classes.

    Args:
      name: one of `class_sets()`.
      options: for omniglot, `split`: "characters" (1,100, 100 and 423 characters of all alphabets) or
        "alphabets" (test characters are of alphabets of their own), and `rotations`: whether each turn
        of a training character is a class of its own, as it is when not told otherwise.

    Raises:
      ValueError: for a name that is not known.
      DataNotFoundError: when the files cannot be had; the message says where to put which.
    """
    return _loader(name, _CLASS_LOADERS, "few-shot data set")(**options)


def _loader(name, loaders, kind="data set"):
    if name not in loaders:
        raise ValueError(f"unknown {kind} {name!r}; {did_you_mean(name, loaders)}")
    return loaders[name]
