"""Add places to a complete database so that readers see all of them at once, or none.

Steps are described as in a build. Their shards lie behind the rows that the manifest counts, where no reader looks.
The table and the index of all places get new names, and the manifest that names and counts them is replaced last.
`adding.json` says what was begun, until nothing of it is left to do.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset
from jaxtyping import Bool
from peft import PeftModel
from pydantic import BaseModel, PositiveInt, ValidationError

from selavpr_peft.data.appending import append_places
from selavpr_peft.data.schema import IMAGE, KEY
from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.files import write_text_atomically
from selavpr_peft.retrieval.building import (
    ARRAYS,
    DESCRIPTORS,
    ROWS,
    describe_steps,
    refuse_taken_keys,
    write_places,
)
from selavpr_peft.retrieval.description_form import Digest
from selavpr_peft.retrieval.descriptor_index import DescriptorIndex
from selavpr_peft.retrieval.manifest import Manifest, write_manifest
from selavpr_peft.retrieval.place_source import PlaceSource
from selavpr_peft.retrieval.sharded_array import ShardedArray
from selavpr_peft.validation import explain

BEGUN = "adding.json"
IS_TABLE_OR_INDEX = re.compile(r"places(-\d+)?\.parquet|index(-\d+)?\.(faiss|json)")


class Begun(BaseModel, frozen=True, strict=True):
    """What `adding.json` holds.

    Args:
        places: Digest of the places that are being added.
        num_places: Rows that the database had before.
    """

    places: Digest
    num_places: PositiveInt


def add_places(
    model: PeftModel,
    source: PlaceSource,
    folder: Path,
    manifest: Manifest,
    places: Dataset,
    *,
    is_live: Bool[np.ndarray, " N"],
    options: dict[str, Any],
) -> None:
    """Describe further places and add them, or go on with adding them that was interrupted.

    Args:
        model: The model that the database was built with.
        source: The further places.
        folder: The database; the caller keeps other writers out.
        manifest: Its manifest.
        places: Its table.
        is_live: Rows of it that were not removed.
        options: Further arguments of `encode_places`.

    Raises:
        PlaceDatabaseError: If one of them is there already, none can be read, or other places were being added.
        DatasetFormatError: If their columns do not fit.
    """
    begun, adding = _read_begun(folder), Begun(places=source.digest, num_places=len(places))
    if begun is not None and begun.places == adding.places and _are_there(begun, is_live):
        _clean_up(folder, manifest)  # all that was left to do
        return
    taken_keys = set(places.select(np.flatnonzero(is_live))[KEY][:])
    refuse_taken_keys(folder, source.first, taken_keys)
    append_places(places, source.first.remove_columns(IMAGE))  # refuses what does not fit before anything is described
    if begun is None or not _has_described(folder, manifest):
        _begin(folder, manifest, adding)
    elif begun != adding:
        raise PlaceDatabaseError(
            f"{folder} has begun to take other places; add those again to finish, or delete {folder / BEGUN} to give"
            " them up."
        )
    kept, unreadable = describe_steps(
        model, source, folder, manifest, options, num_places=len(places), taken_keys=taken_keys, verb="adding"
    )
    tried_again = {*kept[KEY].to_pylist(), *unreadable}
    unreadable = [key for key in manifest.unreadable_images if key not in tried_again] + unreadable
    manifest = _finish(folder, manifest, append_places(places, Dataset(kept)), unreadable)
    _clean_up(folder, manifest)


def _read_begun(folder: Path) -> Begun | None:
    path = folder / BEGUN
    try:
        return Begun.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise PlaceDatabaseError(
            f"{path} is damaged: {explain(error)}; delete it to give up what was being added."
        ) from None


def _are_there(begun: Begun, is_live: Bool[np.ndarray, " N"]) -> bool:
    """Tell whether the places that were begun with are in the database, all that could be read."""
    return len(is_live) > begun.num_places and bool(is_live[begun.num_places :].all())


def _has_described(folder: Path, manifest: Manifest) -> bool:
    """Tell whether something would be lost by beginning anew."""
    return len(ShardedArray(folder / ROWS)) > manifest.num_places


def _begin(folder: Path, manifest: Manifest, adding: Begun) -> None:
    """Drop what was given up, and say what is going to be added."""
    _clean_up(folder, manifest)
    for name in ARRAYS:
        ShardedArray(folder / name).truncate(ShardedArray(folder / name, manifest.num_places).num_shards)
    write_text_atomically(folder / BEGUN, adding.model_dump_json(indent=2) + "\n")


def _finish(folder: Path, manifest: Manifest, places: pa.Table, unreadable_images: list[str]) -> Manifest:
    """Write the table and the index of all places beside those that are valid, and last the manifest."""
    num_places = len(places)
    index = DescriptorIndex.load(folder / manifest.index_file)
    descriptors = ShardedArray(folder / DESCRIPTORS, num_places)
    index.grow(descriptors.read(np.arange(len(index), num_places)), descriptors.read_all)
    places_file, index_file = f"places-{num_places}.parquet", f"index-{num_places}.faiss"
    changed = {
        "num_places": num_places,
        "places_crc32": write_places(folder / places_file, places),
        "unreadable_images": unreadable_images,
        "places_file": places_file,
        "index_file": index_file,
    }
    index.save(folder / index_file)
    grown = manifest.model_copy(update=changed)
    write_manifest(folder, grown)
    return grown


def _clean_up(folder: Path, manifest: Manifest) -> None:
    """Delete tables and indexes that the manifest does not name, and last the note of what was begun."""
    index = Path(manifest.index_file)
    named = {manifest.places_file, index.name, index.with_suffix(".json").name}
    for path in folder.iterdir():
        if IS_TABLE_OR_INDEX.fullmatch(path.name) and path.name not in named:
            path.unlink()
    (folder / BEGUN).unlink(missing_ok=True)
