"""Draw matched local features between two images.

Nothing is computed here but where things go on the canvas: matching (selavpr_peft.matching) and the conversion of grid
locations to pixels (selavpr_peft.modeling) come before.
"""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from selavpr_peft.visualization.figures import TEXT_SIZE, add_colour_bar, check_length, new_axes, show_image

if TYPE_CHECKING:
    import matplotlib.axes

_GAP = 0.03  # between the two images of a pair, as a share of their height
_COLOUR_MAP = "viridis"  # perceptually uniform
_LEAST_RANGE = 0.05  # of similarities along the colour map: less than that is no difference worth a colour
_PLAIN_COLOUR = "#35b779"  # of matches without similarities: viridis, two thirds up


def draw_matches(
    query_image: Image.Image,
    database_image: Image.Image,
    query_points_px: Float[np.ndarray, "K 2"],
    database_points_px: Float[np.ndarray, "K 2"],
    similarities: Float[np.ndarray, " K"] | None = None,
    *,
    max_matches: int = 60,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """Draw two images side by side at the same height, with a line between the points of each match.

    Args:
        query_image: Drawn at the left.
        database_image: Drawn at the right; the lower of the two images is enlarged.
        query_points_px: x and y in the original query image, pixel centres at +0.5.
        database_points_px: The same rows' x and y in the original database image.
        similarities: Colours the lines and adds a colour bar; without it all lines are alike.
        max_matches: Draw at most so many, the most similar of each part of the query image first; at least one.
        ax: Where to draw; a figure of its own if None.

    Returns:
        The axes, one unit being one pixel of the higher image; `.figure` is what `save_figure` takes.

    Raises:
        ValueError: If the numbers of points and similarities differ, or `max_matches` is below one.
        ImportError: If matplotlib is missing.
    """
    _check_matches(query_points_px, database_points_px, similarities)
    layout = lay_out_pair(_height_width(query_image), _height_width(database_image))
    shown = spread_matches(query_points_px, similarities, _height_width(query_image), max_matches=max_matches)[::-1]
    if ax is None:
        ax = new_axes(8.5, 7.8 * layout.height / layout.width + 0.4)  # the colour bar takes the rest of the width
    show_image(ax, query_image, left=0.0, scale=layout.query_scale)
    show_image(ax, database_image, left=layout.database_left, scale=layout.database_scale)
    ax.set(xlim=(0, layout.width), ylim=(layout.height, 0), aspect="equal")
    ax.set_axis_off()
    ax.set_title(_count_in_words(len(query_points_px), len(shown)), loc="left", fontsize=TEXT_SIZE + 1)
    if len(shown):
        query_points = query_points_px[shown] * layout.query_scale
        database_points = database_points_px[shown] * layout.database_scale + (layout.database_left, 0)
        _draw_lines(ax, query_points, database_points, None if similarities is None else similarities[shown])
    return ax


@dataclass(frozen=True, kw_only=True)
class PairLayout:
    """Where two images lie on a common canvas, the query at its left edge.

    Attributes:
        query_scale: Canvas units per pixel of the query image.
        database_scale: Canvas units per pixel of the database image.
        database_left: Left edge of the database image.
        width: Width of the canvas.
        height: Height of the canvas and of both images on it.
    """

    query_scale: float
    database_scale: float
    database_left: float
    width: float
    height: float


def lay_out_pair(query_size: tuple[int, int], database_size: tuple[int, int]) -> PairLayout:
    """Place two images side by side at the height of the higher one.

    Args:
        query_size: Height and width in pixels.
        database_size: Height and width in pixels.

    Returns:
        The layout; a pixel's canvas position is its position times the scale, plus the image's left edge.

    Example:
        >>> lay_out_pair((50, 40), (100, 60))  # 2 * 40 wide, a gap of 3, 60 wide
        PairLayout(query_scale=2.0, database_scale=1.0, database_left=83.0, width=143.0, height=100.0)
    """
    height = float(max(query_size[0], database_size[0]))
    query_scale, database_scale = height / query_size[0], height / database_size[0]
    database_left = query_scale * query_size[1] + _GAP * height
    return PairLayout(
        query_scale=query_scale,
        database_scale=database_scale,
        database_left=database_left,
        width=database_left + database_scale * database_size[1],
        height=height,
    )


def spread_matches(
    points_px: Float[np.ndarray, "K 2"],
    similarities: Float[np.ndarray, " K"] | None,
    size: tuple[int, int],
    *,
    max_matches: int,
) -> Int[np.ndarray, " shown"]:
    """Choose matches to draw: the most similar ones, but no part of the image twice before each part once.

    Args:
        points_px: x and y of the matches in one of the images.
        similarities: The greater the better; None takes earlier rows for better.
        size: Height and width of that image, which is cut into about `max_matches` square cells.
        max_matches: How many at most, at least one.

    Returns:
        Row numbers: each cell's best match in descending similarity, then each cell's second best, and so on.

    Raises:
        ValueError: If `max_matches` is below one.

    Example:
        >>> points = np.array([[1.0, 1.0], [2.0, 2.0], [90.0, 90.0]])
        >>> spread_matches(points, np.array([0.9, 0.8, 0.3]), (100, 100), max_matches=2).tolist()
        [0, 2]
    """
    if max_matches < 1:
        raise ValueError(f"max_matches must be at least 1, got {max_matches}.")
    order = np.arange(len(points_px)) if similarities is None else np.argsort(-similarities, kind="stable")
    cell_px = (size[0] * size[1] / max_matches) ** 0.5
    cells = [tuple(cell) for cell in (points_px[order] // cell_px).astype(int).tolist()]
    times_seen: Counter[tuple[int, ...]] = Counter()
    turns = []
    for cell in cells:
        turns.append(times_seen[cell])
        times_seen[cell] += 1
    return order[np.argsort(turns, kind="stable")][:max_matches]


def _check_matches(
    query_points_px: np.ndarray, database_points_px: np.ndarray, similarities: np.ndarray | None
) -> None:
    """Refuse arrays of different length, which numpy might otherwise broadcast."""
    check_length("database_points_px", database_points_px, len(query_points_px))
    if similarities is not None:
        check_length("similarities", similarities, len(query_points_px))


def _height_width(image: Image.Image) -> tuple[int, int]:
    """Turn Pillow's size round."""
    return (image.height, image.width)


def _count_in_words(num_matches: int, num_shown: int) -> str:
    """Say how many matches there are and, if fewer, how many are drawn."""
    if num_matches == 0:
        return "no matches"
    words = "1 match" if num_matches == 1 else f"{num_matches} matches"
    return words if num_shown == num_matches else f"{words}, {num_shown} drawn"


def _draw_lines(
    ax: "matplotlib.axes.Axes",
    query_points: np.ndarray,
    database_points: np.ndarray,
    similarities: np.ndarray | None,
) -> None:
    """Join canvas points by lines with a dot at both ends, later rows above earlier ones."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize
    from matplotlib.patheffects import withStroke

    segments = np.stack([query_points, database_points], axis=1)  # (K, 2, 2)
    lines = LineCollection(list(segments), linewidths=1.3, alpha=0.9, zorder=2)
    lines.set_path_effects([withStroke(linewidth=2.4, foreground=(1, 1, 1, 0.35))])  # dark colours on dark images
    ax.add_collection(lines, autolim=False)
    dots = ax.scatter(
        segments[..., 0].ravel(), segments[..., 1].ravel(), s=11, edgecolors="white", linewidths=0.5, zorder=3
    )
    if similarities is None:
        lines.set_color(_PLAIN_COLOUR)
        dots.set_facecolor(_PLAIN_COLOUR)
        return
    best = similarities.max()
    norm = Normalize(min(similarities.min(), best - _LEAST_RANGE), best)
    lines.set(array=similarities, cmap=_COLOUR_MAP, norm=norm)
    dots.set(array=similarities.repeat(2), cmap=_COLOUR_MAP, norm=norm)
    add_colour_bar(ax, lines, "cosine similarity", is_upright=True)
