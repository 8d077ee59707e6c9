"""Write a synthetic city as a data set: street views of numbered places, each seen in several traverses.

It stands in for a real data set in examples, tests and training runs of a minute. The views are those of toy_view.py;
the places follow one another along a drive, as frames do.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from selavpr_peft.data.schema import DEGREES, FRAME, IMAGE, TRAVERSE
from selavpr_peft.data.toy_view import draw_view
from selavpr_peft.files import write_atomically

__all__ = ["draw_view", "street_position", "write_toy_city"]

_JPEG_QUALITY = 90
_BLOCK_LENGTH, _BLOCK_WIDTH = 14, 5  # of the blocks the drive turns through, in places
_STEP_DEGREES = 12 / 111_195.0  # 12 m on the equator


def street_position(place: int) -> tuple[float, float]:
    """Give the latitude and longitude of a place, in degrees: the drive turns through blocks near 0° N 0° E, at sea.

    Args:
        place: Number of the place; two that follow one another are 12 m apart.

    Example:
        >>> street_position(0), street_position(_BLOCK_LENGTH)[0]
        ((0.0, 0.0), 0.0)
    """
    row, step = divmod(place, _BLOCK_LENGTH + _BLOCK_WIDTH)
    along, across = min(step, _BLOCK_LENGTH), max(0, step - _BLOCK_LENGTH)
    east = along if row % 2 == 0 else _BLOCK_LENGTH - along
    north = row * _BLOCK_WIDTH + across
    return north * _STEP_DEGREES, east * _STEP_DEGREES


def write_toy_city(
    folder: str | Path,
    *,
    num_places: int = 40,
    traverses: Sequence[str] = ("day", "night"),
    seed: int = 0,
    size: tuple[int, int] = (168, 224),
) -> Path:
    """Write every place of a city, in every traverse, as JPEG files with a table that `load_places` reads.

    Args:
        folder: Made if missing; receives `<traverse>/<frame>.jpg`, frames in four digits, and `places.csv` with the
            columns image (path within the folder), traverse, frame (the place's number), latitude and longitude.
        num_places: Number of places, at least one.
        traverses: Names of the traverses, each a folder name; none twice.
        seed: Number of the city, from 0.
        size: Height and width in pixels.

    Returns:
        The folder. The table is written last: a folder without it was not finished.

    Raises:
        ValueError: If there is no place, or no traverse, or a traverse is named twice or not fit for a folder name.
    """
    if num_places < 1:
        raise ValueError(f"num_places must be at least 1, got {num_places}.")
    _check_traverses(traverses)
    folder = Path(folder)
    (folder / "places.csv").unlink(missing_ok=True)  # a table left from before would call this half-written city whole
    rows = []
    for traverse in traverses:
        (folder / traverse).mkdir(parents=True, exist_ok=True)
        for place in range(num_places):
            image = f"{traverse}/{place:04d}.jpg"
            draw_view(place, traverse, seed=seed, size=size).save(folder / image, quality=_JPEG_QUALITY)
            rows.append((image, traverse, place))
    write_atomically(folder / "places.csv", lambda path: _write_table(path, rows))
    return folder


def _check_traverses(traverses: Sequence[str]) -> None:
    """Refuse names that would not give one folder each."""
    if isinstance(traverses, str) or not traverses or len(set(traverses)) < len(traverses):
        raise ValueError(f"traverses must be a sequence of different names, got {traverses!r}; e.g. ('day', 'night').")
    unfit = [name for name in traverses if not name or name.startswith(".") or set(name) & set('/\\:*?"<>|')]
    if unfit:
        raise ValueError(
            f"traverses must be fit for folder names, got {unfit[0]!r}; use letters, digits, '_' and '-'."
        )


def _write_table(path: Path, rows: Sequence[tuple[str, str, int]]) -> None:
    """Write the rows of places.csv under their header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((IMAGE, TRAVERSE, FRAME, *DEGREES))
        writer.writerows((*row, *(f"{degrees:.6f}" for degrees in street_position(row[2]))) for row in rows)
