"""A database of places in one folder: what the images show, where they were taken, and how to search them.

| in the folder | content |
|---|---|
| `manifest.json` | version, how everything was made, which rows were removed, and whether it is complete |
| `places.parquet` | table of the places that could be read: key, image path, position and any other column |
| `descriptors/` | global descriptors, float32 |
| `local_features/` | local features in the form that was chosen |
| `rows/` | which rows of the given table each step has described |
| `index.faiss`, `index.json` | index of the descriptors, and what it is |

After places were added, table and index are called `places-N.parquet`, `index-N.faiss` and `index-N.json`, with N the
number of rows; the manifest says so. Everything has a checksum. Nothing in it is code or pickle.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from peft import PeftModel
from torch import Tensor

from selavpr_peft.data.schema import KEY
from selavpr_peft.errors import PlaceDatabaseError
from selavpr_peft.files import folder_written_at_once
from selavpr_peft.matching import grid_locations, query_form
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.retrieval import building
from selavpr_peft.retrieval.adding import add_places
from selavpr_peft.retrieval.building import ARRAYS, DESCRIPTORS, LOCAL_FEATURES
from selavpr_peft.retrieval.description_form import DescriptionForm, check_stored_dtype
from selavpr_peft.retrieval.index_kinds import check_kind
from selavpr_peft.retrieval.manifest import (
    Manifest,
    describe_settings,
    locked,
    read_complete_manifest,
    read_manifest,
    write_manifest,
)
from selavpr_peft.retrieval.opening import read_tables
from selavpr_peft.retrieval.place_source import place_source
from selavpr_peft.retrieval.publishing import fetch_database, push_database
from selavpr_peft.retrieval.sharded_array import ShardedArray


class PlaceDatabase:
    """A complete database, opened for reading.

    Args:
        folder: A folder that `build` has finished.

    Attributes:
        places: Table of the places, in the order of their rows; removed ones keep theirs.
        manifest: How everything was made.
        index: Index of the descriptors.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open a database; `PlaceDatabase.open` is the same."""
        self.folder = Path(folder)
        manifest, self.places, self.index = read_tables(self.folder)
        num_features = manifest.num_places if manifest.local_map_shape else 0
        self._local_features = building.whole_array(self.folder / LOCAL_FEATURES, num_features)
        self._take_over(manifest)

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
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> "PlaceDatabase":
        """Open a database in a folder, or fetch one from the Hub.

        What is fetched lies in the Hub's cache; `compact` makes a copy of your own.

        Args:
            name: Folder, or dataset repository OWNER/NAME.
            revision: Branch, tag or commit.
            token: Token, or None for the one that was logged in with.
            cache_dir: Cache; None for the usual one.
            local_files_only: Look into the cache only.

        Raises:
            PlaceDatabaseError: If there is no complete, undamaged database of this version.
            HubError: If the Hub cannot be reached or refuses; the message says what to do.
        """
        if Path(name).is_dir():
            return cls(name)
        folder = fetch_database(
            str(name), revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        try:
            return cls(folder)
        except PlaceDatabaseError as error:
            raise PlaceDatabaseError(
                f"{error} It was fetched from {name}; to fetch it again, delete {folder.parents[1]}."
            ) from error

    @classmethod
    def build(
        cls,
        model: PeftModel,
        places: Any,
        folder: str | Path,
        *,
        local_dtype: str = "float16",
        keep_locations: int | None = None,
        index_kind: str | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        is_strict: bool = False,
    ) -> "PlaceDatabase":
        """Describe places and write a database, or go on with one that was interrupted.

        Args:
            model: A model with a SelaVPR adapter, in evaluation mode.
            places: Anything `load_places` takes or gives; its database images. Photographs alone may be a dataset,
                too: one of nothing but `image` and, if they have names, `key`. A streaming dataset is read once, and
                from its beginning again after an interruption; what was described before is not described again.
            folder: Where to write.
            local_dtype: Form of the local features, one of STORED_DTYPES.
            keep_locations: Local features kept of every image, at most, at the points of a grid; None for all.
            index_kind: One of `index_kinds.KINDS`; None chooses by size.
            batch_size: Images per forward pass.
            num_workers: Processes that decode images.
            is_strict: Raise at an unreadable image instead of leaving it out.

        Raises:
            PlaceDatabaseError: If the folder holds a database of other places, another model or other settings, or
                somebody else is building it.
            ValueError: If there is no place, `local_dtype` or `index_kind` is not known, there are too few places for
                that kind, or fewer than one location is to be kept.
            OSError: If the disk is full; the build goes on from there when it is run again.
        """
        check_stored_dtype(local_dtype)
        source = place_source(places)
        if index_kind is not None:
            check_kind(index_kind, source.num_places)
        options = {"batch_size": batch_size, "num_workers": num_workers, "is_strict": is_strict}
        building.build_database(
            model,
            source,
            Path(folder),
            local_dtype=local_dtype,
            keep_locations=keep_locations,
            index_kind=index_kind,
            options=options,
        )
        return cls(folder)

    def __len__(self) -> int:
        """Give the number of places that can be found: those that were not removed."""
        return int(self.index.is_live.sum())

    def __repr__(self) -> str:
        """Tell folder, size and form."""
        shape = self.manifest.local_map_shape
        features = f"{self.local_dtype} local features {'x'.join(map(str, shape))}" if shape else "no local features"
        return f"PlaceDatabase({str(self.folder)!r}: {len(self)} places, {features}, index {self.index.kind})"

    @property
    def has_local_features(self) -> bool:
        """Whether candidates can be re-ranked."""
        return len(self._local_features) > 0

    @property
    def local_dtype(self) -> str:
        """Form of the local features."""
        return self.manifest.local_dtype

    @property
    def local_locations(self) -> Int[Tensor, " N"] | None:
        """Flat locations, in the whole map of an image, of the local features that are kept; None where all are."""
        kept = self.manifest.kept_locations
        return None if kept is None else grid_locations(kept.map_size, kept.grid)

    @property
    def preprocessing(self) -> Preprocessing:
        """How the images were prepared, and queries must be."""
        return Preprocessing(**dict(self.manifest.preprocessing))

    def local_features(self, rows: np.ndarray) -> Num[Tensor, "K H W D"]:
        """Read local features of some places, in the form they were stored in.

        Args:
            rows: Rows of the places.

        Returns:
            Maps; of what was thinned out the remaining grid, which `local_locations` places in the whole map.

        Raises:
            PlaceDatabaseError: If one of them is damaged.
        """
        return torch.from_numpy(self._local_features.read(rows))

    def query_form(self, features: Float[Tensor, "H W C"]) -> Num[Tensor, "h w D"]:
        """Give a query's local features in the form in which they are compared with those of the database.

        Args:
            features: The map of the query: unit vectors.

        Returns:
            At least as fine as what is stored; where locations were thinned out, those of the same kind.
        """
        return query_form(features, self.local_dtype, self.manifest.kept_grid)

    def add(
        self,
        model: PeftModel,
        places: Any,
        *,
        batch_size: int = 16,
        num_workers: int = 0,
        is_strict: bool = False,
    ) -> None:
        """Describe further places and add them, or go on with adding them that was interrupted.

        They get the rows behind those there are, and are described in the same form. Until all of them are there,
        everybody sees the database as it was; databases that are open elsewhere see them by `refresh`. A column that
        only some places have is empty (None) for the others. The index stays of its kind.

        Args:
            model: The model that the database was built with, in evaluation mode.
            places: Anything `build` takes, streaming datasets included.
            batch_size: Images per forward pass.
            num_workers: Processes that decode images.
            is_strict: Raise at an unreadable image instead of leaving it out.

        Raises:
            PlaceDatabaseError: If the model is another, a place has the key of one that is there already, none of the
                images can be read, other places were being added, or somebody else is writing; the database stays as
                it is then.
            DatasetFormatError: If positions are of another kind, or a column cannot take the type that it has in the
                database.
            ValueError: If there is no place.
            OSError: If the disk is full; it goes on from there when it is run again.
        """
        self.check_model(model)
        source = place_source(places)
        options = {"batch_size": batch_size, "num_workers": num_workers, "is_strict": is_strict}
        with locked(self.folder):
            self.refresh()
            add_places(
                model, source, self.folder, self.manifest, self.places, is_live=self.index.is_live, options=options
            )
        self.refresh()

    def remove(self, keys: Iterable[str]) -> None:
        """Never give some places as an answer again.

        Their rows are marked in the manifest, which is written at once; no other file changes, so databases that are
        open elsewhere stay valid and see it by `refresh`. What the places take is given back by `compact`.

        Args:
            keys: Keys of the places.

        Raises:
            PlaceDatabaseError: If there is no place of one of the keys, or somebody else is writing; nothing is
                removed then.
        """
        with locked(self.folder):
            self.refresh()
            rows = self._rows_of(keys)
            removed = sorted({*self.manifest.removed_rows, *rows})
            manifest = self.manifest.model_copy(update={"removed_rows": removed})
            write_manifest(self.folder, manifest)
        self._take_over(manifest)

    def refresh(self) -> None:
        """See places that others have added or removed meanwhile.

        Raises:
            PlaceDatabaseError: If another database has taken its place, or it cannot be read; this one stays as it is
                then.
        """
        found = read_manifest(self.folder)
        differing = [
            name.replace("_", " ")
            for name in (*DescriptionForm.model_fields, "adapter")
            if getattr(found, name) != getattr(self.manifest, name)
        ]
        if differing:
            raise PlaceDatabaseError(
                f"{self.folder} was built anew with another {' and '.join(differing)}; open it again."
            )
        if not isinstance(found, Manifest) or not _has_only_lost(self.manifest, found):
            now = PlaceDatabase(self.folder)
            self._local_features, self.places, self.index = now._local_features, now.places, now.index
            found = now.manifest
        self._take_over(found)

    def compact(self, folder: str | Path) -> "PlaceDatabase":
        """Write a database of the places that were not removed into a new folder; this one stays as it is.

        Args:
            folder: Where to write; appears when everything is complete.

        Raises:
            PlaceDatabaseError: If the folder is not new, no place is left, or one of them is damaged.
        """
        folder = Path(folder)
        if folder.exists():
            raise PlaceDatabaseError(f"{folder} is there already; name a new folder.")
        live = np.flatnonzero(self.index.is_live)
        if not len(live):
            raise PlaceDatabaseError(f"All places of {self.folder} were removed; delete it, or build it again.")
        with folder_written_at_once(folder) as temporary:
            for name in ARRAYS:
                _copy_rows(ShardedArray(self.folder / name), ShardedArray(temporary / name), live)
            places = self.places.select(live).with_format("arrow")[:]
            building.finish_database(
                temporary, places, self.manifest, self.manifest.unreadable_images, self.manifest.index
            )
        return PlaceDatabase(folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        image_root: str | Path | None = None,
        private: bool | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload place database",
    ) -> str:
        """Make a dataset repository hold this database, with a card, in one commit.

        An interrupted push is made again; what was uploaded is not sent twice. Photographs are not uploaded. Paths of
        images that are addresses on the web stay; those below `image_root` become relative to it; others are dropped.

        Args:
            repo_id: Repository, OWNER/NAME; made if it is not there. Other files in it are deleted.
            image_root: Folder that the paths of images become relative to; None drops all that are local.
            private: Whether a new repository is private; None leaves it to the account's settings.
            revision: Branch; made if it is not there. None for the main one.
            token: Token, or None for the one that was logged in with.
            commit_message: Message of the commit.

        Returns:
            Address of the commit.

        Raises:
            PlaceDatabaseError: If places were removed, whose data would be published.
            HubError: If the Hub cannot be reached or refuses; the message says what to do.
        """
        self.refresh()
        if self.manifest.removed_rows:
            raise PlaceDatabaseError(
                f"{self.folder} still holds the data of {len(self.manifest.removed_rows)} removed places, which"
                " would be published; push what compact() makes of it."
            )
        return push_database(
            self.folder,
            self.manifest,
            repo_id,
            image_root=None if image_root is None else Path(image_root),
            private=private,
            revision=revision,
            token=token,
            commit_message=commit_message,
        )

    @staticmethod
    def rebuild_index(folder: str | Path, kind: str | None = None) -> None:
        """Write the index of a database anew from its descriptors, because it is damaged or should be of another kind.

        Args:
            folder: The database; open it again afterwards.
            kind: One of `index_kinds.KINDS`; None for the kind it had.

        Raises:
            PlaceDatabaseError: If there is no complete database, or its descriptors are damaged or missing, too.
            ValueError: If there is no such kind, or there are too few places for it.
        """
        folder = Path(folder)
        with locked(folder):
            manifest = read_complete_manifest(folder)
            if kind is not None:
                check_kind(kind, manifest.num_places)
            index = building.write_index(
                folder / manifest.index_file, manifest.num_places, kind or manifest.index, manifest.adapter
            )
            write_manifest(folder, manifest.model_copy(update={"index": index.kind}))

    def check_model(self, model: PeftModel) -> None:
        """Raise unless a model describes images as those of this database were described.

        Args:
            model: A model with a SelaVPR adapter.

        Raises:
            PlaceDatabaseError: Naming what differs.
        """
        found = describe_settings(model)
        differing = [name for name, value in found.items() if getattr(self.manifest, name) != value]
        if differing:
            raise PlaceDatabaseError(
                f"{self.folder} was built with another {' and '.join(name.replace('_', ' ') for name in differing)};"
                " load the model that it was built with, or build it again with this one."
                + (
                    f" The type of its weights counts, too; here it is {_dtype_of(model)}."
                    if "backbone" in differing
                    else ""
                )
            )

    def damaged_places(self) -> Iterator[tuple[str, str]]:
        """Read everything and name what is damaged.

        Yields:
            Key of a place, and what is wrong with its descriptor or its local features.
        """
        descriptors = ShardedArray(self.folder / DESCRIPTORS, len(self.places))
        for array in (descriptors, self._local_features):
            for row, message in array.damaged_rows():
                yield self.places[row][KEY], message
        for row in range(len(descriptors), len(self.places)):
            yield self.places[row][KEY], f"Row {row} of {descriptors.folder} is missing."

    def _rows_of(self, keys: Iterable[str]) -> list[int]:
        """Look up places that were not removed."""
        names, keys = self.places[KEY][:], list(keys)
        row_of = {names[row]: row for row in np.flatnonzero(self.index.is_live).tolist()}
        unknown = [key for key in keys if key not in row_of]
        if unknown:
            raise PlaceDatabaseError(
                f"{self.folder} has no place {unknown[0]!r}"
                + (f" ({len(unknown)} of {len(keys)} keys are unknown)" if len(unknown) > 1 else "")
                + "; keys are those of its table."
            )
        return [row_of[key] for key in keys]

    def _take_over(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.index.remove(np.array(manifest.removed_rows, dtype=np.int64))


def _dtype_of(model: PeftModel) -> str:
    return str(model.get_base_model().dtype).removeprefix("torch.")


def _has_only_lost(before: Manifest, now: Manifest) -> bool:
    """Tell whether a manifest says nothing else than another one, but that places were removed."""
    is_the_rest_equal = before.model_copy(update={"removed_rows": now.removed_rows}) == now
    return is_the_rest_equal and set(before.removed_rows) <= set(now.removed_rows)


def _copy_rows(source: ShardedArray, target: ShardedArray, rows: np.ndarray) -> None:
    if len(source):
        for start in range(0, len(rows), building.STEP_IMAGES):
            target.append(source.read(rows[start : start + building.STEP_IMAGES]))
