"""Public data sets by name."""

from typing import Any

from bilevel.datasets.embedded import breast_cancer, digits
from bilevel.datasets.errors import did_you_mean
from bilevel.datasets.ijcnn1 import ijcnn1
from bilevel.datasets.miniimagenet import miniimagenet
from bilevel.datasets.mnist import fashion_mnist, mnist
from bilevel.datasets.newsgroups import newsgroups
from bilevel.datasets.omniglot import omniglot
from bilevel.datasets.types import Dataset, ImageClasses

_LOADERS = {
    loader.__name__: loader for loader in (digits, breast_cancer, mnist, fashion_mnist, newsgroups, ijcnn1)
}
_CLASS_LOADERS = {loader.__name__: loader for loader in (omniglot, miniimagenet)}


def names() -> list[str]:
    """Return the names of the data sets of labelled rows, the embedded ones first.

    >>> names()[0]
    'digits'
    """
    return list(_LOADERS)


def class_sets() -> list[str]:
    """Return the names of the data sets for few-shot learning.

    >>> class_sets()
    ['omniglot', 'miniimagenet']
    """
    return list(_CLASS_LOADERS)


def describe(name: str) -> str:
    """Return one line about a public data set of either kind.

    Args:
      name: one of `names()` or `class_sets()`.

    >>> describe("digits")
    'Handwritten digits, 8x8: 1,400 and 397 test images, embedded.'
    """
    return (_loader(name, _LOADERS | _CLASS_LOADERS).__doc__ or "").partition("\n")[0]


def load(name: str) -> Dataset:
    """Return a public data set of labelled rows, scaled for learning.

    Embedded data sets come with scikit-learn. The files of the others are searched for in the folder that
    the environment variable BILEVEL_DATA names, then in the user's cache. Otherwise they are downloaded,
    and their checksums are verified.

    Args:
      name: one of `names()`.

    Returns:
      A `Dataset` with a test part.

    Raises:
      ValueError: when the name is not one of `names()`.
      DataNotFoundError: when the files cannot be found or downloaded; the message names the files and
        where to put them.

    >>> digits = load("digits")
    >>> digits.features.shape, digits.image_shape, str(digits.labels.dtype)
    ((1400, 8, 8), (8, 8), 'int32')
    """
    if name in _CLASS_LOADERS:
        raise ValueError(
            f"{name!r} is a data set for few-shot learning (`bilevel fewshot`), not one of labelled rows; "
            f"choose one of {', '.join(_LOADERS)}"
        )
    return _loader(name, _LOADERS)()


def load_classes(name: str, **options: Any) -> ImageClasses:
    """Return a public data set for few-shot learning, with images by class.

    Args:
      name: one of `class_sets()`.
      **options: arguments of the loader. Omniglot has `split`, "characters" (1,100, 100 and 423
        characters of all alphabets) or "alphabets" (test characters come from alphabets of their own),
        and `rotations`, whether each rotation of a training character is a class of its own (default: True).

    Raises:
      ValueError: when the name is not one of `class_sets()`.
      DataNotFoundError: when the files cannot be found or downloaded; the message names the files and
        where to put them.
    """
    return _loader(name, _CLASS_LOADERS, "few-shot data set")(**options)


def _loader(name, loaders, kind="data set"):
    if name not in loaders:
        raise ValueError(f"unknown {kind} {name!r}; {did_you_mean(name, loaders)}")
    return loaders[name]
