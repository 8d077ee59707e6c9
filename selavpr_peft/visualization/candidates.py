"""Draw what was recognised: a query beside its candidates, and the matches with the best of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from selavpr_peft.retrieval.matched_points import MatchedPoints
from selavpr_peft.visualization.figures import (
    CORRECT,
    TEXT_SIZE,
    UNKNOWN,
    WRONG,
    check_length,
    hide_ticks,
    new_axes,
    new_figure,
    row_height,
    show_image,
    split_axes,
)
from selavpr_peft.visualization.matches import draw_matches, lay_out_pair

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

_TITLE_INCHES = 0.35


def draw_candidates(
    query_image: Image.Image,
    candidate_images: Sequence[Image.Image],
    labels: Sequence[str],
    are_correct: Sequence[bool] | None = None,
    *,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """Draw a query and, to its right, its candidates in rank order, each marked as correct or wrong.

    Args:
        query_image: Drawn first.
        candidate_images: Best first; may be empty, which is said beside the query.
        labels: Written over each candidate.
        are_correct: Whether each candidate shows the query's place: a solid green frame and a tick, or a dashed orange
            frame and a cross. None where it is not known: grey frames.
        ax: Where to draw; a figure of its own if None.

    Returns:
        The axes; `child_axes` holds the query's panel, then the candidates' in rank order.

    Raises:
        ValueError: If there are not as many labels or verdicts as candidates.
        ImportError: If matplotlib is missing.
    """
    num_candidates = len(candidate_images)
    check_length("labels", labels, num_candidates)
    if are_correct is not None:
        check_length("are_correct", are_correct, num_candidates)
    if ax is None:
        width = min(1.9 * max(2, num_candidates + 1), 12.0)
        ax = new_axes(width, row_height([query_image, *candidate_images], width) + _TITLE_INCHES)
    first, *others = split_axes(ax, num_candidates + 1)
    _show_framed(first, query_image, "query" if num_candidates else "query: no candidates", "black")
    verdicts = [None] * num_candidates if are_correct is None else [bool(verdict) for verdict in are_correct]
    for panel, image, label, is_correct in zip(others, candidate_images, labels, verdicts, strict=True):
        _show_candidate(panel, image, label, is_correct)
    return ax


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
    width = min(max(7.0, 1.9 * (len(candidate_images) + 1)), 12.0)
    upper_height = row_height([query_image, *candidate_images], width) + _TITLE_INCHES
    if matches is None or not candidate_images:
        figure = new_figure(width, upper_height)
        row = figure.subplots()
    else:
        layout = lay_out_pair(query_image.size[::-1], candidate_images[0].size[::-1])
        pair_height = 0.95 * width * layout.height / layout.width + 0.3
        figure = new_figure(width, upper_height + pair_height)
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=(upper_height, pair_height))[:, 0]
        row = upper.subplots()
        points_px = (matches.query_points_px, matches.database_points_px)
        draw_matches(query_image, candidate_images[0], *points_px, matches.similarities, ax=lower.subplots())
    draw_candidates(query_image, candidate_images, labels, are_correct, ax=row)
    return figure


def _show_candidate(ax: "matplotlib.axes.Axes", image: Image.Image, title: str, is_correct: bool | None) -> None:
    """Show a candidate with its verdict as colour, as style of the frame and as words."""
    if is_correct is None:
        _show_framed(ax, image, title, UNKNOWN)
        return
    colour, words = (CORRECT, "✓ correct") if is_correct else (WRONG, "✗ wrong")
    _show_framed(ax, image, title, colour, linestyle="-" if is_correct else (0, (3, 2)))
    badge = {"facecolor": colour, "edgecolor": "none", "boxstyle": "square,pad=0.25"}
    ax.text(0.04, 0.94, words, transform=ax.transAxes, va="top", color="white", fontsize=TEXT_SIZE - 2, bbox=badge)


def _show_framed(
    ax: "matplotlib.axes.Axes",
    image: Image.Image,
    title: str,
    colour: str,
    linestyle: str | tuple[int, tuple[int, int]] = "-",
) -> None:
    """Show one image under a title, in a frame."""
    show_image(ax, image)
    hide_ticks(ax, title)
    ax.spines[:].set(color=colour, linewidth=3.0, linestyle=linestyle)
