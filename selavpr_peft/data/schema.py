"""The columns of a table of places, their units, and what must hold of them.

| column | meaning |
|---|---|
| `image` | the picture, decoded when it is read |
| `key` | a name that no other row has |
| `easting_m`, `northing_m` | position in metres on a plane; or else |
| `frame` | position along a path that was filmed, as a whole number |
| `traverse` | name of the drive or walk the image comes from (optional) |
| `latitude`, `longitude` | position in degrees, for maps and for searches around a point (optional) |

Any further column is kept.
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Image
from jaxtyping import Float

from selavpr_peft.errors import DatasetFormatError

IMAGE = "image"
KEY = "key"
FRAME = "frame"
METRES = ("easting_m", "northing_m")
DEGREES = ("latitude", "longitude")
MAX_DEGREES = {"latitude": 90, "longitude": 360}
"""How far from zero they may lie: longitudes are counted from -180 or from 0, or go on across the date line."""
TRAVERSE = "traverse"

POINT_IN_DEGREES = " and ".join(f"a {name} in [-{limit}, {limit}]" for name, limit in MAX_DEGREES.items())
"""What messages say is expected."""

_NUMBERS = ("int", "uint", "float")
_FROM_DEGREES = "Add metres to the degrees: those of UTM, for example by utm.from_latlon of the package utm."


def check_places(places: Dataset, source: str) -> None:
    """Raise if a table lacks a column, has positions of both kinds, or a key or position that cannot be right.

    Latitudes and longitudes may be missing, of some places or all.

    Args:
        places: Table with the columns above.
        source: Where it comes from, for the message.

    Raises:
        DatasetFormatError: With what was expected, what was found and where.
    """
    check_photographs(places, source)
    columns = places.column_names
    metres = [name for name in METRES if name in columns]
    if bool(metres) == (FRAME in columns) or len(metres) == 1:
        raise DatasetFormatError(
            f"{source} must have either the columns 'easting_m' and 'northing_m' or the column 'frame', got {columns}."
            + ("" if metres or FRAME in columns or not set(DEGREES) <= set(columns) else f" {_FROM_DEGREES}")
        )
    _check_positions(places, source)
    for name in DEGREES:
        if name in columns:
            _check_degrees(places, name, source)


def check_photographs(places: Dataset, source: str) -> None:
    """Raise if a table lacks pictures or their names, or gives a name twice; positions are not asked for.

    Args:
        places: Table with the columns `image` and `key`.
        source: Where it comes from, for the message.

    Raises:
        DatasetFormatError: With what was expected, what was found and where.
    """
    for name in (IMAGE, KEY):
        if name not in places.column_names:
            raise DatasetFormatError(f"{source} must have a column {name!r}, got {places.column_names}.")
    _check_keys(places, source)


def positions(places: Dataset) -> Float[np.ndarray, "N dims"]:
    """Give the position of every place: two columns of metres, or one of frame numbers.

    Args:
        places: Table of places. A missing position becomes NaN.

    Raises:
        DatasetFormatError: If no place has one, as in a folder of photographs without a table.
    """
    _check_has_positions(places)
    columns = [np.asarray(places[name][:], dtype=np.float64) for name in _position_columns(places)]
    return np.stack(columns, axis=1)


def has_positions(places: Dataset) -> bool:
    """Tell whether it is known where places are: photographs without a table may be indexed without.

    Args:
        places: Table of places.
    """
    return set(_position_columns(places)) <= set(places.column_names)


def picture_names(places: Dataset) -> list[str]:
    """Name the picture of every place: its file, or a digest of its bytes where it is stored inside the table.

    Args:
        places: Table of places.

    Returns:
        Names that are equal where one picture stands in two tables.
    """
    stored = undecoded(places.select_columns(IMAGE))
    return [_picture_name(row[IMAGE] or {}, number) for number, row in enumerate(stored)]


def undecoded(places: Dataset) -> Dataset:
    """Give a table whose column `image` holds, instead of pictures, how they are stored: their "bytes" or "path".

    Args:
        places: Table of places.
    """
    return places.cast_column(IMAGE, Image(decode=False))


def _picture_name(image: dict[str, Any], number: int) -> str:
    if image.get("bytes") is not None:
        return hashlib.sha256(image["bytes"]).hexdigest()
    path = image.get("path")
    if not path:
        return f"no picture in row {number}"
    return path if "://" in path else str(Path(path).absolute())  # a file may be named from here or from the root


def row_of_picture(places: Dataset, path: str | Path) -> int:
    """Find the place whose picture is a file.

    Args:
        places: Table of places.
        path: The file.

    Raises:
        ValueError: If no place has it.
    """
    wanted = Path(path).resolve()
    for row, name in enumerate(picture_names(places)):
        if Path(name).resolve() == wanted:
            return row
    raise ValueError(f"{path} is none of the {len(places)} images of the table, so where it was taken is not known.")


def radius_unit(places: Dataset) -> str:
    """Name the unit of distances between places: "frames" or "m".

    Args:
        places: Table of places.

    Raises:
        DatasetFormatError: If no place has a position, as in a folder of photographs without a table.
    """
    _check_has_positions(places)
    return "frames" if FRAME in places.column_names else "m"


def _position_columns(places: Dataset) -> list[str]:
    return [FRAME] if FRAME in places.column_names else list(METRES)


def _check_has_positions(places: Dataset) -> None:
    if not has_positions(places):
        raise DatasetFormatError(
            "Expected places with positions (columns 'easting_m' and 'northing_m', or 'frame'), got"
            f" {places.column_names}; photographs without them can only be indexed and queried. Write a places.csv as"
            " in docs/datasets.md."
        )


def _check_keys(places: Dataset, source: str) -> None:
    """Raise unless every image has a name of its own."""
    counts = Counter(places[KEY][:])
    if counts[None] or counts[""]:
        row = places[KEY][:].index(None if counts[None] else "")
        raise DatasetFormatError(f"{source} must name an image in every row, got none in row {row}, counted from 0.")
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise DatasetFormatError(
            f"{source} must name every image once, got {len(repeated)} of them more than once; the first is"
            f" {repeated[0]}."
        )


def _check_positions(places: Dataset, source: str) -> None:
    """Raise unless every position is a finite number, and every frame a whole one."""
    for name in _position_columns(places):
        _check_type(places, name, source, _NUMBERS)
    values = positions(places)
    is_valid = np.isfinite(values).all(axis=1)
    if FRAME in places.column_names:
        is_valid &= values[:, 0] == np.rint(values[:, 0])
    if not is_valid.all():
        row = int(np.flatnonzero(~is_valid)[0])
        raise DatasetFormatError(
            f"{source} has {int((~is_valid).sum())} rows without a valid position, the first in row {row}"
            f" ({places[KEY][row]}); expected {'whole' if FRAME in places.column_names else 'finite'} numbers."
        )


def _check_degrees(places: Dataset, name: str, source: str) -> None:
    """Raise unless every latitude or longitude is one there is on Earth, or missing."""
    _check_type(places, name, source, (*_NUMBERS, "decimal", "null"))
    column = places.select_columns(name).with_format("arrow")[:][name]  # lists would take seconds
    values = column.to_numpy().astype(np.float64)
    is_wrong = np.abs(values) > MAX_DEGREES[name]  # of NaN, which is a missing one, this is not true
    if is_wrong.any():
        row = int(np.flatnonzero(is_wrong)[0])
        raise DatasetFormatError(
            f"{source} has {int(is_wrong.sum())} rows with an impossible {name}, the first in row {row}"
            f" ({places[KEY][row]}): {values[row]:.10g}; expected {POINT_IN_DEGREES}, in degrees. Swap the two columns"
            " if they are the wrong way round; divide them by 1e7 if they are whole numbers."
        )


def _check_type(places: Dataset, name: str, source: str, expected: tuple[str, ...]) -> None:
    """Raise unless the type of a column begins with one of these names."""
    found = str(getattr(places.features[name], "dtype", places.features[name]))
    if not found.startswith(expected):
        raise DatasetFormatError(f"{source} must have numbers in the column {name!r}, got the type {found}.")
