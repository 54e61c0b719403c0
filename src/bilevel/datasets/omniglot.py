"""Omniglot: 1,623 characters of 50 alphabets, each drawn by 20 people."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from bilevel.datasets.errors import did_you_mean
from bilevel.datasets.pictures import decoder, image_classes
from bilevel.datasets.source import Source, originals, packed, reject
from bilevel.datasets.types import ImageClasses

OMNIGLOT = Source(
    name="omniglot",
    homes=(
        "https://github.com/brendenlake/omniglot/raw/master/python/{file}",
        "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/{file}",
    ),
    files={
        "images_background.zip": "md5:68d2efa1b9178cc56df9314c21c6e718",
        "images_evaluation.zip": "md5:6b91aef0f799c5bb55b94e3f2daec811",
    },
)

SPLITS = ("characters", "alphabets")
TRAINING_CHARACTERS, VALIDATION_CHARACTERS, VALIDATION_ALPHABETS = 1100, 100, 5

# A pixel of the small drawing covers 3 or 4 of the 105 rows and columns; these are the first ones.
STARTS = np.add.outer(np.arange(0, 105, 15), [0, 4, 8, 11]).ravel()
WIDTHS = np.diff([*STARTS, 105])


def omniglot(split: str = "characters", *, rotations: bool = True) -> ImageClasses:
    """Handwritten characters for few-shot learning, 28x28: 1,623 of 20 drawings.

    Ink is 255, paper 0. Characters are sorted by alphabet and number.

    Args:
      split: "characters" draws 1,100 training, 100 validation and 423 test characters from all alphabets;
        the MAML experiments use these sizes with another draw. "alphabets" tests on the 20 evaluation
        alphabets (659 characters) and validates on 5 of the 30 background alphabets. Both splits are
        fixed random draws.
      rotations: whether each training character makes four classes, rotated by 0, 90, 180 and 270
        degrees: class `turns * characters + character`.

    Raises:
      ValueError: when the split is not known.
      DataNotFoundError: when the files cannot be found or downloaded.

    Reference: Lake, Salakhutdinov and Tenenbaum, Human-level concept learning through probabilistic
    program induction, Science 2015.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of omniglot; {did_you_mean(str(split), SPLITS)}")
    ink, alphabet, evaluation = drawings()
    members = _members(split, alphabet, evaluation)
    train, validation, test = (ink[part][..., None] * np.uint8(255) for part in members)
    if rotations:
        train = np.concatenate([np.rot90(train, turns, axes=(2, 3)) for turns in range(4)])
    return image_classes("omniglot", train, validation, test)


def drawings() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return `(ink, alphabet, evaluation)` of all characters, background ones first.

    `ink` is (1623, 20, 28, 28) of 0 and 1, `alphabet` (1623,) the index of the alphabet, and
    `evaluation` (1623,) whether it is one of the evaluation alphabets.
    """
    path = packed("omniglot.npz")
    return _read_originals() if path is None else read_drawings(path)


def read_drawings(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the result of `drawings` from a prepared file."""
    with np.load(path) as data:
        bits, alphabet, evaluation = data["bits"], data["alphabet"], data["evaluation"]
    ink = np.unpackbits(bits, axis=-1, count=28 * 28).reshape(*bits.shape[:2], 28, 28)
    return ink, alphabet, evaluation


def shrink(ink: np.ndarray) -> np.ndarray:
    """Return drawings (..., 28, 28) from 105x105 ones.

    A pixel is ink where at least a quarter of the pixels that it covers is ink. The published drawings
    become the prepared ones, bit for bit.

    Args:
      ink: (..., 105, 105) drawings of 0 and 1.
    """
    for axis in (-1, -2):
        ink = np.add.reduceat(ink, STARTS, axis=axis, dtype=np.uint8)
    return (4 * ink >= np.multiply.outer(WIDTHS, WIDTHS)).astype(np.uint8)


def _members(split, alphabet, evaluation):
    """Return the sorted positions of the training, validation and test characters."""
    # The stream of RandomState is frozen, so the split never changes.
    random = np.random.RandomState(0)
    if split == "characters":
        ends = TRAINING_CHARACTERS, TRAINING_CHARACTERS + VALIDATION_CHARACTERS
        return [np.sort(part) for part in np.split(random.permutation(len(alphabet)), ends)]
    background = np.unique(alphabet[~evaluation])
    held_out = np.isin(alphabet, random.permutation(background)[:VALIDATION_ALPHABETS])
    return [np.flatnonzero(part) for part in (~evaluation & ~held_out, held_out, evaluation)]


def _read_originals():
    """Return `drawings` from the published images; takes about five seconds."""
    decode = decoder()
    ink, owners = [], []
    for part, path in enumerate(originals(OMNIGLOT)):
        for (alphabet, _), pictures in _read_characters(path, decode).items():
            ink.append(pictures)
            owners.append((part, alphabet))
    alphabets = sorted(set(owners))
    alphabet = np.array([alphabets.index(owner) for owner in owners], np.uint8)
    return np.stack(ink), alphabet, np.array([part == 1 for part, _ in owners])


def _read_characters(path, decode):
    """Return `{(alphabet, character): (20, 28, 28)}` of one archive.

    Its members are named archive/alphabet/character/drawing.
    """
    characters = {}
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.split("/") for name in archive.namelist() if name.endswith(".png")]
            for name in sorted(name for name in names if name[0] == path.stem):
                _, alphabet, character, _ = name
                # Paper is white.
                ink = decode(archive.read("/".join(name))) == 0
                characters.setdefault((alphabet, character), []).append(ink)
        return {owner: shrink(np.stack(pictures)) for owner, pictures in characters.items()}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error):
        reject(OMNIGLOT, path, "it is not an archive of drawings of 105x105 pixels")
