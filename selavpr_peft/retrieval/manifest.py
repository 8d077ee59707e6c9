"""The manifest of a place database: its version, how everything in it was made, and whether it is complete.

It also names the table and the index that are valid, so that both change at once when it is replaced.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from peft import PeftModel

from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.files import write_text_atomically
from selavpr_peft.retrieval.fingerprint import adapter_fingerprint, backbone_fingerprint
from selavpr_peft.tuner.model import check_adapted

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
FIRST_FILES = {"places_file": "places.parquet", "index_file": "index.faiss"}
"""Table and index of a database that nothing was added to; a manifest that names none means these."""

OF_A_BUILD = frozenset(
    {
        "adapter",
        "backbone",
        "is_complete",
        "kept_locations",
        "local_dtype",
        "places",
        "position_interpolation",
        "preprocessing",
    }
)
OF_A_DATABASE = OF_A_BUILD | {
    "descriptor_size",
    "index",
    "local_map_shape",
    "num_places",
    "places_crc32",
    "removed_rows",
    "unreadable_images",
}
"""Entries of a manifest from its beginning, and once everything is there."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a database.

    Args:
        folder: The database.

    Raises:
        PlaceDatabaseError: If there is none, it is damaged or of another version, it lacks an entry, or it names files
            elsewhere.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
    except FileNotFoundError:
        raise PlaceDatabaseError(f"{folder} is no place database: it has no {MANIFEST}.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise PlaceDatabaseError(f"{path} cannot be read: {error!r}; build the database again.") from error
    if version != SCHEMA_VERSION:
        raise PlaceDatabaseError(
            f"{folder} has schema version {version}, and this release reads {SCHEMA_VERSION}; build it again, or"
            " install the release that made it."
        )
    missing = (OF_A_DATABASE if manifest.get("is_complete") else OF_A_BUILD) - set(manifest)
    if missing:
        raise PlaceDatabaseError(f"{path} lacks {', '.join(sorted(missing))}; fetch or build the database again.")
    found = FIRST_FILES | manifest
    for name in FIRST_FILES:
        if Path(found[name]).name != found[name]:  # it may come from a stranger, and rebuild_index writes there
            raise PlaceDatabaseError(
                f"{path} must name a file beside it as {name}, got {found[name]!r}; do not use it."
            )
    return found


def read_complete_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a database that nothing is missing of.

    Args:
        folder: The database.

    Raises:
        PlaceDatabaseError: As `read_manifest` does, or if the build has not come to its end.
    """
    manifest = read_manifest(folder)
    if not manifest["is_complete"]:
        raise PlaceDatabaseError(f"{folder} is not complete; run the same build again and it will go on.")
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a database, all of it or nothing.

    Args:
        folder: The database.
        manifest: What to write.
    """
    write_text_atomically(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def describe_settings(model: PeftModel) -> dict[str, Any]:
    """Name everything that a description depends on.

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
        "preprocessing": {"image_size": list(config.image_size), "resize": config.resize},
    }


def kept_grid(manifest: dict[str, Any]) -> tuple[int, int] | None:
    """Give the rows and columns of local features that a database keeps of a map; None where it keeps all.

    Args:
        manifest: Its manifest.
    """
    kept = manifest["kept_locations"]
    return None if kept is None else tuple(kept["grid"])


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
