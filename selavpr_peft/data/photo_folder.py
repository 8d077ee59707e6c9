"""Read a plain folder of photographs: pictures without a table, whose positions nobody has written down.

They can be indexed and found again by name. Evaluation and training need positions, and say so.
"""

from pathlib import Path

from datasets import Dataset, Image

from selavpr_peft.data.place_table import TABLE_NAMES
from selavpr_peft.data.schema import IMAGE
from selavpr_peft.data.utm_folder import picture_columns, pictures_in, places_by_name


def photographs_without_table(folder: Path) -> list[Path]:
    """List the photographs of a folder and its sub-folders by ascending path; none where a table describes them.

    Args:
        folder: Any path.
    """
    has_table = any((folder / name).is_file() for name in TABLE_NAMES)
    return pictures_in(folder) if folder.is_dir() and not has_table else []


def read_photographs(folder: Path, paths: list[Path]) -> Dataset:
    """Read photographs that no table describes; names of the form @utm_easting@... tell their positions.

    Args:
        folder: The folder.
        paths: Pictures in it.

    Returns:
        Places in the order of the pictures: the columns `image` and `key`, the path within the folder, and what their
        names tell.

    Raises:
        DatasetFormatError: If all names begin as if they told a position, and one does not.
    """
    if all(path.name.startswith("@") for path in paths):
        return places_by_name(folder, paths)
    return Dataset.from_dict(picture_columns(folder, paths)).cast_column(IMAGE, Image())
