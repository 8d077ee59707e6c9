"""Read a plain folder of photographs: pictures without a table, whose positions nobody has written down.

They can be indexed and found again by name. Evaluation and training need positions, and say so.
"""

from pathlib import Path

from datasets import Dataset, Image

from selavpr_peft.data.place_table import TABLE_NAMES
from selavpr_peft.data.schema import IMAGE
from selavpr_peft.data.utm_folder import picture_columns, pictures_in


def is_photo_folder(folder: Path) -> bool:
    """Tell whether a folder holds photographs, itself or in sub-folders, and no table of places.

    Args:
        folder: Any path.
    """
    return folder.is_dir() and not any((folder / name).is_file() for name in TABLE_NAMES) and bool(pictures_in(folder))


def read_photo_folder(folder: str | Path) -> Dataset:
    """Read the photographs of a folder.

    Args:
        folder: Folder that is searched with its sub-folders.

    Returns:
        The columns `image` and `key`, the path within the folder, by ascending path.
    """
    folder = Path(folder)
    return Dataset.from_dict(picture_columns(folder, pictures_in(folder))).cast_column(IMAGE, Image())
