"""Patch features as colours of their three principal components: what looks alike to the network does so here.

All pictures share one set of components: a colour means the same feature in each. The first component is lightness,
the second goes from blue to yellow, the third from green to pink; the first two are told apart by every kind of colour
vision, which red, green and blue, the usual choice, are not.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image

from selavpr_peft.visualization.figures import check_length, hide_ticks, new_axes, row_height, show_image, split_axes

if TYPE_CHECKING:
    import matplotlib.axes

_PERCENTILES = (2, 98)  # of a component that span its range of colours; a few patches of a ViT lie far outside
_COLOUR_AXES = np.array([(0.30, 0.30, 0.30), (0.16, 0.16, -0.32), (0.22, -0.18, 0.04)])


def principal_components(features: Float[np.ndarray, "N D"], num_components: int = 3) -> Float[np.ndarray, "N K"]:
    """Project features onto the directions in which they vary most.

    Args:
        features: One row per patch; fewer directions than wanted (few rows) give components of zeros.
        num_components: How many directions, at least one.

    Returns:
        Components in descending variance, centred. Signs are chosen so that in each direction the feature with the
        largest weight counts positive: equal features give equal components on any machine.
    """
    centred = features - features.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:num_components]
    largest = np.abs(directions).argmax(axis=1)
    directions = directions * np.sign(directions[np.arange(len(directions)), largest])[:, None]
    components = centred @ directions.T
    return np.pad(components, ((0, 0), (0, num_components - components.shape[1])))


def component_colours(components: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
    """Turn three components into colours: lightness, blue to yellow, green to pink.

    Args:
        components: Each is scaled so that its middle 96 percent fill the range of its colours.

    Returns:
        Red, green and blue in [0, 1]; middle grey where all components are in the middle of their range.
    """
    low, high = np.percentile(components, _PERCENTILES, axis=0)
    half = np.where(high > low, (high - low) / 2, 1.0)
    scaled = ((components - (low + high) / 2) / half).clip(-1, 1)
    return (0.5 + scaled @ _COLOUR_AXES).clip(0, 1)


def feature_colours(grids: Sequence[Float[np.ndarray, "_ _ D"]]) -> list[Float[np.ndarray, "_ _ 3"]]:
    """Colour the patches of several pictures by the principal components of all their features together.

    Args:
        grids: Patch features of each picture (`patch_tokens`); the grids may differ in size.

    Returns:
        Red, green and blue in [0, 1] for each picture.
    """
    flat = np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in grids])
    colours = component_colours(principal_components(flat))
    ends = np.cumsum([grid.shape[0] * grid.shape[1] for grid in grids])[:-1]
    return [part.reshape(*grid.shape[:2], 3) for part, grid in zip(np.split(colours, ends), grids, strict=True)]


def draw_features(
    images: Sequence[Image.Image],
    colours: Sequence[Float[np.ndarray, "_ _ 3"]],
    *,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """Draw pictures and, under each, the colours of its patches.

    Args:
        images: At least one picture.
        colours: Colours of each picture's patches (`feature_colours`).
        ax: Where to draw; a figure of its own if None.

    Returns:
        The axes; `child_axes` holds one panel per picture, which shows the picture above its colours, one unit being
        one pixel of the picture.

    Raises:
        ValueError: If there are not as many maps of colours as pictures.
        ImportError: If matplotlib is missing.
    """
    check_length("colours", colours, len(images))
    if ax is None:
        width = min(3.6 * max(2, len(images)), 14.0)
        ax = new_axes(width, 2.03 * row_height(images, width))
    for panel, image, patches in zip(split_axes(ax, len(images)), images, colours, strict=True):
        show_image(panel, image)
        top = 1.03 * image.height
        extent = (0.0, float(image.width), top + image.height, top)
        panel.imshow(patches, extent=extent, interpolation="nearest")
        panel.set(xlim=(0, image.width), ylim=(top + image.height, 0))
        hide_ticks(panel)
        panel.set_frame_on(False)
    return ax
