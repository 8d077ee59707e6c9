"""A database of places in one folder: what the images show, where they were taken, and how to search them.

| in the folder | content |
|---|---|
| `manifest.json` | version, how everything was made, and whether it is complete |
| `places.parquet` | table of the places that could be read: key, image path, position and any other column |
| `descriptors/` | global descriptors, float32 |
| `local_features/` | local features in the form that was chosen |
| `rows/` | which rows of the given table each step has described |
| `index.faiss` | index of the descriptors |

It is built step by step. An interrupted build goes on after the last complete step. Nothing in it is code or pickle.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Image
from filelock import FileLock, Timeout
from jaxtyping import Num
from peft import PeftModel
from pyarrow import parquet
from torch import Tensor
from tqdm.auto import tqdm

from selavpr_peft.data.loading import DATABASE, load_places
from selavpr_peft.data.schema import IMAGE, KEY
from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.files import write_atomically, write_text_atomically
from selavpr_peft.matching import quantize_local_features
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.retrieval.descriptor_index import DescriptorIndex, choose_kind
from selavpr_peft.retrieval.encoding import EncodedBatch, encode_places
from selavpr_peft.retrieval.fingerprint import adapter_fingerprint, backbone_fingerprint
from selavpr_peft.retrieval.sharded_array import ShardedArray

SCHEMA_VERSION = 1
STORED_DTYPES = ("float32", "float16", "int8", "binary")
"""Forms of local features that NumPy can store."""

STEP_IMAGES = 64
"""Images described between two points a build can be resumed at; the local features of a step are one shard."""


class PlaceDatabase:
    """A complete database, opened for reading.

    Args:
        folder: A folder that `build` has finished.

    Attributes:
        places: Table of the places, in the order of their rows.
        manifest: How everything was made.
        index: Index of the descriptors.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a database; `PlaceDatabase.open` is the same."""
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder)
        if not self.manifest["is_complete"]:
            raise PlaceDatabaseError(f"{self.folder} is not complete; run the same build again and it will go on.")
        self.places = Dataset(parquet.read_table(self.folder / "places.parquet"))
        self.index = DescriptorIndex.load(self.folder / "index.faiss")
        self._local_features = ShardedArray(self.folder / "local_features")
        if not len(self.places) == len(self.index) == self.manifest["num_places"]:
            raise PlaceDatabaseError(
                f"{self.folder} has {len(self.places)} places and an index of {len(self.index)}, but its manifest says"
                f" {self.manifest['num_places']}; build it again."
            )

    @classmethod
    def open(cls, folder: str | Path) -> "PlaceDatabase":
        """Open a database.

        Args:
            folder: A folder that `build` has finished.

        Raises:
            PlaceDatabaseError: If there is no complete database of this version.
        """
        return cls(folder)

    @classmethod
    def build(
        cls,
        model: PeftModel,
        places: Any,
        folder: str | Path,
        *,
        local_dtype: str = "float16",
        index_kind: str | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        is_strict: bool = False,
    ) -> "PlaceDatabase":
        """Describe places and write a database, or go on with one that was interrupted.

        Args:
            model: A model with a SelaVPR adapter, in evaluation mode.
            places: Anything `load_places` takes; its database images.
            folder: Where to write.
            local_dtype: Form of the local features, one of STORED_DTYPES.
            index_kind: One of `descriptor_index.KINDS`; None chooses by size.
            batch_size: Images per forward pass.
            num_workers: Processes that decode images.
            is_strict: Raise at an unreadable image instead of leaving it out.

        Raises:
            PlaceDatabaseError: If the folder holds a database of other places, another model or other settings, or
                somebody else is building it.
            ValueError: If there is no place, or `local_dtype` is not known.
            OSError: If the disk is full; the build goes on from there when it is run again.
        """
        if local_dtype not in STORED_DTYPES:
            raise ValueError(f"local_dtype must be one of {', '.join(map(repr, STORED_DTYPES))}, got {local_dtype!r}.")
        table = load_places(places)[DATABASE]
        if not len(table):
            raise ValueError("A place database needs at least one image, got none.")
        folder = Path(folder)
        manifest = _describe_settings(model) | {
            "schema_version": SCHEMA_VERSION,
            "local_dtype": local_dtype,
            "places": _digest_of(table),
            "is_complete": False,
        }
        with _locked(folder):
            if _begin(folder, manifest):
                return cls(folder)
            options = {"batch_size": batch_size, "num_workers": num_workers, "is_strict": is_strict}
            unreadable = _describe_steps(model, table, folder, local_dtype, options)
            _finish(folder, table, manifest | {"unreadable_images": unreadable}, index_kind)
        return cls(folder)

    def __len__(self) -> int:
        """Give the number of places."""
        return len(self.places)

    @property
    def has_local_features(self) -> bool:
        """Whether candidates can be re-ranked."""
        return len(self._local_features) > 0

    @property
    def local_dtype(self) -> str:
        """Form of the local features."""
        return str(self.manifest["local_dtype"])

    @property
    def preprocessing(self) -> Preprocessing:
        """How the images were prepared, and queries must be."""
        settings = self.manifest["preprocessing"]
        return Preprocessing(image_size=tuple(settings["image_size"]), resize=settings["resize"])

    def local_features(self, rows: np.ndarray) -> Num[Tensor, "K H W D"]:
        """Read local features of some places, in the form they were stored in.

        Args:
            rows: Rows of the places.

        Raises:
            PlaceDatabaseError: If one of them is damaged.
        """
        return torch.from_numpy(self._local_features.read(rows))

    def check_model(self, model: PeftModel) -> None:
        """Raise unless a model describes images as those of this database were described.

        Args:
            model: A model with a SelaVPR adapter.

        Raises:
            PlaceDatabaseError: Naming what differs.
        """
        found = _describe_settings(model)
        differing = [name for name in found if found[name] != self.manifest.get(name)]
        if differing:
            raise PlaceDatabaseError(
                f"{self.folder} was built with another {' and '.join(name.replace('_', ' ') for name in differing)};"
                " load the model that it was built with, or build it again with this one."
            )

    def damaged_places(self) -> Iterator[tuple[str, str]]:
        """Read everything and name what is damaged.

        Yields:
            Key of a place, and what is wrong with its local features.
        """
        for row, message in self._local_features.damaged_rows():
            yield self.places[row][KEY], message


def _describe_settings(model: PeftModel) -> dict[str, Any]:
    """Name everything that a description depends on."""
    config = model.active_peft_config
    return {
        "backbone": backbone_fingerprint(model),
        "adapter": adapter_fingerprint(model),
        "position_interpolation": config.position_interpolation,
        "preprocessing": {"image_size": list(config.image_size), "resize": config.resize},
    }


def _digest_of(table: Dataset) -> str:
    """Identify the places, so that a build is not continued with others."""
    digest = hashlib.blake2b(digest_size=16)
    for key in table[KEY][:]:
        digest.update(f"{key}\n".encode())
    return digest.hexdigest()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise PlaceDatabaseError(f"{folder} is being built by another process; wait for it, or stop it.") from None


def _begin(folder: Path, manifest: dict[str, Any]) -> bool:
    """Start a database, or check that the one there is the same; True if it is complete already."""
    if not (folder / "manifest.json").is_file():
        others = [path.name for path in folder.iterdir() if path.name != ".lock"]
        if others:
            raise PlaceDatabaseError(
                f"{folder} is no place database but holds {sorted(others)[:3]}; name a new folder."
            )
        _write_manifest(folder, manifest)
        return False
    found = _read_manifest(folder)
    differing = [name for name in manifest if name != "is_complete" and found.get(name) != manifest[name]]
    if differing:
        raise PlaceDatabaseError(
            f"{folder} holds a database with another {' and '.join(differing)}; name another folder, or delete it."
        )
    return bool(found["is_complete"])


def _describe_steps(
    model: PeftModel, table: Dataset, folder: Path, local_dtype: str, options: dict[str, Any]
) -> list[str]:
    """Describe what has not been described yet; gives the images that could not be read."""
    rows, descriptors, features = (ShardedArray(folder / name) for name in ("rows", "descriptors", "local_features"))
    done = rows.num_shards  # written last in a step
    kept = sum(size > 0 for size in rows.shard_sizes)
    descriptors.truncate(kept)
    features.truncate(kept)
    preprocessing = Preprocessing.of(model.active_peft_config)
    starts = range(done * STEP_IMAGES, len(table), STEP_IMAGES)
    for start in tqdm(starts, desc="building", unit=f"{STEP_IMAGES} images", initial=done, total=done + len(starts)):
        part = table.select(range(start, min(start + STEP_IMAGES, len(table))))
        batches = [batch for batch in encode_places(model, part, preprocessing, **options) if batch.rows]
        if batches:
            descriptors.append(np.concatenate([batch.global_descriptors.numpy() for batch in batches]))
            _append_local_features(features, batches, local_dtype)
        rows.append(np.array([start + row for batch in batches for row in batch.rows], dtype=np.int64))
    if not len(rows):
        raise PlaceDatabaseError(f"None of the {len(table)} images can be read; see the messages above.")
    readable = set(rows.read_all().tolist())
    return [key for row, key in enumerate(table[KEY][:]) if row not in readable]


def _append_local_features(features: ShardedArray, batches: list[EncodedBatch], local_dtype: str) -> None:
    forms = [
        quantize_local_features(batch.local_features, local_dtype)
        for batch in batches
        if batch.local_features is not None
    ]
    if forms:
        features.append(torch.cat(forms).numpy())


def _finish(folder: Path, table: Dataset, manifest: dict[str, Any], index_kind: str | None) -> None:
    """Write the table of places and the index, and last the manifest that says so."""
    descriptors = ShardedArray(folder / "descriptors").read_all()
    kept = table.select(ShardedArray(folder / "rows").read_all())
    images = kept.select_columns(IMAGE).cast_column(IMAGE, Image(decode=False))[:][IMAGE]
    places = kept.remove_columns(IMAGE).with_format("arrow")[:]
    places = places.append_column(IMAGE, pa.array([image["path"] for image in images], pa.string()))
    write_atomically(folder / "places.parquet", lambda temporary: parquet.write_table(places, temporary))
    kind = index_kind or choose_kind(*descriptors.shape)
    DescriptorIndex.build(descriptors, kind).save(folder / "index.faiss")
    finished = {"num_places": len(places), "descriptor_size": descriptors.shape[1], "index": kind, "is_complete": True}
    _write_manifest(folder, manifest | finished)


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    write_text_atomically(folder / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
    except FileNotFoundError:
        raise PlaceDatabaseError(f"{folder} is no place database: it has no manifest.json.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise PlaceDatabaseError(f"{path} cannot be read: {error!r}; build the database again.") from error
    if version != SCHEMA_VERSION:
        raise PlaceDatabaseError(
            f"{folder} has schema version {version}, and this release reads {SCHEMA_VERSION}; build it again, or"
            " install the release that made it."
        )
    found: dict[str, Any] = manifest
    return found
