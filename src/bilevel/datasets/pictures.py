"""Picture files to pixels, and classes of pictures with their mean and deviation."""

import io
from collections.abc import Callable

import numpy as np

from bilevel.datasets.errors import DataNotFoundError
from bilevel.datasets.types import ImageClasses


def decoder(name: str) -> Callable[[bytes], np.ndarray]:
    """A function from the content of a PNG or JPEG file to its pixels.

    Args:
      name: of the data set, for the error line.

    Raises:
      DataNotFoundError: when Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        remedy = "its files are pictures, which Pillow decodes: `pip install pillow`"
        raise DataNotFoundError(f"{name}: {remedy}") from error
    return lambda content: np.asarray(Image.open(io.BytesIO(content)))


def image_classes(name: str, train: np.ndarray, validation: np.ndarray, test: np.ndarray) -> ImageClasses:
    """The record of these uint8 images, with the mean and deviation of the training pixels."""
    channels = range(train.shape[-1])
    # Counts are exact, and class by class they need no second copy of the images.
    counts = sum(
        np.stack([np.bincount(images[..., channel].ravel(), minlength=256) for channel in channels])
        for images in train
    )
    values = np.arange(256) / 255
    shares = counts / np.sum(counts, axis=1, keepdims=True)
    mean = shares @ values
    deviation = np.sqrt(np.sum(shares * (values - mean[:, None]) ** 2, axis=1))
    return ImageClasses(name, train, validation, test, tuple(mean.tolist()), tuple(deviation.tolist()))
