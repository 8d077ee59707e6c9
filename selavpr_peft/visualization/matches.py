"""Draw what a recognition saw: matched local features between two images, and a query beside its candidates.

Nothing is computed here but where things go on the canvas: matching (selavpr_peft.matching) and the conversion of grid
locations to pixels (selavpr_peft.modeling) come before. matplotlib is used without pyplot: no window, no global state.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from selavpr_peft.files import write_atomically
from selavpr_peft.retrieval.matched_points import MatchedPoints

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_GAP = 0.03  # between the two images of a pair, as a share of their height
_COLOUR_MAP = "viridis"  # perceptually uniform
_LEAST_RANGE = 0.05  # of similarities along the colour map: less than that is no difference worth a colour
_PLAIN_COLOUR = "#35b779"  # of matches without similarities: viridis, two thirds up
_CORRECT, _WRONG, _UNKNOWN = "#117733", "#aa2211", "#888888"  # solid, dashed, solid frames: colour is never alone
_TEXT_SIZE = 9
_DOTS_PER_INCH = 150


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
        ax = _new_figure(10.0, 10 * layout.height / layout.width + 0.5).subplots()
    _show_image(ax, query_image, left=0.0, scale=layout.query_scale)
    _show_image(ax, database_image, left=layout.database_left, scale=layout.database_scale)
    ax.set(xlim=(0, layout.width), ylim=(layout.height, 0), aspect="equal")
    ax.set_axis_off()
    ax.set_title(_count_in_words(len(query_points_px), len(shown)), loc="left", fontsize=_TEXT_SIZE + 1)
    if len(shown):
        query_points = query_points_px[shown] * layout.query_scale
        database_points = database_points_px[shown] * layout.database_scale + (layout.database_left, 0)
        _draw_lines(ax, query_points, database_points, None if similarities is None else similarities[shown])
    return ax


def draw_candidates(
    query_image: Image.Image,
    candidate_images: Sequence[Image.Image],
    labels: Sequence[str],
    are_correct: Sequence[bool] | None = None,
    *,
    axes: "Sequence[matplotlib.axes.Axes] | np.ndarray | None" = None,
) -> "list[matplotlib.axes.Axes]":
    """Draw a query and, to its right, its candidates in rank order, each marked as correct or wrong.

    Args:
        query_image: Drawn first.
        candidate_images: Best first; may be empty, which is said beside the query.
        labels: Written over each candidate.
        are_correct: Whether each candidate shows the query's place: a solid green frame and a tick, or a dashed red
            frame and a cross. None where it is not known: grey frames.
        axes: One for the query and one per candidate; a figure of its own if None.

    Returns:
        The axes: the query's, then the candidates' in rank order.

    Raises:
        ValueError: If there are not as many labels, verdicts or axes as images.
        ImportError: If matplotlib is missing.
    """
    num_candidates = len(candidate_images)
    _check_length("labels", labels, num_candidates)
    if are_correct is not None:
        _check_length("are_correct", are_correct, num_candidates)
    if axes is None:
        width = min(2.2 * max(2, num_candidates + 1), 14.0)
        figure = _new_figure(width, 0.75 * width / (num_candidates + 1) + 0.3)
        axes = figure.subplots(1, num_candidates + 1, squeeze=False)[0]
    _check_length("axes", axes, num_candidates + 1)
    _show_framed(axes[0], query_image, "query", "black")
    if not num_candidates:
        axes[0].set_title("query: no candidates", fontsize=_TEXT_SIZE)
    verdicts = [None] * num_candidates if are_correct is None else [bool(verdict) for verdict in are_correct]
    for ax, image, label, is_correct in zip(axes[1:], candidate_images, labels, verdicts, strict=True):
        _show_candidate(ax, image, label, is_correct)
    return list(axes)


def draw_recognition(
    query_image: Image.Image,
    candidate_images: Sequence[Image.Image],
    labels: Sequence[str],
    are_correct: Sequence[bool] | None,
    matches: MatchedPoints | None,
) -> "matplotlib.figure.Figure":
    """Compose a figure: the query and its candidates above, the best candidate's matches with the query below.

    Args:
        query_image: The image that was to be recognised.
        candidate_images: Best first; may be empty.
        labels: One per candidate.
        are_correct: One per candidate, or None where it is not known.
        matches: Between the query and the first candidate. None, or no candidates: the upper row only.

    Returns:
        A figure that belongs to no window; `save_figure` writes it, and a notebook shows it.

    Raises:
        ValueError: If there are not as many labels or verdicts as candidates, or the matches' lengths differ.
        ImportError: If matplotlib is missing.
    """
    num_columns = len(candidate_images) + 1
    width = min(max(8.0, 2.2 * num_columns), 14.0)
    row_height = 0.75 * width / num_columns + 0.3
    if matches is None or not candidate_images:
        figure = row = _new_figure(width, row_height)
    else:
        layout = lay_out_pair(_height_width(query_image), _height_width(candidate_images[0]))
        pair_height = 0.95 * width * layout.height / layout.width + 0.3
        figure = _new_figure(width, row_height + pair_height)
        row, pair = figure.subfigures(2, 1, squeeze=False, height_ratios=(row_height, pair_height))[:, 0]
        points_px = (matches.query_points_px, matches.database_points_px)
        draw_matches(query_image, candidate_images[0], *points_px, matches.similarities, ax=pair.subplots())
    axes = row.subplots(1, num_columns, squeeze=False)[0]
    draw_candidates(query_image, candidate_images, labels, are_correct, axes=axes)
    return figure


def save_figure(figure: "matplotlib.figure.Figure", path: Path) -> None:
    """Write a figure as PNG; if that fails, a file that was there before is kept as it was.

    Args:
        figure: From any function of this file (`ax.figure`) or the caller's own.
        path: A name ending in .png; missing folders are made.

    Raises:
        ValueError: If the name does not end in .png.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path must end in .png, got {path}; other formats: figure.savefig.")
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=_DOTS_PER_INCH))


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
    _check_length("database_points_px", database_points_px, len(query_points_px))
    if similarities is not None:
        _check_length("similarities", similarities, len(query_points_px))


def _check_length(name: str, values: Sequence[object] | np.ndarray, expected: int) -> None:
    """Refuse a list that is not one per image or match."""
    if len(values) != expected:
        raise ValueError(f"{name} must have {expected} entries, one for each image or match, got {len(values)}.")


def _height_width(image: Image.Image) -> tuple[int, int]:
    """Turn Pillow's size round."""
    return (image.height, image.width)


def _count_in_words(num_matches: int, num_shown: int) -> str:
    """Say how many matches there are and, if fewer, how many are drawn."""
    if num_matches == 0:
        return "no matches"
    words = "1 match" if num_matches == 1 else f"{num_matches} matches"
    return words if num_shown == num_matches else f"{words}, {num_shown} drawn"


def _new_figure(width_inches: float, height_inches: float) -> "matplotlib.figure.Figure":
    """Make a figure that no window system knows of."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('drawing needs matplotlib, which is missing: pip install "selavpr_peft[viz]"') from error
    return Figure(figsize=(width_inches, height_inches), layout="constrained", facecolor="white")


def _show_image(ax: "matplotlib.axes.Axes", image: Image.Image, *, left: float, scale: float) -> None:
    """Lay an image on the canvas so that pixel (i, j) covers x from left + scale * i to left + scale * (i + 1)."""
    extent = (left, left + scale * image.width, scale * image.height, 0.0)
    # "hanning" is smooth both ways; matplotlib's default turns blocky when it enlarges more than threefold
    ax.imshow(np.asarray(image.convert("RGB")), extent=extent, interpolation="hanning")


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
    bar = ax.figure.colorbar(lines, ax=ax, fraction=0.02, pad=0.01, aspect=30)
    bar.set_label("cosine similarity", fontsize=_TEXT_SIZE - 1)
    bar.ax.tick_params(labelsize=_TEXT_SIZE - 2)


def _show_candidate(ax: "matplotlib.axes.Axes", image: Image.Image, title: str, is_correct: bool | None) -> None:
    """Show a candidate with its verdict as colour, as style of the frame and as words."""
    if is_correct is None:
        _show_framed(ax, image, title, _UNKNOWN)
        return
    colour, words = (_CORRECT, "✓ correct") if is_correct else (_WRONG, "✗ wrong")
    _show_framed(ax, image, title, colour, linestyle="-" if is_correct else (0, (3, 2)))
    badge = {"facecolor": colour, "edgecolor": "none", "boxstyle": "square,pad=0.25"}
    ax.text(0.04, 0.94, words, transform=ax.transAxes, va="top", color="white", fontsize=_TEXT_SIZE - 2, bbox=badge)


def _show_framed(
    ax: "matplotlib.axes.Axes",
    image: Image.Image,
    title: str,
    colour: str,
    linestyle: str | tuple[int, tuple[int, int]] = "-",
) -> None:
    """Show one image under a title, in a frame."""
    _show_image(ax, image, left=0.0, scale=1.0)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=_TEXT_SIZE)
    ax.spines[:].set(color=colour, linewidth=3.0, linestyle=linestyle)
