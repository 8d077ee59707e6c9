"""What all pictures share: figures without a window, panels, images on axes, colours, saving.

Each drawing function takes one `ax`. Where it needs several panels it divides the place of that one, so that any
picture can be put into a figure of the caller's own. matplotlib is used without pyplot: no window, no global state.
"""

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from selavpr_peft.files import write_atomically

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.cm
    import matplotlib.figure

TEXT_SIZE = 9
DOTS_PER_INCH = 150
_GAP = 0.02  # between two panels, as a share of the width of all

CORRECT, WRONG, UNKNOWN = "#00805d", "#c04f00", "#777777"
"""Green and orange of Okabe and Ito's colour-blind-safe palette, darkened for white writing; and grey."""

SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Colours of curves: Okabe and Ito's palette without its yellow, which is too light for lines."""


def new_axes(width_inches: float, height_inches: float) -> "matplotlib.axes.Axes":
    """Make axes on a figure of their own.

    Args:
        width_inches: Width of the figure.
        height_inches: Height of the figure.

    Raises:
        ImportError: If matplotlib is missing.
    """
    ax: matplotlib.axes.Axes = new_figure(width_inches, height_inches).subplots()
    return ax


def new_figure(width_inches: float, height_inches: float) -> "matplotlib.figure.Figure":
    """Make a figure that no window system knows of.

    Args:
        width_inches: Its width.
        height_inches: Its height.

    Raises:
        ImportError: If matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('drawing needs matplotlib, which is missing: pip install "selavpr_peft[viz]"') from error
    return Figure(figsize=(width_inches, height_inches), layout="constrained", facecolor="white")


def split_axes(ax: "matplotlib.axes.Axes", num_panels: int, *, bottom: float = 0.0) -> "list[matplotlib.axes.Axes]":
    """Divide the place of some axes into panels beside each other; they become its `child_axes`.

    Args:
        ax: Left empty itself.
        num_panels: How many.
        bottom: Left free under the panels, as a share of the height.

    Returns:
        The panels from left to right.
    """
    ax.set_axis_off()
    width = _panel_share(num_panels)
    return [ax.inset_axes((number * (width + _GAP), bottom, width, 1 - bottom)) for number in range(num_panels)]


def row_height(images: Sequence[Image.Image], width_inches: float) -> float:
    """Give the height at which pictures side by side, in panels by `split_axes`, fill a width.

    Args:
        images: One per panel of equal width.
        width_inches: Of all of them together.

    Returns:
        Height in inches of the one that is highest for its width.
    """
    return max(image.height / image.width for image in images) * width_inches * _panel_share(len(images))


def _panel_share(num_panels: int) -> float:
    """Give the width of one of several panels as a share of all."""
    return (1 - _GAP * (num_panels - 1)) / num_panels


def show_image(ax: "matplotlib.axes.Axes", image: Image.Image, *, left: float = 0.0, scale: float = 1.0) -> None:
    """Lay an image on a canvas so that pixel (i, j) covers x from left + scale * i to left + scale * (i + 1).

    Args:
        ax: The canvas, y pointing down.
        image: In any mode.
        left: Left edge.
        scale: Canvas units per pixel.
    """
    extent = (left, left + scale * image.width, scale * image.height, 0.0)
    # "hanning" is smooth both ways; matplotlib's default turns blocky when it enlarges more than threefold
    ax.imshow(np.asarray(image.convert("RGB")), extent=extent, interpolation="hanning")


def hide_ticks(ax: "matplotlib.axes.Axes", title: str = "") -> None:
    """Leave of some axes their frame and a title."""
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=TEXT_SIZE)


def add_colour_bar(
    ax: "matplotlib.axes.Axes", coloured: "matplotlib.cm.ScalarMappable", label: str, *, is_upright: bool = False
) -> None:
    """Put a colour bar under some axes or, upright, to their right.

    Args:
        ax: Keep their size.
        coloured: What the colours belong to.
        label: What they stand for, with its unit.
        is_upright: Where it goes.
    """
    place = (1.012, 0.0, 0.014, 1.0) if is_upright else (0.0, -0.09, 1.0, 0.045)
    direction = "vertical" if is_upright else "horizontal"
    bar = ax.figure.colorbar(coloured, cax=ax.inset_axes(place), orientation=direction)
    bar.set_label(label, fontsize=TEXT_SIZE - 1)
    bar.ax.tick_params(labelsize=TEXT_SIZE - 2)
    bar.outline.set_visible(False)


def check_length(name: str, values: Sized, expected: int) -> None:
    """Raise if a sequence or array has not one entry for each image or match.

    Args:
        name: What a message calls it.
        values: The sequence.
        expected: How many there must be.

    Raises:
        ValueError: If there are more or fewer.
    """
    if len(values) != expected:
        raise ValueError(f"{name} must have {expected} entries, one for each image or match, got {len(values)}.")


def save_figure(figure: "matplotlib.figure.Figure", path: Path, *, dots_per_inch: int = DOTS_PER_INCH) -> None:
    """Write a figure as PNG; if that fails, a file that was there before is kept as it was.

    Args:
        figure: Of any function here (`ax.figure`) or the caller's own.
        path: A name ending in .png; missing folders are made.
        dots_per_inch: Resolution.

    Raises:
        ValueError: If the name does not end in .png.
    """
    path = Path(path)
    check_picture_name(path)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=dots_per_inch))


def check_picture_name(path: Path) -> None:
    """Raise unless a picture can be written under this name.

    Args:
        path: The name.

    Raises:
        ValueError: If it does not end in .png.
    """
    if path.suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {path}; other formats: figure.savefig.")
