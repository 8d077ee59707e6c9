"""Places as points of a plane, for a map that needs nothing but the database."""

import numpy as np
from datasets import Dataset
from jaxtyping import Float

from selavpr_peft.data.schema import DEGREES, FRAME, METRES
from selavpr_peft.retrieval.place_recognizer import EARTH_RADIUS_M


def plane_positions(places: Dataset) -> tuple[Float[np.ndarray, "N 2"], str]:
    """Give every place a point, x to the east and y to the north, in metres; or along a line, in frames.

    Args:
        places: Table of places. Metres are preferred to degrees, and degrees to frames.

    Returns:
        The points, NaN where a position is missing, and their unit: "m" or "frames".
    """
    columns = places.column_names
    if set(METRES) <= set(columns):
        return np.stack([_numbers(places, name) for name in METRES], axis=1), "m"
    if set(DEGREES) <= set(columns):
        return project_degrees(*(_numbers(places, name) for name in DEGREES)), "m"
    frames = _numbers(places, FRAME)
    return np.stack([frames, np.zeros_like(frames)], axis=1), "frames"


def project_degrees(
    latitudes: Float[np.ndarray, " N"], longitudes: Float[np.ndarray, " N"]
) -> Float[np.ndarray, "N 2"]:
    """Lay degrees out in metres around the first place (equirectangular projection, true at the mean latitude).

    Args:
        latitudes: In degrees.
        longitudes: In degrees; the date line may run between them.

    Example:
        >>> project_degrees(np.array([0.0, 0.0]), np.array([179.5, -179.5])).round().tolist()
        [[0.0, 0.0], [111195.0, 0.0]]
    """
    is_known = np.isfinite(latitudes) & np.isfinite(longitudes)
    if not is_known.any():
        return np.full((len(latitudes), 2), np.nan)
    first = int(is_known.argmax())
    eastward = (longitudes - longitudes[first] + 180) % 360 - 180
    scale = np.cos(np.radians(latitudes[is_known].mean()))
    points = np.radians(np.stack([eastward * scale, latitudes - latitudes[first]], axis=1)) * EARTH_RADIUS_M
    points[~is_known] = np.nan
    return points


def _numbers(places: Dataset, name: str) -> Float[np.ndarray, " N"]:
    if name not in places.column_names:  # photographs that were indexed without positions
        return np.full(len(places), np.nan)
    return np.asarray(places[name][:], dtype=np.float64)
