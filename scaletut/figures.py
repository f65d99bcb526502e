"""The look of the book's figures: palette, sizes, and how an interval is drawn. Nothing about any chapter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scaletut.errors import ParameterError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scaletut.records import Value

# Blue, orange, teal, violet, brown, black: the hues of Okabe and Ito's palette, at lightnesses that keep any two at
# least 30 CIE76 units apart for usual sight and for the three kinds of dichromacy; each at least 3 : 1 against white.
PALETTE = ("#004a6b", "#ee7014", "#0ca589", "#c75ae2", "#5f3900", "#0d0d0d")
MARKERS = ("o", "s", "D", "^", "v", "P")  # a second cue besides colour
INK, QUIET, GRID = "#22303c", "#5c6b78", "#e3e8ec"
WIDTH, HEIGHT = 7.0, 3.6  # inches: the book's text column at 100 dots an inch


def use_style() -> None:
    """Make all following matplotlib figures look like the book's: one call at a notebook's start."""
    import matplotlib as mpl

    mpl.rcParams.update(
        {
            "figure.figsize": (WIDTH, HEIGHT),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "white",
            "font.size": 11,
            "axes.titlesize": 12,
            "axes.titlelocation": "left",
            "axes.labelcolor": INK,
            "axes.edgecolor": QUIET,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.grid": True,
            "axes.prop_cycle": mpl.cycler(color=PALETTE),
            "grid.color": GRID,
            "text.color": INK,
            "xtick.color": QUIET,
            "ytick.color": QUIET,
            "legend.frameon": False,
            "lines.linewidth": 2.0,
        }
    )


def panels(rows: int, columns: int, *, height: float = HEIGHT, **options: Any) -> tuple[Figure, Any]:
    """Figure of the book's width with `rows` x `columns` axes, `height` inches tall: as `plt.subplots` gives them."""
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=(WIDTH, height), **options)


def line_with_band(axes: Axes, x: Sequence[float], values: Sequence[Value], label: str, number: int = 0) -> None:
    """Draw means as a line with markers, and their intervals as a band, where there are any.

    x: positions. values: one `Value` a position. number: which colour and marker of the palette.
    Raises ParameterError when the two differ in length.
    """
    if len(x) != len(values):
        raise ParameterError(f"{len(x)} positions for {len(values)} values; give one value a position")
    colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
    axes.plot(x, [value.value for value in values], marker=marker, color=colour, label=label)
    low, high = (np.array([_end(value, end) for value in values]) for end in ("low", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def dots_with_intervals(axes: Axes, names: Sequence[str], values: Sequence[Value], number: int = 0) -> None:
    """Draw one row a name, the first on top: a dot at the mean, a bar over its interval where there is one.

    Raises ParameterError when names and values differ in number.
    """
    if len(names) != len(values):
        raise ParameterError(f"{len(names)} names for {len(values)} values; give one value a name")
    rows = np.arange(len(names))
    low, high = (np.array([_end(value, end) for value in values]) for end in ("low", "high"))
    axes.hlines(rows, low, high, color=PALETTE[number], linewidth=3, alpha=0.45)
    axes.plot([value.value for value in values], rows, MARKERS[number], color=PALETTE[number])
    axes.set_yticks(rows, names)
    axes.set_ylim(max(len(names), 1) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def show_images(axes: Iterable[Axes], images: np.ndarray, titles: Sequence[str] | None = None) -> None:
    """Put an image, uint8 (height, width, 3), into each of the axes, without ticks or smoothing."""
    for number, (ax, image) in enumerate(zip(axes, images, strict=True)):
        ax.imshow(image, interpolation="nearest")
        ax.set_axis_off()
        if titles is not None:
            ax.set_title(titles[number], fontsize=8, loc="center")


def count_in_whole_numbers(*axes: Axes) -> None:
    """Put the ticks below each of the axes at whole numbers only: for epochs, seeds, layers."""
    from matplotlib.ticker import MaxNLocator

    for ax in axes:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def image_rows(axes: Axes, rows: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Draw one row of images a name, the first on top, with a white line around each.

    rows: uint8 (n, height, width, 3) each, of one height and width; as many are shown as the shortest row has.
    Raises ParameterError when names and rows differ in number.
    """
    if len(names) != len(rows):
        raise ParameterError(f"{len(names)} names for {len(rows)} rows of images; give one row a name")
    count = min(len(row) for row in rows)
    framed = [np.pad(row[:count], ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255) for row in rows]
    side = framed[0].shape[1]
    axes.imshow(np.vstack([np.hstack(row) for row in framed]), interpolation="nearest")
    axes.set_yticks(side * (np.arange(len(rows)) + 0.5), names)
    axes.set_xticks([])
    axes.grid(visible=False)


def heat_map(axes: Axes, matrix: np.ndarray, names: Sequence[str], *, high: float = 100) -> None:
    """Draw a square matrix of 0 to `high` as shades, each cell with its number, rows and columns named alike.

    Raises ParameterError when the matrix is not of the names' size.
    """
    if matrix.shape != (len(names), len(names)):
        raise ParameterError(f"a matrix of {matrix.shape} for {len(names)} names; give one row and column a name")
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=high)
    for (row, column), value in np.ndenumerate(matrix):
        colour = "white" if value > high / 2 else INK
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.grid(visible=False)


def _end(value: Value, name: str) -> float:
    end = getattr(value, name)
    return value.value if end is None else end
