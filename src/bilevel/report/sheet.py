"""The flagged images side by side: small pictures for the page, one figure to keep."""

import io

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Rectangle

from bilevel.cleaning.result import Cleaning
from bilevel.report.figures import BLUE, INK, QUIET, VERMILLION, brief, panel, styled
from bilevel.report.labels import suspects

SHOWN = 60
LINES = 5
LONGEST_SIDE = 96  # pixels of a picture on the page


def pictures(images: np.ndarray) -> np.ndarray:
    """(n, h, w, 3) bytes for images of any range: grey, one channel, colour, with or without alpha."""
    images = np.asarray(images)
    images = images[..., None] if images.ndim == 3 else images
    images = images[..., :3] if images.shape[-1] >= 3 else images.mean(-1, keepdims=True)
    step = -(-max(images.shape[1:3]) // LONGEST_SIDE)
    images = np.nan_to_num(images[:, ::step, ::step].astype(float))
    low, high = images.min(), images.max()
    scaled = np.round(255 * (images - low) / max(high - low, 1e-12)).astype(np.uint8)
    return np.broadcast_to(scaled, (*scaled.shape[:3], 3))


def picture_png(picture: np.ndarray) -> bytes:
    """One picture as a PNG file of its own size."""
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(picture), format="png")
    return file.getvalue()


@styled
def contact_sheet(cleaning: Cleaning, shown: int = SHOWN) -> Figure:
    """The most suspicious flagged images, each with its given and suggested label.

    Where the truth is known the frame is blue when the label is wrong indeed, and vermillion with a
    cross when it is right and the flag is a false alarm.
    """
    names = [brief(name, 13) for name in cleaning.classes]
    terse = max(map(len, names)) <= 2
    columns, text = (12, 0.34) if terse else (8, 0.44)  # text: room under a tile, in tile widths
    rows = suspects(cleaning)[: min(shown, LINES * columns)]
    lines = max(-(-len(rows) // columns), 1)
    tiles = pictures(cleaning.images[rows])  # pyright: ignore[reportOptionalSubscript]
    aspect = tiles.shape[1] / tiles.shape[2]
    height = aspect + text
    width = 7.2
    figure, axes = panel(
        "Flagged, most suspicious first", width=width, height=0.5 + width / columns * height * lines
    )
    for place, (row, tile) in enumerate(zip(rows, tiles, strict=True)):
        left, top = place % columns, place // columns * height
        given, suggested = cleaning.given[row], cleaning.suggested[row]
        alarm = cleaning.truth is not None and cleaning.truth[row] == given
        colour = QUIET if cleaning.truth is None else VERMILLION if alarm else BLUE
        box = (left + 0.06, left + 0.94, top + 0.94 * aspect, top + 0.06 * aspect)
        axes.imshow(tile, extent=box, interpolation="nearest", aspect="auto")
        frame = Rectangle((box[0], box[3]), 0.88, 0.88 * aspect, fill=False, edgecolor=colour, linewidth=2)
        axes.add_patch(frame)
        verdict = " ✗" if alarm else ""
        between = " → " if terse else "\n→ "
        words = f"{names[given]}{between}{names[suggested]}{verdict}"
        axes.text(left + 0.5, top + aspect, words, ha="center", va="top", fontsize=7.5,
                  color=colour if alarm else INK, parse_math=False)  # fmt: skip
    axes.set_xlim(0, columns)
    axes.set_ylim(lines * height, 0)
    axes.set_axis_off()
    return figure
