"""What the server may tell about the places of a database: names that are no paths, points, and where pictures lie."""

import logging
import os
from collections.abc import Sequence
from pathlib import PurePath
from secrets import token_hex

import numpy as np
from PIL import Image

from selavpr_peft.data.schema import IMAGE, KEY
from selavpr_peft.errors import UnreadableImageError
from selavpr_peft.retrieval import PlaceDatabase
from selavpr_peft.retrieval.stored_images import read_stored_image
from selavpr_peft.serving.place_map import plane_positions
from selavpr_peft.serving.request_error import RequestError

logger = logging.getLogger(__name__)

MAX_DRAWN = 5000
"""Points of the map's background; of a larger database every so many-th place is drawn."""


class PlaceCatalogue:
    """The places of a database by their public keys, as they are now; read only, so that any thread may ask it.

    Args:
        database: An open database.

    Attributes:
        version: Tells this state of this database from any other; pictures of equal keys may differ in others.
        num_places: Number of places that can be found.
        keys: Public key of every row.
        unit: Unit of the points, "m" or "frames".
    """

    def __init__(self, database: PlaceDatabase) -> None:
        """Read the columns that are asked for again and again."""
        self.version = token_hex(4)
        self.num_places = len(database)
        self.keys = public_keys(database.places[KEY][:])
        self._is_live = database.index.is_live
        self._rows = {self.keys[row]: row for row in np.flatnonzero(self._is_live).tolist()}
        self._images: list[str | None] = database.places[IMAGE][:]
        self._points, self.unit = plane_positions(database.places)

    def point(self, row: int) -> tuple[float, float] | None:
        """Give a place's point on the map, if it has one.

        Args:
            row: Row of the place.
        """
        x, y = self._points[row].tolist()
        return (x, y) if np.isfinite(x + y) else None

    def points(self) -> list[tuple[float, float]]:
        """Give at most MAX_DRAWN points of places that were not removed, evenly chosen."""
        known = self._points[self._is_live & np.isfinite(self._points).all(axis=1)]
        chosen = known[:: -(-len(known) // MAX_DRAWN) or 1]
        return [(x, y) for x, y in chosen.tolist()]

    def has_picture(self, row: int) -> bool:
        """Tell whether the database knows where a place's picture is.

        Args:
            row: Row of the place.
        """
        return self._images[row] is not None

    def read_picture(self, key: str) -> Image.Image:
        """Read a place's picture. The key is looked up and never used as a path itself.

        Args:
            key: Public key.

        Raises:
            RequestError: If there is no such place, or no picture of it.
        """
        row = self._rows.get(key)
        if row is None:
            raise RequestError(f"No place of this database is called {key[:200]!r}; take a key from a result.", 404)
        path = self._images[row]
        try:
            return read_stored_image({"bytes": None, "path": path}, name=key)
        except UnreadableImageError as error:
            logger.warning("%s", error)
            raise RequestError(f"The server cannot read its picture of {key}; its log says why.", 404) from error


def public_keys(keys: Sequence[str]) -> list[str]:
    """Name places without telling how the server's folders are called: the part that absolute paths share is cut off.

    Args:
        keys: Keys of a database.

    Example:
        >>> public_keys(["/home/me/walk/day/1.jpg", "/home/me/walk/night/1.jpg"])
        ['day/1.jpg', 'night/1.jpg']
        >>> public_keys(["day/1.jpg"])
        ['day/1.jpg']
    """
    absolute = [key for key in keys if PurePath(key).is_absolute()]
    if not absolute:
        return list(keys)
    folder = os.path.commonpath([PurePath(key).parent for key in absolute])
    return [PurePath(key).relative_to(folder).as_posix() if PurePath(key).is_absolute() else key for key in keys]
