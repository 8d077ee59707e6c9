"""Heat maps over pictures: what patches are worth, drawn where they are.

A patch grid covers the whole picture, as the network saw it resized, so cell (row, column) of h x w is drawn over
that part of the picture, whatever its size. Values are given relative to the mean patch, which makes maps of different
grids comparable.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image

from selavpr_peft.visualization.figures import (
    TEXT_SIZE,
    add_colour_bar,
    check_length,
    hide_ticks,
    new_axes,
    row_height,
    split_axes,
)

if TYPE_CHECKING:
    import matplotlib.axes

_SEQUENTIAL, _DIVERGING = "inferno", "PuOr"  # both safe for colour-blind readers
_HIGHEST_PERCENTILE = 99  # a few patches of a ViT may hold most of the attention; they must not darken the others
_BAR_INCHES, _BAR_SHARE = 0.9, 0.2  # room for titles and colour bars, and the part of it below the pictures


def relative_to_mean(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Give values as multiples of their mean.

    Args:
        values: With a mean other than zero.

    Example:
        >>> relative_to_mean(np.array([[1.0, 3.0]])).tolist()
        [[0.5, 1.5]]
    """
    return values / values.mean()


def percent_above_mean(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Give by how many percent values lie above their mean; negative below it.

    Args:
        values: With a mean other than zero.

    Example:
        >>> percent_above_mean(np.array([[1.0, 3.0]])).tolist()
        [[-50.0, 50.0]]
    """
    return 100 * (relative_to_mean(values) - 1)


def common_limit(*maps: Float[np.ndarray, "_ _"]) -> float:
    """Find a colour limit for several maps: 99 percent of all absolute values lie below it.

    Args:
        maps: At least one.

    Returns:
        The limit; 1 where all values are zero.
    """
    limit = float(np.percentile(np.abs(np.concatenate([heat.ravel() for heat in maps])), _HIGHEST_PERCENTILE))
    return limit if limit > 0 else 1.0


def draw_heat_map(
    image: Image.Image,
    heat: Float[np.ndarray, "h w"],
    *,
    label: str,
    title: str = "",
    limit: float | None = None,
    is_signed: bool = False,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """Lay a heat map over a picture, which turns grey so that all colour is heat.

    Args:
        image: The picture.
        heat: A value for each patch of the grid that covers it.
        label: What the values are; written under the colour bar.
        title: Written over the picture.
        limit: Value of the last colour, beyond which all look alike; None for `common_limit` of this map alone.
        is_signed: Colour from -limit to limit with white at zero, instead of from 0.
        ax: Where to draw; a figure of its own if None.

    Returns:
        The axes, one unit being one pixel of the picture.

    Raises:
        ImportError: If matplotlib is missing.
    """
    if ax is None:
        ax = new_axes(5.0, 1.1 * row_height([image], 5.0) + 0.75)
    limit = common_limit(heat) if limit is None else limit
    extent = (0.0, float(image.width), float(image.height), 0.0)
    ax.imshow(np.asarray(image.convert("L")), extent=extent, cmap="gray", vmin=0, vmax=255, interpolation="hanning")
    overlay = ax.imshow(
        heat,
        extent=extent,
        cmap=_DIVERGING if is_signed else _SEQUENTIAL,
        vmin=-limit if is_signed else 0.0,
        vmax=limit,
        alpha=0.65,
        interpolation="bilinear",
    )
    hide_ticks(ax, title)
    ax.set_frame_on(False)
    add_colour_bar(ax, overlay, label)
    return ax


def draw_attention(
    image: Image.Image,
    frozen: Float[np.ndarray, "h w"],
    adapted: Float[np.ndarray, "h w"],
    *,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """Draw where the class token looks in the frozen backbone, in the adapted one, and what the adapter changed.

    Args:
        image: The picture.
        frozen: Attention to each patch of the grid without the adapter (`attention_of_frozen_and_adapted`).
        adapted: The same with the adapter.
        ax: Where to draw; a figure of its own if None.

    Returns:
        The axes; `child_axes` holds the three panels. Both attentions have one scale.

    Raises:
        ImportError: If matplotlib is missing.
    """
    if ax is None:
        ax = new_axes(9.0, row_height([image] * 3, 9.0) + _BAR_INCHES)
    before, after = relative_to_mean(frozen), relative_to_mean(adapted)
    limit = common_limit(before, after)
    left, middle, right = split_axes(ax, 3, bottom=_BAR_SHARE)
    unit = "attention, 1 = mean patch"
    draw_heat_map(image, before, label=unit, title="frozen backbone", limit=limit, ax=left)
    draw_heat_map(image, after, label=unit, title="adapted", limit=limit, ax=middle)
    draw_heat_map(image, after - before, label="adapted minus frozen", title="change", is_signed=True, ax=right)
    return ax


def draw_descriptor(
    image: Image.Image, shares: Float[np.ndarray, "h w"], *, ax: "matplotlib.axes.Axes | None" = None
) -> "matplotlib.axes.Axes":
    """Draw which parts of a picture make up its descriptor.

    Args:
        image: The picture.
        shares: Share of each patch of the grid (`descriptor_maps`).
        ax: Where to draw; a figure of its own if None.

    Returns:
        The axes, one unit being one pixel of the picture.

    Raises:
        ImportError: If matplotlib is missing.
    """
    excess = percent_above_mean(shares)
    return draw_heat_map(image, excess, label="share of the descriptor, % above mean patch", is_signed=True, ax=ax)


def draw_similarity(
    images: Sequence[Image.Image],
    shares: Sequence[Float[np.ndarray, "_ _"]],
    *,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """Draw which parts of two pictures make their descriptors alike.

    Args:
        images: Both pictures.
        shares: Share of each patch of either picture in the similarity (`descriptor_maps`).
        ax: Where to draw; a figure of its own if None.

    Returns:
        The axes; `child_axes` holds the two panels. Both maps have one scale.

    Raises:
        ValueError: If there are not as many maps as pictures.
        ImportError: If matplotlib is missing.
    """
    check_length("shares", shares, len(images))
    if ax is None:
        ax = new_axes(7.5, row_height(images, 7.5) + _BAR_INCHES)
    excesses = [percent_above_mean(part) for part in shares]
    limit = common_limit(*excesses)
    ax.set_title(f"cosine similarity {shares[0].sum():.3f}", fontsize=TEXT_SIZE + 1)
    label = "share of the similarity, % above mean patch"
    for panel, image, excess in zip(split_axes(ax, len(images), bottom=_BAR_SHARE), images, excesses, strict=True):
        draw_heat_map(image, excess, label=label, limit=limit, is_signed=True, ax=panel)
    return ax
