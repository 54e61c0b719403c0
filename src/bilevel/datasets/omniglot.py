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
    "omniglot",
    (
        "https://github.com/brendenlake/omniglot/raw/master/python/{file}",
        "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/{file}",
    ),
    {
        "images_background.zip": "md5:68d2efa1b9178cc56df9314c21c6e718",
        "images_evaluation.zip": "md5:6b91aef0f799c5bb55b94e3f2daec811",
    },
)

SPLITS = ("characters", "alphabets")
TRAINING_CHARACTERS, VALIDATION_CHARACTERS, VALIDATION_ALPHABETS = 1100, 100, 5

# A pixel of the small drawing stands for 3 or 4 rows and columns of the 105: where each begins.
STARTS = np.add.outer(np.arange(0, 105, 15), [0, 4, 8, 11]).ravel()
WIDTHS = np.diff([*STARTS, 105])


def omniglot(split: str = "characters", *, rotations: bool = True) -> ImageClasses:
    """Handwritten characters for few-shot learning, 28x28: 1,623 of 20 drawings.

    Ink is 255, paper 0. Characters stand in the order of their alphabets and numbers.

    Args:
      split: "characters" draws 1,100 training, 100 validation and 423 test characters from all: the sizes
        of the MAML experiments, with other members. "alphabets" tests on the 20 evaluation alphabets
        (659 characters) and validates on 5 of the 30 background alphabets. Both are drawn once and are
        the same everywhere.
      rotations: makes each training character four classes, turned by 0, 90, 180 and 270 degrees:
        class `turns * characters + character`.

    Raises:
      ValueError: for a split that is not known.
      DataNotFoundError: when the files cannot be had.

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
    """`(ink, alphabet, evaluation)` of all characters, background alphabets first.

    Shapes (1623, 20, 28, 28), of 0 and 1, (1623,) and (1623,): index of the alphabet, and whether it is
    one of the evaluation alphabets.
    """
    path = packed("omniglot.npz")
    return _read_originals() if path is None else read_drawings(path)


def read_drawings(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same from the prepared file."""
    with np.load(path) as data:
        bits, alphabet, evaluation = data["bits"], data["alphabet"], data["evaluation"]
    ink = np.unpackbits(bits, axis=-1, count=28 * 28).reshape(*bits.shape[:2], 28, 28)
    return ink, alphabet, evaluation


def shrink(ink: np.ndarray) -> np.ndarray:
    """Drawings (..., 28, 28) of 105x105 ones: ink where a quarter of the pixels or more is ink.

    Of the published drawings this makes the prepared ones, bit for bit.
    """
    for axis in (-1, -2):
        ink = np.add.reduceat(ink, STARTS, axis=axis, dtype=np.uint8)
    return (4 * ink >= np.multiply.outer(WIDTHS, WIDTHS)).astype(np.uint8)


def _members(split, alphabet, evaluation):
    """Positions of the training, the validation and the test characters, each in order."""
    # RandomState: its stream is frozen, so that the split never changes.
    random = np.random.RandomState(0)
    if split == "characters":
        ends = TRAINING_CHARACTERS, TRAINING_CHARACTERS + VALIDATION_CHARACTERS
        return [np.sort(part) for part in np.split(random.permutation(len(alphabet)), ends)]
    background = np.unique(alphabet[~evaluation])
    held_out = np.isin(alphabet, random.permutation(background)[:VALIDATION_ALPHABETS])
    return [np.flatnonzero(part) for part in (~evaluation & ~held_out, held_out, evaluation)]


def _read_originals():
    """The same from the published pictures; takes about five seconds."""
    decode = decoder("omniglot")
    ink, owners = [], []
    for part, path in enumerate(originals(OMNIGLOT)):
        for (alphabet, _), pictures in _read_characters(path, decode).items():
            ink.append(pictures)
            owners.append((part, alphabet))
    alphabets = sorted(set(owners))
    alphabet = np.array([alphabets.index(owner) for owner in owners], np.uint8)
    return np.stack(ink), alphabet, np.array([part == 1 for part, _ in owners])


def _read_characters(path, decode):
    """`{(alphabet, character): (20, 28, 28)}`; members are named archive/alphabet/character/drawing."""
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
        reject(OMNIGLOT, path, "it is no archive of drawings of 105x105 pixels")
