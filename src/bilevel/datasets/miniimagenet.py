"""mini-ImageNet: 600 photographs of each of 100 classes."""

import zipfile

import numpy as np

from bilevel.datasets.errors import DataNotFoundError, did_you_mean
from bilevel.datasets.pictures import decoder, image_classes
from bilevel.datasets.source import named_folder, packed
from bilevel.datasets.types import ImageClasses

OWN = "miniimagenet.npz"
PIECES = {
    "train": ("train_0", "train_1", "train_2", "train_3"),
    "validation": ("val",),
    "test": ("test_0", "test_1"),
}


def miniimagenet() -> ImageClasses:
    """Photographs for few-shot learning, 32x32: 64, 16 and 20 classes of 600.

    Ravi and Larochelle's split of 100 ImageNet classes. The folder that BILEVEL_DATA names holds either
    a file `miniimagenet.npz` of the user, with uint8 arrays `train`, `validation` and `test` (classes,
    images, height, width, 3) of square images of any size, or the prepared files of 32x32 JPEG images.
    Nothing is downloaded, since ImageNet requires registration and is for research only.

    Raises:
      DataNotFoundError: when there are no such files; the message says how to make them.
      ValueError: when the user's file breaks a rule; the message is one line.

    Reference: Ravi and Larochelle, Optimization as a Model for Few-Shot Learning, ICLR 2017.
    """
    own = packed(OWN)
    return image_classes("miniimagenet", *(_read_prepared() if own is None else _read_own(own)))


def _read_prepared():
    files = [f"miniimagenet32_jpeg_{piece}.npz" for pieces in PIECES.values() for piece in pieces]
    paths = {file: packed(file) for file in files}
    missing = [file for file, path in paths.items() if path is None]
    if missing:
        raise DataNotFoundError(
            f"miniimagenet: there is no {OWN} (and no {missing[0]}) in {named_folder()}; make {OWN} with "
            "uint8 arrays `train`, `validation` and `test` (classes, images, height, width, 3) of 600 square "
            "images for each of the 64, 16 and 20 classes of Ravi and Larochelle's split of ImageNet, "
            "which image-net.org provides for research"
        )
    decode = decoder()
    images = iter([_decode_all(path, decode) for path in paths.values()])
    return [np.concatenate([next(images) for _ in pieces]) for pieces in PIECES.values()]


def _decode_all(path, decode):
    """Return the (classes, images, 32, 32, 3) pixels of concatenated JPEG files."""
    with np.load(path) as file:
        data, start, end = file["data"].tobytes(), file["start"], file["end"]
    pictures = [decode(data[a:b]) for a, b in zip(start.ravel().tolist(), end.ravel().tolist(), strict=True)]
    return np.stack(pictures).reshape(*start.shape, *pictures[0].shape)


def _read_own(path):
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path.name} must be an .npz file, got other content; write it with numpy.savez")
    with np.load(path, allow_pickle=False) as file:
        parts = [_read_images(path.name, file, part) for part in PIECES]
    sides = [images.shape[2] for images in parts]
    if len(set(sides)) > 1:
        found = ", ".join(f"{part} {side}" for part, side in zip(PIECES, sides, strict=True))
        raise ValueError(f"{path.name}: all images must have the same height, got {found}; resize them")
    return parts


def _read_images(where, file, part):
    if part not in file.files:
        raise ValueError(f"{where}: array {part!r} is missing; {did_you_mean(part, file.files)}")
    try:
        images = file[part]
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{where}: array {part!r} cannot be read ({error}); write the file again") from error
    if images.dtype != np.uint8:
        raise ValueError(f"{where}: {part} must be uint8 from 0 to 255, got {images.dtype}; convert it")
    if images.ndim != 5:
        rule = "must be (classes, images, height, width, 3)"
        raise ValueError(f"{where}: {part} {rule}, got shape {images.shape}")
    if images.shape[4] != 3:
        raise ValueError(f"{where}: the last axis of {part} must be 3 channels, got shape {images.shape}")
    if images.shape[2] != images.shape[3]:
        height, width = images.shape[2:4]
        raise ValueError(f"{where}: {part} images must be square, got {height}x{width}; crop or resize them")
    if 0 in images.shape:
        raise ValueError(f"{where}: {part} must not be empty, got shape {images.shape}; add images")
    return images
