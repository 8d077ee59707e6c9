"""The manifest of a place database: its version, how everything in it was made, and whether it is complete.

It also names the table and the index that are valid, so that both change at once when it is replaced.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from filelock import FileLock, Timeout
from peft import PeftModel
from pydantic import AfterValidator, NonNegativeInt, PositiveInt, ValidationError, model_validator

from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.files import write_text_atomically
from selavpr_peft.retrieval.description_form import DescriptionForm, Digest, InputForm
from selavpr_peft.retrieval.fingerprint import adapter_fingerprint, backbone_fingerprint
from selavpr_peft.retrieval.index_kinds import KINDS
from selavpr_peft.tuner.model import check_adapted
from selavpr_peft.validation import explain, one_of

MANIFEST = "manifest.json"
SCHEMA_VERSION: Final = 1
FIRST_PLACES, FIRST_INDEX = "places.parquet", "index.faiss"
"""Table and index of a database that nothing was added to."""


def _check_beside(name: str) -> str:
    """Refuse a file elsewhere: a manifest may come from a stranger, and `rebuild_index` writes there."""
    if Path(name).name != name:
        raise ValueError("must name a file beside the manifest; do not use this database")
    return name


FileBeside = Annotated[str, AfterValidator(_check_beside)]


class BegunManifest(DescriptionForm, extra="allow"):
    """The manifest of a database that is being built. Entries of later releases are kept as they are.

    Args:
        schema_version: Of the manifest.
        adapter: Digest of the adapter's weights.
        places: Digest of the places that were given.
        is_complete: Whether the build has come to its end.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    adapter: Digest
    places: Digest
    is_complete: bool = False


class Manifest(BegunManifest):
    """The manifest of a database that can be searched.

    Args:
        is_complete: Always.
        num_places: Rows, removed ones included.
        descriptor_size: Length of a global descriptor.
        local_map_shape: Local features of a place as they are stored, (H, W, D); None where there are none.
        index: Kind of the index, one of `index_kinds.KINDS`.
        places_crc32: Checksum of the table.
        removed_rows: Rows that are never found again, ascending.
        unreadable_images: Keys of given places that are left out, because their images could not be read.
        places_file: The table that is valid.
        index_file: The index that is valid.
    """

    is_complete: Literal[True] = True
    num_places: PositiveInt
    descriptor_size: PositiveInt
    local_map_shape: tuple[PositiveInt, PositiveInt, PositiveInt] | None
    index: Annotated[str, one_of(KINDS)]
    places_crc32: str
    removed_rows: list[NonNegativeInt]
    unreadable_images: list[str]
    places_file: FileBeside = FIRST_PLACES
    index_file: FileBeside = FIRST_INDEX

    @model_validator(mode="after")
    def check_removed_rows(self) -> "Manifest":
        """Refuse rows that are not there."""
        highest = max(self.removed_rows, default=-1)
        if highest >= self.num_places:
            raise ValueError(f"must have removed_rows below num_places, which is {self.num_places}, got {highest}")
        return self


def read_manifest(folder: Path) -> BegunManifest:
    """Read the manifest of a database: a `Manifest` where it is complete.

    Args:
        folder: The database.

    Raises:
        PlaceDatabaseError: If there is none, it is damaged or of another version, it lacks an entry, or it names files
            elsewhere.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        version, is_complete = content["schema_version"], content.get("is_complete")
    except FileNotFoundError:
        raise PlaceDatabaseError(f"{folder} is no place database: it has no {MANIFEST}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PlaceDatabaseError(f"{path} cannot be read: {error!r}; build the database again.") from error
    if version != SCHEMA_VERSION:
        raise PlaceDatabaseError(
            f"{folder} has schema version {version}, and this release reads {SCHEMA_VERSION}; build it again, or"
            " install the release that made it."
        )
    try:
        return (Manifest if is_complete is True else BegunManifest).model_validate_json(text)
    except ValidationError as error:
        raise PlaceDatabaseError(
            f"{path} cannot be used: {explain(error)}; fetch or build the database again."
        ) from None


def read_complete_manifest(folder: Path) -> Manifest:
    """Read the manifest of a database that nothing is missing of.

    Args:
        folder: The database.

    Raises:
        PlaceDatabaseError: As `read_manifest` does, or if the build has not come to its end.
    """
    manifest = read_manifest(folder)
    if not isinstance(manifest, Manifest):
        raise PlaceDatabaseError(f"{folder} is not complete; run the same build again and it will go on.")
    return manifest


def write_manifest(folder: Path, manifest: BegunManifest) -> None:
    """Write the manifest of a database, all of it or nothing.

    Args:
        folder: The database.
        manifest: What to write.
    """
    write_text_atomically(folder / MANIFEST, as_text(manifest))


def as_text(manifest: BegunManifest) -> str:
    """Give a manifest as its file holds it.

    Args:
        manifest: What to write.
    """
    return manifest.model_dump_json(indent=2) + "\n"


def describe_settings(model: PeftModel) -> dict[str, Any]:
    """Name everything that a description depends on, as entries of a manifest.

    Args:
        model: A model with a SelaVPR adapter.

    Raises:
        TypeError: If it has none.
    """
    check_adapted(model)
    config = model.active_peft_config
    return {
        "backbone": backbone_fingerprint(model),
        "adapter": adapter_fingerprint(model),
        "position_interpolation": config.position_interpolation,
        "preprocessing": InputForm(image_size=config.image_size, resize=config.resize),
    }


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other writers out of a database while the block runs.

    Args:
        folder: The database; made if it is not there.

    Raises:
        PlaceDatabaseError: If somebody else is writing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise PlaceDatabaseError(
            f"{folder} is being built or changed by another process; wait for it, or stop it."
        ) from None
