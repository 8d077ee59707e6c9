"""Read what a place database is opened by, and check that it belongs together: manifest, places and index.

Local features are not among it; they are checked place by place, as they are read.
"""

from pathlib import Path

from datasets import Dataset
from pyarrow import parquet

from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.files import crc32_of
from selavpr_peft.retrieval.descriptor_index import DescriptorIndex
from selavpr_peft.retrieval.manifest import Manifest, read_complete_manifest


def read_tables(folder: Path) -> tuple[Manifest, Dataset, DescriptorIndex]:
    """Read manifest, places and index, which belong together also when somebody adds places meanwhile.

    Args:
        folder: The database.

    Raises:
        PlaceDatabaseError: If it is not complete, one of them is damaged, or the index is of another database; the
            message says what to do.
    """
    manifest = read_complete_manifest(folder)
    try:
        return manifest, _read_places(folder, manifest), _read_index(folder, manifest)
    except (PlaceDatabaseError, FileNotFoundError):
        if read_complete_manifest(folder).places_file == manifest.places_file:
            raise
        return read_tables(folder)  # others have taken their place


def _read_places(folder: Path, manifest: Manifest) -> Dataset:
    """Read the table of places, whose checksum is in the manifest."""
    path = folder / manifest.places_file
    if not path.is_file() or crc32_of(path) != manifest.places_crc32:
        raise PlaceDatabaseError(
            f"{path} is missing or damaged: its checksum is not the one in the manifest; fetch or build the database"
            " again."
        )
    return Dataset(parquet.read_table(path))


def _read_index(folder: Path, manifest: Manifest) -> DescriptorIndex:
    """Read the index and check that it belongs to the other files."""
    remedy = f"Everything else is usable: PlaceDatabase.rebuild_index({str(folder)!r}) makes the index anew."
    try:
        index = DescriptorIndex.load(folder / manifest.index_file, is_mapped=True)
    except PlaceDatabaseError as error:
        raise PlaceDatabaseError(f"{error} {remedy}") from error
    expected = (manifest.num_places, manifest.descriptor_size, manifest.adapter)
    found = (len(index), index.num_channels, index.model)
    names = ("number of places", "feature size", "adapter")
    differing = [
        f"{name} {is_there}, expected {wanted}"
        for name, is_there, wanted in zip(names, found, expected, strict=True)
        if is_there != wanted
    ]
    if differing:
        path = folder / manifest.index_file
        raise PlaceDatabaseError(f"{path} belongs to another database: {'; '.join(differing)}. {remedy}")
    return index
