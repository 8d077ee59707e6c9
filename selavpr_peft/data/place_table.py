"""Read places from a CSV or parquet table that lies beside its images.

A folder holds `places.csv` (or `places.parquet`) with a row per image; `image` is a path relative to the table. Part
of it is addressed as `DIR:traverse`.
"""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, Image
from jaxtyping import Int
from pyarrow import csv, parquet

from selavpr_peft.data.schema import FRAME, IMAGE, KEY, METRES, TRAVERSE, check_places
from selavpr_peft.errors import DatasetFormatError

TABLE_NAMES = ("places.csv", "places.parquet")
TEXTS = frozenset({IMAGE, KEY, TRAVERSE})


def read_place_table(location: str | Path, *, frames: tuple[int, int] | None = None) -> Dataset:
    """Read the places at a location.

    Args:
        location: A folder with a table, a table, or either followed by `:traverse` to take that traverse only.
        frames: First and last frame number to keep, both included; None keeps all.

    Returns:
        Table with the columns of data/schema.py in the order of the file; `image` is decoded on access, `key` is the
        image's path relative to the table unless the file has keys.

    Raises:
        DatasetFormatError: If there is no table, it lacks a column, a row cannot be right, or no row is left; the
            message says where.
    """
    path, traverse = split_location(location)
    table = _read_table(path)
    check_places(Dataset(table), str(path))
    if traverse is not None:
        table = _take_traverse(table, traverse, path)
    if frames is not None:
        table = table.take(rows_of_frames(table, frames, path))
    files = [str(path.parent / name) for name in table[IMAGE].to_pylist()]
    return Dataset(_with_column(table, IMAGE, pa.array(files))).cast_column(IMAGE, Image())


def split_location(location: str | Path) -> tuple[Path, str | None]:
    """Split `DIR:traverse` into the table's path and the traverse, None where none is named.

    Args:
        location: Folder or table, with or without `:traverse`.

    Raises:
        DatasetFormatError: If there is no table at that place.
    """
    whole = Path(location)
    if whole.exists():
        return _find_table(whole), None
    text = str(location)
    parts = [(text[:i], text[i + 1 :]) for i in range(1, len(text) - 1) if text[i] == ":"]
    if not parts:
        return _find_table(whole), None
    # both names may have colons: take the longest folder that is there
    folder, traverse = next((part for part in reversed(parts) if Path(part[0]).exists()), parts[-1])
    return _find_table(Path(folder)), traverse


def parse_frames(text: str | None) -> tuple[int, int] | None:
    """Read a range of frames, `A-B`, both included.

    Args:
        text: For example "103-139"; None stays None.

    Raises:
        ValueError: If it is not of this form or ends before it begins.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)-(\d+)", text.strip())
    if not match or int(match[1]) > int(match[2]):
        raise ValueError(f"A range of frames must be of the form A-B with A <= B, for example 103-139, got {text!r}.")
    return int(match[1]), int(match[2])


def rows_of_frames(places: Dataset | pa.Table, frames: tuple[int, int], source: str | Path) -> Int[np.ndarray, " K"]:
    """Find the places with some frame numbers.

    Args:
        places: Table of places.
        frames: First and last frame number wanted, both included.
        source: Where the table comes from, for messages.

    Raises:
        DatasetFormatError: If places have no frame numbers, or none of these.
    """
    if FRAME not in places.column_names:
        raise DatasetFormatError(f"{source} has no column 'frame', so frames {frames} cannot be taken from it.")
    numbers = np.asarray(places[FRAME][:])
    rows = np.flatnonzero((numbers >= frames[0]) & (numbers <= frames[1]))
    if not len(rows):
        raise DatasetFormatError(
            f"{source} has no frame in {frames[0]}-{frames[1]}; it has {numbers.min()}-{numbers.max()}."
        )
    return rows


def _find_table(path: Path) -> Path:
    if path.is_file():
        return path
    for name in TABLE_NAMES:
        if (path / name).is_file():
            return path / name
    found = f"the folder has {sorted(p.name for p in path.iterdir())[:5]}" if path.is_dir() else "there is no folder"
    raise DatasetFormatError(
        f"Expected places.csv (columns image, traverse, frame or image, easting_m, northing_m) in {path}, but {found}."
    )


def _read_table(path: Path) -> pa.Table:
    """Read a whole file; `image`, `key` and `traverse` become text, and `key` is added where it is missing."""
    try:
        table = parquet.read_table(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    except (pa.ArrowException, OSError) as error:
        raise DatasetFormatError(f"{path} cannot be read as a table; expected CSV or parquet: {error}") from error
    names = table.column_names
    if len(set(names)) < len(names):
        raise DatasetFormatError(f"{path} must name every column once, got {names}.")
    if IMAGE not in names:
        raise DatasetFormatError(f"{path} must have a column 'image', got {names}.")
    if not len(table):
        raise DatasetFormatError(f"{path} has no rows; expected one per image.")
    for name in TEXTS & set(names):
        table = _with_column(table, name, _as_text(table[name], name, path))
    if FRAME in names:
        table = _with_column(table, FRAME, _as_whole(table[FRAME]))
    return table if KEY in names else table.append_column(KEY, table[IMAGE])


def _read_csv(path: Path) -> pa.Table:
    types = dict.fromkeys(TEXTS, pa.string()) | dict.fromkeys(METRES, pa.float64()) | {FRAME: pa.float64()}
    reading = csv.ReadOptions(use_threads=False)  # only then do error messages tell the line
    return csv.read_csv(path, read_options=reading, convert_options=csv.ConvertOptions(column_types=types))


def _as_text(values: pa.ChunkedArray, name: str, path: Path) -> pa.ChunkedArray:
    """Turn a column into text: numbers as they are written, nothing as the empty text."""
    try:
        return values.cast(pa.string()).fill_null("")
    except pa.ArrowException as error:
        raise DatasetFormatError(f"{path} must have text in the column {name!r}, got {values.type}.") from error


def _as_whole(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Make frames whole that pandas wrote as 7.0; others stay as they are, to be refused with their row."""
    try:
        return values.cast(pa.int64()) if pa.types.is_floating(values.type) else values
    except pa.ArrowInvalid:
        return values


def _with_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def _take_traverse(table: pa.Table, traverse: str, path: Path) -> pa.Table:
    if TRAVERSE not in table.column_names:
        raise DatasetFormatError(f"{path} has no column 'traverse', so {traverse!r} cannot be taken from it.")
    names = np.asarray(table[TRAVERSE].to_pylist())
    if traverse not in names:
        raise DatasetFormatError(f"{path} has no traverse {traverse!r}; it has {sorted(set(names.tolist()))}.")
    return table.filter(pa.array(names == traverse))
