"""Pixels of PNG and JPEG files, and the record of images by class."""

import io
from collections.abc import Callable

import numpy as np

from bilevel.datasets.types import ImageClasses
from bilevel.extras import extra


def decoder() -> Callable[[bytes], np.ndarray]:
    """Return the function from the content of a PNG or JPEG file to its pixels."""
    with extra("fewshot"):
        from PIL import Image
    return lambda content: np.asarray(Image.open(io.BytesIO(content)))


def image_classes(name: str, train: np.ndarray, validation: np.ndarray, test: np.ndarray) -> ImageClasses:
    """Return the record of images, with mean and deviation of the training pixels.

    Args:
      name: name of the data set.
      train, validation, test: (classes, images, height, width, channels) uint8 images.
    """
    channels = range(train.shape[-1])
    # Counts are exact, and counting class by class needs no second copy of the images.
    counts = sum(
        np.stack([np.bincount(images[..., channel].ravel(), minlength=256) for channel in channels])
        for images in train
    )
    values = np.arange(256) / 255
    shares = counts / np.sum(counts, axis=1, keepdims=True)
    mean = shares @ values
    deviation = np.sqrt(np.sum(shares * (values - mean[:, None]) ** 2, axis=1))
    return ImageClasses(
        name=name,
        train=train,
        validation=validation,
        test=test,
        mean=tuple(mean.tolist()),
        std=tuple(deviation.tolist()),
    )
