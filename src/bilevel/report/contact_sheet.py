"""Contact sheet of flagged images: small PNGs for the page, and one figure."""

import io

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Rectangle

from bilevel.cleaning.result import Cleaning
from bilevel.report.figures import BLUE, INK, QUIET, VERMILLION, brief_names, panel, styled
from bilevel.report.labels import suspects

SHOWN = 60  # images on the page
LINES = 5  # lines of images in the figure
LONGEST_SIDE = 96  # pixels of an image on the page


def pictures(images: np.ndarray) -> np.ndarray:
    """Scale images, grey or coloured, to (n, h, w, 3) uint8; drop an alpha channel."""
    images = np.asarray(images)
    images = images[..., None] if images.ndim == 3 else images
    images = images[..., :3] if images.shape[-1] >= 3 else images.mean(-1, keepdims=True)
    step = -(-max(images.shape[1:3]) // LONGEST_SIDE)
    images = np.nan_to_num(images[:, ::step, ::step].astype(float))
    low, high = images.min(), images.max()
    scaled = np.round(255 * (images - low) / max(high - low, 1e-12)).astype(np.uint8)
    return np.broadcast_to(scaled, (*scaled.shape[:3], 3))


def picture_png(picture: np.ndarray) -> bytes:
    """Return a picture as a PNG of the same size in pixels."""
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(picture), format="png")
    return file.getvalue()


@styled
def contact_sheet(cleaning: Cleaning) -> Figure:
    """Draw the most suspicious images, each with its given and suggested label.

    Where the truth is known, a blue frame means a wrong label; a vermillion frame with a cross means
    a false alarm.
    """
    names = brief_names(cleaning.classes, 13, longest=13)
    longest = max(map(len, names))
    terse = longest <= 2
    # Columns, and room for text under an image in widths of an image. Longer names need wider columns.
    columns, text = (12, 0.34) if terse else (8, 0.44) if longest <= 8 else (6, 0.36)
    rows = suspects(cleaning)[: LINES * columns]
    lines = max(-(-len(rows) // columns), 1)
    tiles = pictures(cleaning.images[rows])  # pyright: ignore[reportOptionalSubscript]
    aspect = tiles.shape[1] / tiles.shape[2]
    height = aspect + text
    width = 7.2
    figure, axes = panel(
        "Flagged images, most suspicious first", width=width, height=0.5 + width / columns * height * lines
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
