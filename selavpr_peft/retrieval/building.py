"""Build a place database step by step, so that an interrupted build goes on after its last complete step."""

from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from peft import PeftModel
from pyarrow import parquet
from tqdm.auto import tqdm

from selavpr_peft.data.schema import KEY
from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.files import crc32_of, write_atomically
from selavpr_peft.matching import database_form, grid_within
from selavpr_peft.modeling.local_head import local_map_size
from selavpr_peft.modeling.packed_linear import packed_weights
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.retrieval.description_form import DescriptionForm, KeptLocations
from selavpr_peft.retrieval.descriptor_index import DescriptorIndex
from selavpr_peft.retrieval.encoding import EncodedBatch, encode_places
from selavpr_peft.retrieval.index_kinds import choose_kind, least_rows
from selavpr_peft.retrieval.manifest import (
    FIRST_INDEX,
    FIRST_PLACES,
    MANIFEST,
    BegunManifest,
    Manifest,
    describe_settings,
    locked,
    read_manifest,
    write_manifest,
)
from selavpr_peft.retrieval.place_source import PlaceSource
from selavpr_peft.retrieval.sharded_array import ShardedArray

ARRAYS = DESCRIPTORS, LOCAL_FEATURES, ROWS = "descriptors", "local_features", "rows"

STEP_IMAGES = 64
"""Images described between two points a build can be resumed at; the local features of a step are one shard."""


def build_database(
    model: PeftModel,
    source: PlaceSource,
    folder: Path,
    *,
    local_dtype: str,
    keep_locations: int | None,
    index_kind: str | None,
    options: dict[str, Any],
) -> None:
    """Describe places and write a database, or go on with one that was interrupted.

    Args:
        model: A model with a SelaVPR adapter, in evaluation mode.
        source: The places.
        folder: Where to write.
        local_dtype: Form of the local features.
        keep_locations: Local features kept of every image, at most; None for all.
        index_kind: One of `index_kinds.KINDS`; None chooses by size.
        options: Further arguments of `encode_places`.

    Raises:
        PlaceDatabaseError: If the folder holds something else, or somebody else is writing there.
    """
    begun = BegunManifest(
        **describe_settings(model),
        local_dtype=local_dtype,
        kept_locations=_kept_locations(model, keep_locations),
        places=source.digest,
    )
    with locked(folder):
        if _begin(folder, begun):
            return
        kept, unreadable = describe_steps(model, source, folder, begun, options)
        finish_database(folder, kept, begun, unreadable, index_kind)


def finish_database(
    folder: Path, places: pa.Table, begun: BegunManifest, unreadable_images: list[str], index_kind: str | None
) -> None:
    """Write the table of places and the index of a folder that has all arrays, and last the manifest that says so.

    Args:
        folder: The database.
        places: Table in the order of the rows.
        begun: How the arrays were made.
        unreadable_images: Keys of given places that are not among them.
        index_kind: One of `index_kinds.KINDS`; None chooses by size.
    """
    checksum = write_places(folder / FIRST_PLACES, places)
    index = write_index(folder / FIRST_INDEX, len(places), index_kind, begun.adapter)
    features = ShardedArray(folder / LOCAL_FEATURES)
    entries = dict(begun) | {
        "is_complete": True,
        "num_places": len(places),
        "descriptor_size": index.num_channels,
        "local_map_shape": features.row_shape if len(features) else None,
        "index": index.kind,
        "places_crc32": checksum,
        "removed_rows": [],
        "unreadable_images": unreadable_images,
        "places_file": FIRST_PLACES,
        "index_file": FIRST_INDEX,
    }
    write_manifest(folder, Manifest(**entries))


def write_places(path: Path, places: pa.Table) -> str:
    """Write the table of places; gives its checksum.

    Args:
        path: File.
        places: Table in the order of the rows.
    """
    write_atomically(path, lambda temporary: parquet.write_table(places, temporary))
    return crc32_of(path)


def write_index(path: Path, num_places: int, kind: str | None, adapter: str) -> DescriptorIndex:
    """Index the descriptors of a database's places.

    Args:
        path: File, beside the descriptors.
        num_places: Rows that the database has.
        kind: One of `index_kinds.KINDS`; None chooses by size, and so does a kind for which too few rows remained.
        adapter: Digest of the adapter that made them.

    Raises:
        PlaceDatabaseError: If descriptors are damaged or missing; an index that is there stays.
    """
    descriptors = whole_array(path.parent / DESCRIPTORS, num_places).read_all()
    if kind is None or len(descriptors) < least_rows(kind):
        kind = choose_kind(*descriptors.shape)
    index = DescriptorIndex.build(descriptors, kind, adapter)
    index.save(path)
    return index


def whole_array(folder: Path, num_places: int) -> ShardedArray:
    """Open an array of which nothing is missing.

    Args:
        folder: Folder of the array.
        num_places: Rows that the manifest counts.

    Raises:
        PlaceDatabaseError: If there are fewer.
    """
    array = ShardedArray(folder, num_places)
    if len(array) != num_places:
        raise PlaceDatabaseError(
            f"{folder} holds {len(array)} places, but the manifest says {num_places}: a file is missing; fetch or"
            " build the database again."
        )
    return array


def _kept_locations(model: PeftModel, keep_locations: int | None) -> KeptLocations | None:
    """Choose the grid of locations that is kept of a map; None where all are."""
    config = model.active_peft_config
    if keep_locations is None or not config.use_local_head:
        return None
    map_size = local_map_size(config.image_size, config.backbone_patch_size)
    return KeptLocations(map_size=map_size, grid=grid_within(map_size, keep_locations))


def _begin(folder: Path, manifest: BegunManifest) -> bool:
    """Start a database, or check that the one there is the same; True if it is complete already."""
    if not (folder / MANIFEST).is_file():
        others = [path.name for path in folder.iterdir() if path.name != ".lock"]
        if others:
            raise PlaceDatabaseError(
                f"{folder} is no place database but holds {sorted(others)[:3]}; name a new folder."
            )
        write_manifest(folder, manifest)
        return False
    found = read_manifest(folder)
    differing = [name for name, value in manifest if name != "is_complete" and getattr(found, name) != value]
    if differing:
        raise PlaceDatabaseError(
            f"{folder} holds a database that differs in {' and '.join(differing)}; name another folder, or delete it."
            + (" Places are added to it by PlaceDatabase.add or --add-to." if differing == ["places"] else "")
        )
    return found.is_complete


def describe_steps(
    model: PeftModel,
    source: PlaceSource,
    folder: Path,
    form: DescriptionForm,
    options: dict[str, Any],
    *,
    num_places: int = 0,
    taken_keys: Set[str] = frozenset(),
    verb: str = "building",
) -> tuple[pa.Table, list[str]]:
    """Describe what has not been described yet, behind the places that a database has.

    Args:
        model: A model with a SelaVPR adapter, in evaluation mode.
        source: The places.
        folder: The database.
        form: Of its local features.
        options: Further arguments of `encode_places`.
        num_places: Places that the database had before these.
        taken_keys: Keys of those of them that were not removed.
        verb: What the progress bar says.

    Returns:
        The places that could be read, as a database keeps them, and the keys of those that could not.

    Raises:
        PlaceDatabaseError: If one has a taken key, none can be read, or there are fewer than were described before.
    """
    rows, descriptors, features = (ShardedArray(folder / name) for name in (ROWS, DESCRIPTORS, LOCAL_FEATURES))
    done = rows.num_shards - ShardedArray(folder / ROWS, num_places).num_shards  # rows are written last in a step
    kept = sum(size > 0 for size in rows.shard_sizes)
    descriptors.truncate(kept)
    features.truncate(kept)
    preprocessing = Preprocessing.of(model.active_peft_config)
    start, num_done = 0, min(done * STEP_IMAGES, source.num_places or done * STEP_IMAGES)
    progress = tqdm(desc=verb, unit="image", initial=num_done, total=source.num_places)
    with packed_weights(model), progress:  # once for all steps
        for number, part in enumerate(source.parts(STEP_IMAGES)):
            refuse_taken_keys(folder, part, taken_keys)
            if number >= done:
                encoded = encode_places(model, part, preprocessing, description=None, **options)
                batches = [batch for batch in _counted(encoded, progress) if batch.rows]
                if batches:
                    descriptors.append(np.concatenate([batch.global_descriptors.numpy() for batch in batches]))
                    _append_local_features(features, batches, form)
                rows.append(np.array([start + row for batch in batches for row in batch.rows], dtype=np.int64))
            start += len(part)
    if len(rows) == num_places:
        raise PlaceDatabaseError(f"None of the {start} images can be read; see the messages above.")
    readable = rows.read(np.arange(num_places, len(rows)))
    if readable[-1] >= start:
        raise PlaceDatabaseError(
            f"{folder} was begun with more than the {start} places that there are now; delete it, or give those again."
        )
    places = source.table()
    unreadable = places[KEY].take(np.setdiff1d(np.arange(start), readable)).to_pylist()
    return places.take(readable), unreadable


def refuse_taken_keys(folder: Path, places: Dataset, taken_keys: Set[str]) -> None:
    """Raise if a place is in a database already.

    Args:
        folder: The database.
        places: Table of other places.
        taken_keys: Keys of the places it has.

    Raises:
        PlaceDatabaseError: Naming the first of them.
    """
    repeated = [key for key in places[KEY][:] if key in taken_keys]
    if repeated:
        raise PlaceDatabaseError(
            f"{folder} has a place {repeated[0]!r} already ({len(repeated)} of the {len(places)} keys are there); give"
            " other keys, leave those places out, or remove the old ones first."
        )


def _counted(batches: Iterator[EncodedBatch], progress: tqdm) -> Iterator[EncodedBatch]:
    """Show how many images are done, those that cannot be read included."""
    for batch in batches:
        yield batch
        progress.update(len(batch.rows) + len(batch.unreadable))


def _append_local_features(features: ShardedArray, batches: list[EncodedBatch], form: DescriptionForm) -> None:
    maps = [batch.local_features for batch in batches if batch.local_features is not None]
    stored = [database_form(some, form.local_dtype, form.kept_grid) for some in maps]
    if stored:
        features.append(torch.cat(stored).numpy())
