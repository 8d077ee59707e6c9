"""A map of places without tiles or network: the database, a query, its candidates and its positives."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from selavpr_peft.data.schema import DEGREES, METRES
from selavpr_peft.visualization.figures import CORRECT, TEXT_SIZE, WRONG, new_axes

if TYPE_CHECKING:
    import matplotlib.axes

_LARGE_M = 10_000.0  # coordinates beyond it are counted from a round number near the places
_DATABASE, _CANDIDATE, _QUERY, _POSITIVE = "#b5b5b5", "#994477", "#0072b2", "#56b4e9"
_WIDTH_INCHES = 7.0


def coordinate_names(
    columns: Sequence[str], choices: Sequence[tuple[str, str]] = (METRES, DEGREES)
) -> tuple[str, str]:
    """Choose the columns a map is drawn from: metres if there are any, otherwise degrees.

    Args:
        columns: Names of the columns of a table of places.
        choices: Pairs to choose from.

    Returns:
        The first pair that is there.

    Raises:
        ValueError: If there is none.
    """
    for names in choices:
        if set(names) <= set(columns):
            return names
    wanted = " or ".join(" and ".join(map(repr, names)) for names in choices)
    raise ValueError(f"A map of these places needs the columns {wanted}, got {list(columns)}.")


def coordinates(columns: Any, names: tuple[str, str]) -> Float[np.ndarray, "N 2"]:
    """Give the positions of places towards the east and the north; NaN where one has none.

    Args:
        columns: Table of places, or a dictionary of its columns.
        names: Columns to take, by `coordinate_names`: METRES or DEGREES of data/schema.py.
    """
    east_north = names[::-1] if names == DEGREES else names  # latitude, which counts towards the north, stands first
    return np.stack([np.array(list(columns[name]), dtype=np.float64) for name in east_north], axis=1)


def draw_place_map(
    database: Float[np.ndarray, "N 2"],
    *,
    is_degrees: bool = False,
    query: Float[np.ndarray, " 2"] | None = None,
    candidates: Sequence[int] = (),
    positives: Sequence[int] | None = None,
    ax: "matplotlib.axes.Axes | None" = None,
) -> "matplotlib.axes.Axes":
    """Draw where the places of a database are, and where a query was taken and believed to be.

    Args:
        database: Easting and northing of the places in metres, or their longitude and latitude.
        is_degrees: Whether they are longitude and latitude, as the query then must be.
        query: Where the query was taken, if that is known: a star.
        candidates: Rows of its candidates, best first: numbered by rank. With `positives`, a right one is a green
            circle and a wrong one an orange square.
        positives: Rows of the places that show the query's place: ringed in blue. None where that is not known.
        ax: Where to draw; a figure of its own if None.

    Returns:
        The axes in the units given, equal distances being equally long towards the east and the north.

    Raises:
        ImportError: If matplotlib is missing.
    """
    if ax is None:
        ax = new_axes(_WIDTH_INCHES, _height_inches(database, is_degrees=is_degrees))
    _scatter(ax, database, s=9, color=_DATABASE, linewidths=0, label=f"database ({len(database)})", zorder=1)
    if positives is not None and len(positives):
        near = database[list(positives)]
        _scatter(ax, near, s=70, facecolors="none", edgecolors=_POSITIVE, linewidths=1.8, label="positives", zorder=2)
    _draw_candidates(ax, database, candidates, positives)
    if query is not None:
        _scatter(
            ax,
            query[None],
            s=190,
            marker="*",
            color=_QUERY,
            edgecolors="white",
            linewidths=0.8,
            label="query",
            zorder=5,
        )
    _set_out_axes(ax, database, is_degrees=is_degrees)
    ax.legend(fontsize=TEXT_SIZE - 1, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, frameon=False)
    return ax


def _height_inches(database: np.ndarray, *, is_degrees: bool) -> float:
    """Give the height of a figure that suits the extent of the places, within reason, with room for labels."""
    east, north = np.nanmax(database, axis=0) - np.nanmin(database, axis=0)
    east = east * math.cos(math.radians(np.nanmean(database[:, 1]))) if is_degrees else east
    shape = north / east if east > 0 else 1.0
    return _WIDTH_INCHES * min(max(shape, 0.4), 1.2) + 1.0


def _scatter(ax: "matplotlib.axes.Axes", points: np.ndarray, **look: Any) -> None:
    ax.scatter(points[:, 0], points[:, 1], **look)


def _draw_candidates(
    ax: "matplotlib.axes.Axes", database: np.ndarray, candidates: Sequence[int], positives: Sequence[int] | None
) -> None:
    """Mark candidates and write their ranks around them, each in a direction of its own so that neighbours differ."""
    known = None if positives is None else {int(row) for row in positives}
    looks = {None: (_CANDIDATE, "D", "candidates"), True: (CORRECT, "o", "correct"), False: (WRONG, "s", "wrong")}
    verdicts = [None if known is None else int(row) in known for row in candidates]
    for verdict, (colour, marker, words) in looks.items():
        rows = [int(row) for row, found in zip(candidates, verdicts, strict=True) if found is verdict]
        if rows:
            look = {"marker": marker, "color": colour, "edgecolors": "white", "linewidths": 0.6, "label": words}
            _scatter(ax, database[rows], s=34, zorder=4, **look)
    for rank, (row, verdict) in enumerate(zip(candidates, verdicts, strict=True), start=1):
        angle = math.pi / 2 - 2 * math.pi * (rank - 1) / max(6, len(candidates))
        ax.annotate(
            str(rank),
            database[int(row)],
            xytext=(17 * math.cos(angle), 17 * math.sin(angle)),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=TEXT_SIZE - 1,
            color=looks[verdict][0],
            arrowprops={"arrowstyle": "-", "color": looks[verdict][0], "linewidth": 0.7, "shrinkB": 2, "shrinkA": 0},
            zorder=6,
        )


def _set_out_axes(ax: "matplotlib.axes.Axes", database: np.ndarray, *, is_degrees: bool) -> None:
    """Give the axes their scale, labels and plain numbers."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    middle = np.nanmean(database, axis=0)
    ax.set_aspect(1 / math.cos(math.radians(middle[1])) if is_degrees else 1.0, adjustable="datalim")
    names = ("longitude in °", "latitude in °") if is_degrees else ("easting in m", "northing in m")
    for axis, name, centre in zip((ax.xaxis, ax.yaxis), names, middle, strict=True):
        origin = 0.0 if is_degrees or abs(centre) < _LARGE_M else math.floor(centre / _LARGE_M) * _LARGE_M
        axis.set_label_text(f"{name} from {origin:,.0f}" if origin else name, fontsize=TEXT_SIZE)
        axis.set_major_locator(MaxNLocator(5))
        if is_degrees:
            axis.set_major_formatter(FuncFormatter(lambda value, position: f"{value:.6f}".rstrip("0").rstrip(".")))
        else:
            axis.set_major_formatter(FuncFormatter(lambda value, position, origin=origin: f"{value - origin:,.0f}"))
    ax.tick_params(labelsize=TEXT_SIZE - 2)
    ax.margins(0.08)
    ax.grid(color="0.93")
    ax.set_axisbelow(True)
