"""Reader of images in folders by class."""

from pathlib import Path
from typing import Any

import numpy as np

from bilevel.datasets.labels import count, listed
from bilevel.extras import extra

LARGEST = 64  # pixels of the longer side; larger images are made smaller
_PARTS = {"train", "training", "test", "testing", "val", "valid", "validation", "trusted"}


class ImageFolder:
    """Images of one folder, with a sub-folder for each class.

    Attributes:
      images: (n, h, w) or (n, h, w, 3) uint8, all of one size.
      labels: names of the sub-folders.
      files: paths of the images below the folder.
      notes: one line for each unusual thing.
    """

    def __init__(self, path: Path, *, like: np.ndarray | None = None):
        """Read the images.

        Args:
          path: the folder.
          like: images of another folder, whose size and colours are used; None means the median size, at
            most 64 pixels, and grey where no pixel has a colour.

        Raises:
          ValueError: when the folder holds no images by class.
        """
        with extra("clean"):
            from PIL import Image

        endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
        found = _images(path, endings)
        self.notes: list[str] = []
        sizes, colours, readable, broken = [], False, [], []
        for file in found:
            try:
                with Image.open(file) as image:
                    width, height = image.size
                    if image.getexif().get(0x0112, 1) >= 5:  # turned by 90 degrees
                        width, height = height, width
                    sizes.append((height, width))
                    colours |= image.mode not in ("1", "L", "LA") and not image.mode.startswith(("I", "F"))
                    readable.append(file)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                broken.append(file)
        if like is None and sizes:
            height, width = np.median(sizes, axis=0)
            factor = min(1, LARGEST / max(height, width))
            size = max(1, round(height * factor)), max(1, round(width * factor))
        elif like is not None:
            size, colours = (like.shape[1], like.shape[2]), like.ndim == 4
        pixels, kept, resized = [], [], 0
        for file, given in zip(readable, sizes, strict=True):
            try:
                pixels.append(_pixels(Image, file, size, "RGB" if colours else "L"))
            except (OSError, ValueError, SyntaxError):
                broken.append(file)
                continue
            kept.append(file)
            resized += given != size
        if not kept:
            raise ValueError(f"{path}: no image can be read, got {len(found)} broken files; write them again")
        self.images = np.stack(pixels)
        if like is None and colours and (self.images == self.images[..., :1]).all():
            self.images = np.ascontiguousarray(self.images[..., 0])
        self.files = [file.relative_to(path).as_posix() for file in kept]
        self.labels = [name.partition("/")[0] for name in self.files]
        if broken:
            names = listed([file.relative_to(path).as_posix() for file in broken])
            self.notes.append(f"{count(len(broken), 'image')} that cannot be read left out: {names}")
        if resized:
            self.notes.append(f"{count(resized, 'image')} resized to {size[1]} x {size[0]} pixels")


def _images(path, endings):
    """Return the images below the sub-folders of a folder."""
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    names = [folder.name for folder in folders]
    if names and {name.lower() for name in names} <= _PARTS:
        raise ValueError(
            f"{path} must have one sub-folder for each class, got {', '.join(names)}; give one of them, and "
            "the others with --test and --trusted"
        )
    found = [
        file
        for folder in folders
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in endings and file.is_file() and not file.name.startswith(".")
    ]
    if not found:
        got = (
            "images in no sub-folder" if any(f.suffix.lower() in endings for f in path.iterdir()) else "none"
        )
        raise ValueError(
            f"{path} must hold images (PNG, JPEG, ...) in one sub-folder for each class, got {got}; "
            "put them there, or give a file"
        )
    return found


def _pixels(library: Any, file: Path, size: tuple[int, int], mode: str) -> np.ndarray:
    """Return the pixels of an image file, resized and turned upright."""
    from PIL import ImageOps

    with library.open(file) as image:
        # A JPEG file is decoded at a fraction of its size where that is enough.
        image.draft(mode, (2 * size[1], 2 * size[0]))
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits
            image = library.fromarray(
                (np.asarray(image).astype(np.float64) / 257).clip(0, 255).astype(np.uint8)
            )
        if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            clear = image.convert("RGBA")
            image = library.alpha_composite(library.new("RGBA", clear.size, "white"), clear)
        image = image.convert(mode)
        if image.size != (size[1], size[0]):
            image = image.resize(
                (size[1], size[0]), library.Resampling.BOX if _shrinks(image, size) else None
            )
        return np.asarray(image)


def _shrinks(image, size):
    return image.size[0] >= size[1] and image.size[1] >= size[0]
