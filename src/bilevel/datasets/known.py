"""The data sets known by name."""

from bilevel.datasets.embedded import breast_cancer, digits
from bilevel.datasets.errors import did_you_mean
from bilevel.datasets.ijcnn1 import ijcnn1
from bilevel.datasets.images import fashion_mnist, mnist
from bilevel.datasets.newsgroups import newsgroups
from bilevel.datasets.types import Dataset

_LOADERS = {
    loader.__name__: loader for loader in (digits, breast_cancer, mnist, fashion_mnist, newsgroups, ijcnn1)
}


def names() -> list[str]:
    """Names of the known data sets, the embedded ones first.

    >>> names()[0]
    'digits'
    """
    return list(_LOADERS)


def describe(name: str) -> str:
    """One line about a known data set.

    >>> describe("digits")
    'Handwritten digits, 8x8: 1,400 and 397 test images, embedded.'
    """
    return (_loader(name).__doc__ or "").partition("\n")[0]


def load(name: str) -> Dataset:
    """A known data set, scaled for learning.

    Each loader but the embedded ones looks in the folder that the environment variable BILEVEL_DATA
    names, then in the user's cache, then downloads the original and compares its checksum.

    Args:
      name: one of `names()`.

    Returns:
      A `Dataset` with a test part.

    Raises:
      ValueError: for a name that is not known.
      DataNotFoundError: when the files cannot be had; the message says where to put which.

    >>> digits = load("digits")
    >>> digits.features.shape, digits.image_shape, str(digits.labels.dtype)
    ((1400, 8, 8), (8, 8), 'int32')
    """
    return _loader(name)()


def _loader(name):
    if name not in _LOADERS:
        raise ValueError(f"unknown data set {name!r}; {did_you_mean(name, _LOADERS)}")
    return _LOADERS[name]
