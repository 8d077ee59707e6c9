"""Read the field's folder layout: images named `@utm_easting@utm_northing@...@.jpg` under `database/` and `queries/`.

The names are those that VPR-datasets-downloader and the official code write: fields between @ signs, of which the
first two are metres and the others may be empty.
"""

from pathlib import Path

from datasets import Dataset, Image

from selavpr_peft.data.schema import DEGREES, IMAGE, KEY, METRES, check_places
from selavpr_peft.errors import DatasetFormatError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
SPLIT_FOLDERS = ("database", "queries")
_POSITION_FIELDS = dict(zip(METRES, (1, 2), strict=True))
_OPTIONAL_FIELDS = dict(zip((*DEGREES, "heading_deg"), (5, 6, 9), strict=True))
_TEXT_FIELDS = {"time": 13, "note": 14}


def is_utm_folder(folder: Path) -> bool:
    """Tell whether a folder holds `database/` and `queries/`.

    Args:
        folder: Any path.
    """
    return all((folder / name).is_dir() for name in SPLIT_FOLDERS)


def pictures_in(folder: Path) -> list[Path]:
    """List the pictures of a folder and its sub-folders by ascending path.

    Args:
        folder: Any folder.
    """
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def picture_columns(folder: Path, paths: list[Path]) -> dict[str, list[object]]:
    """Give the columns `image` and `key`, the path within the folder.

    Args:
        folder: The folder.
        paths: Pictures in it.
    """
    return {
        IMAGE: [str(path) for path in paths],
        KEY: [path.relative_to(folder).as_posix() for path in paths],
    }


def read_utm_folder(folder: str | Path) -> Dataset:
    """Read the places of one folder of images, such as `train/database`.

    Args:
        folder: Folder that is searched with its sub-folders.

    Returns:
        Places by ascending file name with `easting_m`, `northing_m` and, where every name has them, `latitude`,
        `longitude`, `heading_deg`, `time` and `note`.

    Raises:
        DatasetFormatError: If there are no images, or a name does not follow the pattern; the message shows it.
    """
    folder = Path(folder)
    paths = pictures_in(folder)
    if not paths:
        raise DatasetFormatError(f"Expected images ({', '.join(IMAGE_SUFFIXES)}) in {folder}, but found none.")
    return places_by_name(folder, paths)


def places_by_name(folder: Path, paths: list[Path]) -> Dataset:
    """Give pictures as places, with what their names tell.

    Args:
        folder: The folder.
        paths: Pictures in it.

    Returns:
        Places in the order of the pictures, with the columns of `read_utm_folder`.

    Raises:
        DatasetFormatError: If a name does not follow the pattern; the message shows it.
    """
    fields = [path.name.split("@") for path in paths]
    columns = picture_columns(folder, paths)
    for name, index in _POSITION_FIELDS.items():
        columns[name] = [_number(path, parts, index) for path, parts in zip(paths, fields, strict=True)]
    for name, index in (_OPTIONAL_FIELDS | _TEXT_FIELDS).items():
        if all(len(parts) > index + 1 and parts[index] for parts in fields):
            read = _text if name in _TEXT_FIELDS else _number
            columns[name] = [read(path, parts, index) for path, parts in zip(paths, fields, strict=True)]
    places = Dataset.from_dict(columns)
    check_places(places, str(folder))
    return places.cast_column(IMAGE, Image())


def _text(path: Path, fields: list[str], index: int) -> str:
    return fields[index]


def _number(path: Path, fields: list[str], index: int) -> float:
    try:
        return float(fields[index])
    except (IndexError, ValueError) as error:
        raise DatasetFormatError(
            f"Expected file names like @utm_easting@utm_northing@...@.jpg with a number as field {index}, got"
            f" {path.name!r} in {path.parent}. For other layouts see docs/datasets.md."
        ) from error
