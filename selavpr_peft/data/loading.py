"""Load places from whatever they are kept in, as a database and queries."""

from pathlib import Path

from datasets import Dataset, DatasetDict, Value
from pyarrow import ArrowException

from selavpr_peft.data.photo_folder import photographs_without_table, read_photographs
from selavpr_peft.data.place_table import read_place_table, rows_of_frames
from selavpr_peft.data.schema import IMAGE, KEY, check_photographs, check_places, has_positions
from selavpr_peft.data.utm_folder import is_utm_folder, read_utm_folder
from selavpr_peft.errors import DatasetFormatError

DATABASE = "database"
QUERIES = "queries"
TEXT = Value("string")


def load_places(source: str | Path | Dataset | DatasetDict, *, frames: tuple[int, int] | None = None) -> DatasetDict:
    """Load a set of places as the splits "database" and "queries".

    Args:
        source: One of

            - a folder with `database/` and `queries/` of images named `@utm_easting@utm_northing@...@.jpg`;
            - a folder with `places.csv` or `places.parquet`, or such a table, with `:traverse` for a part of it;
            - a folder of photographs without a table: positions from such names, or none, to be found by name only;
            - a `datasets.Dataset` with the columns of data/schema.py, or a `DatasetDict` of both splits.
        frames: First and last frame to keep, both included; for places with frame numbers.

    Returns:
        Both splits. Where the source makes no difference between them, each holds all places: every image is a query
        among all others, and an image is never its own positive.

    Raises:
        DatasetFormatError: If the source is in none of these layouts, a row of a table lacks a position or has an
            impossible latitude or longitude, or no place has one of the frames.
        TypeError: If it is neither a path nor a dataset.
    """
    if isinstance(source, DatasetDict):
        if not {DATABASE, QUERIES} <= set(source):
            raise DatasetFormatError(f"The splits 'database' and 'queries' are needed, got {list(source)}.")
        splits = {name: _checked(source[name], name, frames) for name in (DATABASE, QUERIES)}
        return DatasetDict(splits)
    if isinstance(source, Dataset):
        places = _checked(source, "dataset", frames)
        return DatasetDict({DATABASE: places, QUERIES: places})
    if not isinstance(source, str | Path):
        raise TypeError(
            "Places must be a folder, a table of them or a datasets.Dataset, got"
            f" {type(source).__name__}; datasets.Dataset.from_dict and from_pandas make one of columns."
        )
    folder = Path(source)
    if is_utm_folder(folder):
        if frames is not None:
            raise DatasetFormatError(f"{source} has positions in metres, so frames {frames} cannot be taken from it.")
        return DatasetDict({name: read_utm_folder(folder / name) for name in (DATABASE, QUERIES)})
    if photographs := photographs_without_table(folder):
        if frames is not None:
            raise DatasetFormatError(f"{source} has no places.csv, so frames {frames} cannot be taken from it.")
        places = read_photographs(folder, photographs)
    else:
        places = read_place_table(source, frames=frames)
    return DatasetDict({DATABASE: places, QUERIES: places})


def load_database(source: str | Path | Dataset | DatasetDict) -> Dataset:
    """Load the images that a place database is made of, with positions or, of photographs alone, without.

    Args:
        source: What `load_places` takes or gives, or what this function gave. A dataset without any column but `image`
            and `key` is taken for photographs alone.

    Raises:
        DatasetFormatError: As there.
    """
    images, name = (source.get(DATABASE), DATABASE) if isinstance(source, DatasetDict) else (source, "dataset")
    if isinstance(images, Dataset) and set(images.column_names) <= {IMAGE, KEY}:
        photographs = _with_keys(images, name)
        check_photographs(photographs, name)
        return photographs
    return load_places(source)[DATABASE]


def load_located(source: str | Path, split: str, *, frames: tuple[int, int] | None = None) -> Dataset:
    """Load one split of what `load_places` takes, whose places must have positions.

    Args:
        source: What `load_places` takes.
        split: "database" or "queries".
        frames: First and last frame to keep, both included; for places with frame numbers.

    Raises:
        DatasetFormatError: As there, and for photographs without positions.
    """
    places = load_places(source, frames=frames)[split]
    if not has_positions(places):
        raise DatasetFormatError(
            f"Expected places.csv in {source}, or images named @utm_easting@utm_northing@...@.jpg, but its photographs"
            " have no positions; see docs/datasets.md."
        )
    return places


def _checked(places: Dataset, source: str, frames: tuple[int, int] | None) -> Dataset:
    """Check the columns of a dataset made elsewhere, and take some frames of it."""
    places = _with_keys(places, source)
    check_places(places, source)
    return places if frames is None else places.select(rows_of_frames(places, frames, source))


def _with_keys(places: Dataset, source: str) -> Dataset:
    """Give a dataset made elsewhere keys that are text, split and row where it has none, and all its columns."""
    if places.format["type"] != "custom":  # what a transform makes is taken; other formats are for other readers
        places = places.with_format(None)
    if KEY not in places.column_names:
        # the split, because equal keys say that a picture is the same
        return places.add_column(KEY, [f"{source}/{row}" for row in range(len(places))])
    if places.features[KEY] == TEXT:
        return places
    try:
        return places.cast_column(KEY, TEXT)
    except (ArrowException, TypeError) as error:
        raise DatasetFormatError(
            f"{source} must have text in the column {KEY!r}, got {places.features[KEY]}."
        ) from error
