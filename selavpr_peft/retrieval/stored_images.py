"""Read the pictures of a table of places one by one, each only when it is asked for.

`datasets` decodes by itself whatever row is looked at, and a picture that cannot be read stops it without its name.
"""

import io
from typing import Any

import PIL.Image
from datasets import Dataset

from selavpr_peft.data.schema import IMAGE, KEY, undecoded
from selavpr_peft.errors import UnreadableImageError
from selavpr_peft.modeling.preprocessing import read_image


class StoredImages:
    """The pictures of a table by their rows.

    Args:
        places: Table with a column `image`; `key`, where there is one, is what a message calls a picture.
    """

    def __init__(self, places: Dataset) -> None:
        """Leave the other columns out, which nobody needs to read."""
        self._places = undecoded(places.select_columns([name for name in (IMAGE, KEY) if name in places.column_names]))

    def __len__(self) -> int:
        """Give the number of pictures, unreadable ones included."""
        return len(self._places)

    def __getitem__(self, row: int) -> PIL.Image.Image:
        """Read a picture.

        Args:
            row: Its row.

        Raises:
            UnreadableImageError: If there is none or it is no picture; the message names it.
            IndexError: If there is no such row.
        """
        place = self._places[row]
        return read_stored_image(place[IMAGE], name=place.get(KEY, f"row {row}"))


def read_stored_image(stored: dict[str, Any] | None, name: str) -> PIL.Image.Image:
    """Read an entry of an image column that is not decoded: bytes inside the table, or the path of a file.

    Args:
        stored: Entry with "bytes" and "path".
        name: What a message calls the image.

    Raises:
        UnreadableImageError: If there is none or it is no picture.
    """
    if stored is None or (stored["bytes"] is None and stored["path"] is None):
        raise UnreadableImageError(f"The image {name} cannot be read (the table has none); add or remove it.")
    return read_image(stored["path"] if stored["bytes"] is None else _NamedBytes(stored["bytes"], name))


class _NamedBytes(io.BytesIO):
    """A picture inside the table, which messages call by its name."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self._name = name

    def __str__(self) -> str:
        return self._name
