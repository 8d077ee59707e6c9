"""Where a place database takes its places from: a table, or a stream that is read once and never held as a whole."""

import hashlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from datasets import Dataset, Image, IterableDataset, IterableDatasetDict
from pyarrow import compute

from selavpr_peft.data.loading import DATABASE, load_database
from selavpr_peft.data.schema import IMAGE, KEY, undecoded
from selavpr_peft.errors import DatasetFormatError

NO_PLACE = "At least one image is needed, got none."


class PlaceTable:
    """Places of a table.

    Args:
        places: Table of places.

    Attributes:
        digest: Identifies them, so that what was begun with them is not continued with others.
        num_places: How many there are.
        first: All of them.
    """

    def __init__(self, places: Dataset) -> None:
        """Identify them by their keys."""
        self._places = self.first = places
        self.digest = digest_of(places)
        self.num_places: int | None = len(places)

    def parts(self, size: int) -> Iterator[Dataset]:
        """Give the places in parts.

        Args:
            size: Places of a part.
        """
        for start in range(0, len(self._places), size):
            yield self._places.select(range(start, min(start + size, len(self._places))))

    def table(self) -> pa.Table:
        """Give the places as a database keeps them: pictures are replaced by paths."""
        return with_paths(self._places)


class PlaceStream:
    """Places of a streaming dataset, of which no more than a part is held with its pictures.

    Args:
        stream: Streaming dataset with the columns of a table of places, or of pictures alone. Rows without `key` are
            called by their numbers.

    Attributes:
        digest: Identifies the first of them.
        num_places: None: it is not known before all were read.
        first: Its first places.

    Raises:
        ValueError: If it is empty.
        DatasetFormatError: If its first places cannot be right.
    """

    FIRST = 64
    """A stream is known by so many of its first places: it cannot be read to its end beforehand."""

    def __init__(self, stream: IterableDataset | IterableDatasetDict) -> None:
        """Read its first places."""
        self._stream = _with_stored_pictures(stream[DATABASE] if isinstance(stream, IterableDatasetDict) else stream)
        self._tables: list[pa.Table] = []
        first = next(self.parts(self.FIRST), None)
        if first is None:
            raise ValueError(NO_PLACE)
        self.first = first
        self.digest = digest_of(first)
        self.num_places: int | None = None

    def parts(self, size: int) -> Iterator[Dataset]:
        """Read the stream from its beginning.

        Args:
            size: Places of a part.

        Raises:
            DatasetFormatError: If places cannot be right, or a key comes again.
        """
        self._tables, features, start = [], self._stream.features, 0
        seen: set[str] = set()
        for batch in self._stream.iter(size):
            part = Dataset.from_dict(batch, features=features)
            features = part.features  # of a stream that does not tell them, those of its first part
            if KEY not in part.column_names:
                part = part.add_column(KEY, [f"stream/{start + row}" for row in range(len(part))])
            part = load_database(part)
            repeated = seen.intersection(part[KEY][:])
            if repeated:
                raise DatasetFormatError(f"A stream must name every image once, got {min(repeated)} again.")
            seen.update(part[KEY][:])
            self._tables.append(with_paths(part))
            start += len(part)
            yield part

    def table(self) -> pa.Table:
        """Give the places that were read, as a database keeps them."""
        return pa.concat_tables(self._tables).combine_chunks()


PlaceSource = PlaceTable | PlaceStream


def place_source(places: Any) -> PlaceSource:
    """Take places from anything `load_places` takes or gives, or from a streaming dataset.

    Args:
        places: The places; of several splits, those of the database.

    Raises:
        DatasetFormatError: If they cannot be right.
        ValueError: If there are none.
    """
    if isinstance(places, IterableDataset | IterableDatasetDict):
        return PlaceStream(places)
    table = load_database(places)
    if not len(table):
        raise ValueError(NO_PLACE)
    return PlaceTable(table)


def digest_of(table: Dataset) -> str:
    """Identify places by their keys.

    Args:
        table: The places.
    """
    digest = hashlib.blake2b(digest_size=16)
    for key in table[KEY][:]:
        digest.update(f"{key}\n".encode())
    return digest.hexdigest()


def with_paths(table: Dataset) -> pa.Table:
    """Give places as a database keeps them: every picture is replaced by its path.

    Args:
        table: The places.
    """
    stored = undecoded(table.select_columns(IMAGE)).with_format("arrow")
    # part by part, and the paths alone: the table may hold all pictures
    paths = [path for part in stored.iter(1000) for path in compute.struct_field(part[IMAGE], "path").to_pylist()]
    places = table.remove_columns(IMAGE).with_format("arrow")[:]
    return places.append_column(IMAGE, pa.array(paths, pa.string()))


def _with_stored_pictures(stream: IterableDataset) -> IterableDataset:
    """Leave pictures as they are stored, where the stream tells that it has some."""
    if stream.features is None or IMAGE not in stream.features:
        return stream
    return stream.cast_column(IMAGE, Image(decode=False))
