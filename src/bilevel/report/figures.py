"""The common style of all figures.

Figures are plain `matplotlib.figure.Figure` objects; pyplot and global settings are not touched.
"""

import functools
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec, TypeVar

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

INK, QUIET, GRID = "#1b1f24", "#5b6470", "#e4e7eb"
# Colours of Okabe and Ito, distinct for colour-blind readers, in decreasing contrast on white.
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#b0568f",
    "#e69f00",
    "#56b4e9",
)
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, INK)
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)))
RESOLUTION = 200  # dots per inch: sharp on a high-density screen at the width of a figure on the page

P = ParamSpec("P")
R = TypeVar("R")

LOOK = {
    "text.usetex": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.formatter.use_mathtext": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # text can be selected and edited
}


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorate a drawing function to run in the style of this module."""

    @functools.wraps(draw)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with style.context(["default", LOOK]):
            return draw(*args, **kwargs)

    return run


def panel(
    title: str, x: str = "", y: str = "", *, width: float = 5.2, height: float = 3.5
) -> tuple[Figure, Axes]:
    """Create a figure with one pair of axes.

    Args:
      title: title of the figure.
      x: label of the x axis.
      y: label of the y axis.
      width: width in inches.
      height: height in inches.
    """
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06))
    axes = figure.add_subplot()
    # The title is at the left edge of the figure: over the axes, long tick labels would push it to the right.
    figure.suptitle(title, x=0.02, horizontalalignment="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def spans_decades(values: np.ndarray, ratio: float = 30.0) -> bool:
    """Return whether values are positive and span more than a factor of `ratio`."""
    values = values[np.isfinite(values)]
    return values.size > 0 and values.min() > 0 and values.max() > ratio * values.min()


def brief(name: object, length: int) -> str:
    """Return a name on one line, cut to at most `length` characters.

    >>> brief("ankle\\n boot", 12), brief("comp.sys.ibm.pc.hardware", 12)
    ('ankle boot', 'comp.sys.ib…')
    """
    line = " ".join(str(name).split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def brief_names(names: Sequence[object], length: int, longest: int = 40) -> list[str]:
    """Return names on one line, cut to at most `length` characters where they stay distinct.

    Where a cut at the end makes two names equal, the middle is cut out; where that does too, the limit
    rises up to `longest`.

    >>> brief_names(["comp.sys.mac.hardware", "comp.sys.mac.software"], 12)
    ['comp.s…dware', 'comp.s…tware']
    """
    lines = [" ".join(str(name).split()) for name in names]
    for limit in range(length, longest + 1):
        head = limit // 2
        for cut in (
            [brief(line, limit) for line in lines],
            [line if len(line) <= limit else f"{line[:head]}…{line[head + 1 - limit :]}" for line in lines],
        ):
            if len(set(cut)) == len(set(lines)):
                return cut
    return [brief(line, length) for line in lines]


def png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    return _saved(figure, "png", {"Software": None})


def pdf(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PDF file, with its text as text."""
    return _saved(figure, "pdf", {"Creator": None, "Producer": None, "CreationDate": None})


def pngs(figures: Mapping[str, Figure]) -> dict[str, bytes]:
    """Return the PNG bytes of each figure, by the same names."""
    return {name: png(figure) for name, figure in figures.items()}


def image_files(figures: Mapping[str, Figure], drawn: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the contents of a PNG and of a PDF file of each figure, by file name.

    Args:
      figures: figures by name.
      drawn: their PNG bytes by the same names, from `pngs`.
    """
    files = {f"{name}.png": image for name, image in drawn.items()}
    return files | {f"{name}.pdf": pdf(figure) for name, figure in figures.items()}


@styled
def _saved(figure: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes; the page shows them in the reader's fonts.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format=kind, dpi=RESOLUTION, metadata=metadata)
    return file.getvalue()
